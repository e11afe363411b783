"""What Prometheus works out by itself: recording rules, and alerts that say what to do.

`python -m monitoring` writes them to monitoring/prometheus/rules.yml; docs/runbook.md has a section
for each alert.
"""

from dataclasses import dataclass
from typing import Any

import yaml

RUNBOOK = "docs/runbook.md"
JOBS = "api|watcher"
_QUIET = "/livez|/readyz|/metrics"
_OUR_FAULTS = "gave_up|cannot_file|cannot_read|paused"
_WINDOWS = ("5m", "30m", "1h", "6h")
_HEADER = "# Written by `python -m monitoring` from monitoring/rules.py; edit that.\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """When to call somebody. Tests that cannot wait take smaller ones."""

    heartbeat_s: int = 180
    inbox_age_s: int = 300
    budget: float = 0.01  # share of requests and files that we may fail
    least_events: int = 20  # in an hour; with fewer, one failure is a quarter of everything
    drift: float = 0.25
    accuracy_loss: float = 0.05
    disk_share: float = 0.05
    warm_up_s: int = 1200  # what lay in the inbox at the start is found by a scan, and rightly
    patience: float = 1.0  # of how long a thing must last


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule. `page`: now; `ticket`: in working hours."""

    name: str
    expr: str
    for_s: int
    severity: str
    summary: str
    description: str

    def to_dict(self, patience: float) -> dict[str, Any]:
        """As Prometheus reads it."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": f"{round(self.for_s * patience)}s",
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{RUNBOOK}#{self.name.lower()}",
            },
        }


def recordings() -> dict[str, str]:
    """Name to expression: what dashboards ask often, and the shares that the budget is about."""
    per_process = "sum by (job, instance, {labels}) (rate({metric}[5m]))"
    kept = {
        "instance:pigeonhole_images:rate5m": ("pigeonhole_images_total", "source, outcome"),
        "instance:pigeonhole_http_requests:rate5m": (
            "pigeonhole_http_requests_total",
            "method, route, status",
        ),
        "instance:pigeonhole_drop_to_result_seconds_bucket:rate5m": (
            "pigeonhole_drop_to_result_seconds_bucket",
            "source, le",
        ),
        "instance:pigeonhole_http_request_duration_seconds_bucket:rate5m": (
            "pigeonhole_http_request_duration_seconds_bucket",
            "method, route, le",
        ),
    }
    rates = {
        name: per_process.format(metric=metric, labels=labels)
        for name, (metric, labels) in kept.items()
    }
    return rates | {
        f"pigeonhole:failures:ratio_rate{window}": _ratio(window) for window in _WINDOWS
    }


def alerts(limits: Limits) -> list[Alert]:
    """Every alert, the most urgent first."""
    return [
        Alert(
            "HeartbeatLost",
            # Over an hour: the last beat must not be forgotten together with the watcher.
            "time() - max(max_over_time(pigeonhole_heartbeat_last_seen_timestamp_seconds[1h]))"
            f" > {limits.heartbeat_s}"
            # Somebody has said `pigeonhole pause`: the beat stops with everything else.
            ' unless on () max(pigeonhole_watcher_paused{reason="user"}) == 1',
            60,
            "page",
            "No heartbeat has come through for {{ $value | humanizeDuration }}",
            "The watcher's own test image has not become a result: whatever is dropped now is not "
            "sorted either.",
        ),
        Alert(
            "TargetDown",
            # A container that is gone is no longer a target that is down: hence absent().
            f'up{{job=~"{JOBS}"}} == 0 or absent(up{{job="watcher"}}) or absent(up{{job="api"}})',
            60,
            "page",
            "{{ $labels.job }} {{ $labels.instance }} does not answer",
            "Prometheus cannot read its metrics; most likely it does not run.",
        ),
        Alert(
            "InboxAgeHigh",
            f"time() - min(pigeonhole_inbox_oldest_file_timestamp_seconds) > {limits.inbox_age_s}",
            120,
            "page",
            "A file has waited in the inbox for {{ $value | humanizeDuration }}",
            "Files come faster than they are sorted, or one of them cannot be.",
        ),
        Alert("ErrorBudgetBurnFast", _burns(limits, 14.4, "1h", "5m"), 120, "page", *_BURNING),
        Alert("ErrorBudgetBurnSlow", _burns(limits, 6, "6h", "30m"), 900, "ticket", *_BURNING),
        Alert(
            "ModelSplitBrain",
            "count(count by (version) (pigeonhole_model_info)) > 1",
            300,
            "page",
            "{{ $value }} versions of the model answer at the same time",
            "Watcher and API (or two replicas) have loaded different bundles for five minutes.",
        ),
        Alert(
            "ReloadFailed",
            'increase(pigeonhole_model_reloads_total{result="failure"}[15m]) > 0',
            0,
            "ticket",
            "{{ $labels.job }} {{ $labels.instance }} could not load a model",
            "The model before it goes on answering.",
        ),
        Alert(
            "DriftSustained",
            f"max by (kind) (pigeonhole_drift_score) > {limits.drift}",
            3600,
            "ticket",
            "{{ $labels.kind }} has moved away from what the model was made with",
            "Population stability index {{ $value | humanize }} for an hour; "
            f"{limits.drift} and more is another world.",
        ),
        Alert(
            "EstimatedAccuracyLow",
            "max(pigeonhole_estimated_accuracy_ratio_upper)"
            f' < max(pigeonhole_model_accuracy_ratio{{split="test"}}) - {limits.accuracy_loss}',
            1800,
            "ticket",
            "The model is less sure than it was when it was tested",
            "Even the upper bound of the estimated accuracy, {{ $value | humanizePercentage }}, is "
            "well below the accuracy on the test images.",
        ),
        Alert(
            "RescanFoundFiles",
            'increase(pigeonhole_watch_events_total{source="rescan"}[15m]) > 0'
            ' and on (job, instance) pigeonhole_watcher_mode_info{mode="native"}'
            " and on (job, instance)"
            f" time() - process_start_time_seconds > {limits.warm_up_s}",
            0,
            "ticket",
            "{{ $value | humanize }} files were found by a rescan, not by an event",
            "Nothing is lost, but they waited for the rescan: the kernel dropped events.",
        ),
        Alert(
            "DiskLow",
            "min by (instance) (pigeonhole_disk_free_bytes / pigeonhole_disk_size_bytes)"
            f" < {limits.disk_share}",
            300,
            "page",
            "{{ $value | humanizePercentage }} of the disk of PIGEONHOLE_HOME is left",
            "When it is full, files stay in the inbox and uploads are refused.",
        ),
    ]


def render(limits: Limits | None = None, *, interval: str = "30s") -> str:
    """The rule file."""
    limits = limits or Limits()
    groups = [
        {
            "name": "pigeonhole-recordings",
            "interval": interval,
            "rules": [{"record": name, "expr": expr} for name, expr in recordings().items()],
        },
        {
            "name": "pigeonhole-alerts",
            "interval": interval,
            "rules": [alert.to_dict(limits.patience) for alert in alerts(limits)],
        },
    ]
    return _HEADER + yaml.safe_dump({"groups": groups}, sort_keys=False, width=100)


_BURNING = (
    "{{ $value | humanizePercentage }} of requests and files fail through our fault",
    "At this rate the month's budget of failures is gone in days or hours.",
)


def _ratio(window: str) -> str:
    """Server errors and files that we could not handle, by all requests and files."""
    failed = (
        f'(sum(rate(pigeonhole_http_requests_total{{status=~"5.."}}[{window}])) or vector(0))'
        f' + (sum(rate(pigeonhole_errors_total{{code=~"{_OUR_FAULTS}"}}[{window}])) or vector(0))'
    )
    return f"({failed}) / ({_all(window, 'rate')} > 0)"


def _all(window: str, function: str) -> str:
    requests = f'pigeonhole_http_requests_total{{route!~"{_QUIET}"}}'
    images = 'pigeonhole_images_total{source="watcher"}'
    return (
        f"((sum({function}({requests}[{window}])) or vector(0))"
        f" + (sum({function}({images}[{window}])) or vector(0)))"
    )


def _burns(limits: Limits, factor: float, long: str, short: str) -> str:
    """The budget burns `factor` times too fast, over both windows, and not over a handful."""
    limit = f"{factor * limits.budget:g}"
    return (
        f"pigeonhole:failures:ratio_rate{long} > {limit}"
        f" and pigeonhole:failures:ratio_rate{short} > {limit}"
        f" and {_all('1h', 'increase')} > {limits.least_events}"
    )
