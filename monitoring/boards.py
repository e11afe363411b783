"""Our four Grafana dashboards. `python -m monitoring` writes them as JSON that Grafana loads.

Rates use `$__rate_interval`, counters are summed over replicas, and what is true of a whole machine
is taken once per instance.
"""

from dataclasses import replace

from monitoring.dashboard import Dashboard, Panel, Query

IMAGES_PER_S, PER_S = "suffix:img/s", "suffix:/s"
_ASKED = ', route!~"/livez|/readyz|/metrics"'  # what people ask, not what probes do


def dashboards() -> list[Dashboard]:
    """All of them."""
    return [
        Dashboard(
            "throughput",
            "Pigeonhole: throughput",
            "What comes in, how long it takes, and what becomes of it.",
            {"Now": _flow_now(), "Flow": _flow(), "Inside": _inside(), "Answers": _answers()},
        ),
        Dashboard(
            "api",
            "Pigeonhole: API",
            "Rate, errors, duration and sizes of requests, summed over the replicas.",
            {"Now": _api_now(), "Requests": _requests(), "Sizes and replicas": _sizes()},
        ),
        Dashboard(
            "model",
            "Pigeonhole: model",
            "Which model answers, how sure it is, how right it is, and whether its world changed.",
            {
                "Now": _model_now(),
                "Accuracy": _accuracy(),
                "Drift": _drift(),
                "Operation": _model_operation(),
            },
            since="now-24h",
        ),
        Dashboard(
            "machine",
            "Pigeonhole: machine",
            "Processor, memory, network and disk: of our processes, and of the machine below.",
            {"Our processes": _processes(), "The machine": _machine()},
        ),
    ]


# --- throughput ----------------------------------------------------------------------------------


def _flow_now() -> list[Panel]:
    stats = [
        _stat(
            "Images per second",
            "Images that got their row, over five minutes and all replicas.",
            IMAGES_PER_S,
            "sum(instance:pigeonhole_images:rate5m{@})",
        ),
        _stat(
            "In the inbox",
            "Files that have no row yet.",
            "short",
            "max(pigeonhole_inbox_files{@})",
            (("orange", 100), ("red", 1000)),
        ),
        _stat(
            "Oldest file",
            "How long the oldest file in the inbox has waited; 0 when it is empty.",
            "s",
            _OLDEST,
            (("orange", 60), ("red", 300)),
        ),
        _stat(
            "Result within",
            "95 of 100 images have their row within this time; settling included.",
            "s",
            "histogram_quantile(0.95, sum by (le)"
            " (instance:pigeonhole_drop_to_result_seconds_bucket:rate5m{@}))",
        ),
        _stat(
            "Quarantined, 24 h",
            "Files that could not be classified; each has its reason beside it.",
            "short",
            'round(sum(increase(pigeonhole_images_total{@, outcome="quarantined"}[24h])))',
            (("orange", 1),),
        ),
        _stat(
            "Found by rescan, 24 h",
            "Files that no event announced. Long after the start: the kernel lost events.",
            "short",
            'round(sum(increase(pigeonhole_watch_events_total{@, source="rescan"}[24h])))',
        ),
        _stat(
            "Last heartbeat",
            "How long ago the watcher's own picture passed every stage; an alert follows above "
            "three minutes.",
            "s",
            "time() - max(pigeonhole_heartbeat_last_seen_timestamp_seconds{@})",
            (("orange", 90), ("red", 180)),
        ),
        _stat(
            "Paused",
            "1 while the watcher takes no file; `pigeonhole status` says why.",
            "short",
            "max(pigeonhole_watcher_paused{@})",
            (("orange", 1),),
        ),
    ]
    return [replace(stat, width=6, height=3) for stat in stats]


def _flow() -> list[Panel]:
    return [
        Panel(
            "Images per second by source",
            "Rows written, by how the image came in.",
            IMAGES_PER_S,
            [Query(_rate("images_total", "source"), "{{source}}")],
            is_stacked=True,
        ),
        Panel(
            "Outcomes",
            "Every image ends as exactly one of these.",
            IMAGES_PER_S,
            [Query(_rate("images_total", "outcome"), "{{outcome}}")],
            is_stacked=True,
        ),
        Panel(
            "Inbox",
            "Files without a row. A line that only climbs is a jam.",
            "short",
            [Query("max by (instance) (pigeonhole_inbox_files{@})", "{{instance}}")],
        ),
        Panel(
            "Drop to result",
            "From the first sight of a file, or the first byte of an upload, to its row.",
            "s",
            [
                Query(
                    _quantile(share, "drop_to_result_seconds", "source"), f"{{{{source}}}} {name}"
                )
                for name, share in (("p50", 0.5), ("p95", 0.95))
            ],
        ),
        Panel(
            "Age of the oldest file",
            "An alert follows above five minutes.",
            "s",
            [Query(_OLDEST, "oldest")],
            steps=[("red", 300)],
        ),
        Panel(
            "Errors by code",
            "Quarantined images and faults of ours; docs/rest.md says what each means.",
            PER_S,
            [Query(f"{_rate('errors_total', 'code')} > 0", "{{code}}")],
            is_stacked=True,
        ),
    ]


def _inside() -> list[Panel]:
    return [
        Panel(
            "Time per stage",
            "Mean time: of an image for settle, queue and decode, of a batch for the others.",
            "s",
            [Query(_mean("stage_duration_seconds", "stage"), "{{stage}}")],
        ),
        Panel(
            "Images per forward pass",
            "Larger under load: the engine takes what waits.",
            "short",
            [
                Query(_mean("batch_images"), "mean"),
                Query(_quantile(0.95, "batch_images"), "p95"),
            ],
        ),
        Panel(
            "Found by",
            "Native: an event told us. Rescan: we looked by ourselves.",
            PER_S,
            [Query(_rate("watch_events_total", "source"), "{{source}}")],
            is_stacked=True,
        ),
    ]


def _answers() -> list[Panel]:
    return [
        Panel(
            "Labels over time",
            "Predicted labels; the commonest by name, the rest as other.",
            IMAGES_PER_S,
            [Query(_rate("predictions_total", "label"), "{{label}}")],
            is_stacked=True,
            width=12,
        ),
        Panel(
            "Confidence",
            "Calibrated score of the predicted label: half of all images lie above the median, "
            "nine of ten above p10.",
            "percentunit",
            [
                Query(_quantile(0.5, "confidence"), "median"),
                Query(_quantile(0.1, "confidence"), "p10"),
            ],
            width=12,
            most=1,
        ),
    ]


# --- API -----------------------------------------------------------------------------------------


def _api_now() -> list[Panel]:
    requests = "instance:pigeonhole_http_requests:rate5m"
    duration = "instance:pigeonhole_http_request_duration_seconds_bucket:rate5m"
    return [
        _stat(
            "Requests per second",
            "Over five minutes; health checks and scrapes left out.",
            "reqps",
            f"sum({requests}{{@{_ASKED}}})",
        ),
        _stat(
            "Server errors",
            "Share of requests answered with 5xx, over five minutes.",
            "percentunit",
            f'(sum({requests}{{@, status=~"5.."}}) or vector(0)) / sum({requests}{{@}})',
            (("orange", 0.01), ("red", 0.05)),
        ),
        _stat(
            "Answered within",
            "95 of 100 requests are answered within this time.",
            "s",
            f"histogram_quantile(0.95, sum by (le) ({duration}{{@{_ASKED}}}))",
        ),
        _stat(
            "Replicas",
            "API processes that Prometheus can read.",
            "short",
            "count(pigeonhole_http_response_bytes_total{@})",
        ),
        _stat(
            "Failed by us, 1 h",
            "Share of requests and files that failed through our fault; the budget is 1 %.",
            "percentunit",
            "pigeonhole:failures:ratio_rate1h or vector(0)",
            (("orange", 0.01), ("red", 0.06)),
        ),
        _stat(
            "Youngest replica",
            "Time since the last start: a small number over and over is a crash loop.",
            "s",
            'min(time() - process_start_time_seconds{@, job="api"})',
        ),
    ]


def _requests() -> list[Panel]:
    return [
        Panel(
            "Rate by route",
            "Requests per second by route template.",
            "reqps",
            [Query(_rate("http_requests_total", "method, route", _ASKED), "{{method}} {{route}}")],
            is_stacked=True,
            width=12,
        ),
        Panel(
            "Rate by status",
            "4xx is the caller's, 5xx is ours.",
            "reqps",
            [Query(_rate("http_requests_total", "status", _ASKED), "{{status}}")],
            is_stacked=True,
            width=12,
        ),
        Panel(
            "Duration by route",
            "95 of 100 requests of a route are answered within this time.",
            "s",
            [Query(_quantile(0.95, _DURATION, "method, route", _ASKED), "{{method}} {{route}}")],
            width=12,
        ),
        Panel(
            "Duration",
            "All routes, health checks and scrapes left out.",
            "s",
            [
                Query(_quantile(share, _DURATION, "", _ASKED), name)
                for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
            ],
            width=12,
        ),
    ]


def _sizes() -> list[Panel]:
    received, sent = _rate("http_request_bytes_total"), _rate("http_response_bytes_total")
    requests = f"({_rate('http_requests_total')} > 0)"
    return [
        Panel(
            "Bodies",
            "Bytes per second of request and response bodies.",
            "Bps",
            [Query(received, "received"), Query(sent, "sent")],
        ),
        Panel(
            "Bytes per request",
            "Mean size of a body; of all requests, health checks included.",
            "bytes",
            [Query(f"{received} / {requests}", "received"), Query(f"{sent} / {requests}", "sent")],
        ),
        Panel(
            "Requests per replica",
            "An even spread, if something in front spreads them.",
            "reqps",
            [Query(_rate("http_requests_total", "instance", _ASKED), "{{instance}}")],
            is_stacked=True,
        ),
    ]


# --- model ---------------------------------------------------------------------------------------


def _model_now() -> list[Panel]:
    return [
        Panel(
            "Versions that answer",
            "More than one for longer than a reload takes is a split brain.",
            "short",
            [
                Query(
                    "count by (name, version, job) (pigeonhole_model_info{@})",
                    "{{name}} {{version}} ({{job}})",
                )
            ],
            kind="stat",
            width=12,
            height=4,
        ),
        _stat(
            "Estimated accuracy",
            "Mean calibrated confidence of the last 1,000 answers; from 100 on.",
            "percentunit",
            "max(pigeonhole_estimated_accuracy_ratio{@})",
        ),
        _stat(
            "Accuracy when tested",
            "On the test images, when the model was promoted.",
            "percentunit",
            'max(pigeonhole_model_accuracy_ratio{@, split="test"})',
        ),
        _stat(
            "Failed reloads, 24 h",
            "The model before goes on answering.",
            "short",
            'round(sum(increase(pigeonhole_model_reloads_total{@, result="failure"}[24h])))',
            (("orange", 1),),
        ),
    ]


def _accuracy() -> list[Panel]:
    return [
        Panel(
            "Estimated accuracy, without labels",
            "With its 95 % interval. Right only while the calibration holds: compare it with the "
            "reviewed accuracy.",
            "percentunit",
            _with_bounds("pigeonhole_estimated_accuracy_ratio"),
            width=12,
            least=None,
            most=1,
        ),
        Panel(
            "Reviewed accuracy, from the audit sample",
            "What people said of a random sample, with Wilson's 95 % interval.",
            "percentunit",
            _with_bounds("pigeonhole_reviewed_accuracy_ratio"),
            width=12,
            least=None,
            most=1,
        ),
    ]


def _drift() -> list[Panel]:
    return [
        Panel(
            "Drift",
            "Population stability index of labels and images against the model's reference: "
            "below 0.1 is noise, above 0.25 is another world.",
            "short",
            [Query("max by (kind) (pigeonhole_drift_score{@})", "{{kind}}")],
            steps=[("red", 0.25)],
        ),
        Panel(
            "Confidence",
            "Share of answers below each confidence.",
            "percentunit",
            [
                Query(
                    _rate("confidence_bucket", "", f', le="{bound}"')
                    + f" / ({_rate('confidence_count')} > 0)",
                    f"below {bound}",
                )
                for bound in ("0.5", "0.7", "0.9")
            ],
            most=1,
        ),
        Panel(
            "Labels, last hour",
            "Predicted labels; the commonest by name, the rest as other.",
            "short",
            [
                Query(
                    "sort_desc(round(sum by (label)"
                    " (increase(pigeonhole_predictions_total{@}[1h]))))",
                    "{{label}}",
                )
            ],
            kind="bargauge",
        ),
    ]


def _model_operation() -> list[Panel]:
    return [
        Panel(
            "Forward pass",
            "Time of one run of the model over a batch.",
            "s",
            [
                Query(_quantile(share, "stage_duration_seconds", "", ', stage="infer"'), name)
                for name, share in (("p50", 0.5), ("p95", 0.95))
            ],
        ),
        Panel(
            "Reloads",
            "Attempts to load a model, each process for itself.",
            "short",
            [
                Query(
                    "sum by (job, result) (increase(pigeonhole_model_reloads_total{@}"
                    "[$__rate_interval]))",
                    "{{job}} {{result}}",
                )
            ],
        ),
        Panel(
            "Audit sample to be reviewed",
            "Results drawn at random that nobody has looked at yet.",
            "short",
            [Query("max(pigeonhole_audit_waiting_images{@})", "waiting")],
        ),
    ]


# --- machine -------------------------------------------------------------------------------------


def _processes() -> list[Panel]:
    legend = "{{job}} {{instance}}"
    return [
        Panel(
            "CPU",
            "Cores that each process keeps busy.",
            "short",
            [
                Query(
                    "sum by (job, instance) (rate(process_cpu_seconds_total{@}[$__rate_interval]))",
                    legend,
                )
            ],
        ),
        Panel(
            "Memory",
            "Resident memory of each process.",
            "bytes",
            [Query("sum by (job, instance) (process_resident_memory_bytes{@})", legend)],
        ),
        Panel(
            "Open files",
            "A line that only climbs is a leak.",
            "short",
            [Query("sum by (job, instance) (process_open_fds{@})", legend)],
        ),
    ]


def _machine() -> list[Panel]:
    cpu = "rate(pigeonhole_machine_cpu_seconds_total{@%s}[$__rate_interval])"
    return [
        Panel(
            "CPU of the machine",
            "Share of all cores; in a container, of the whole host.",
            "percentunit",
            [
                Query(
                    "sum by (instance, mode) ("
                    + cpu % ', mode!="idle"'
                    + f") / on (instance) group_left sum by (instance) ({cpu % ''})",
                    "{{instance}} {{mode}}",
                )
            ],
            most=1,
        ),
        Panel(
            "Memory of the machine",
            "What could be had without swapping, and all there is.",
            "bytes",
            [
                Query(f"max by (instance) (pigeonhole_machine_memory{name}_bytes{{@}})", legend)
                for name, legend in (
                    ("_available", "{{instance}} available"),
                    ("", "{{instance}} all"),
                )
            ],
        ),
        Panel(
            "Network",
            "All interfaces of the machine, or of the container's own network.",
            "Bps",
            [
                Query(
                    f"max by (instance) (rate(pigeonhole_network_{way}_bytes_total{{@}}"
                    "[$__rate_interval]))",
                    f"{{{{instance}}}} {way}",
                )
                for way in ("receive", "transmit")
            ],
        ),
        Panel(
            "Disk of PIGEONHOLE_HOME",
            "Share that is left for us; an alert follows below 5 %.",
            "percentunit",
            [
                Query(
                    "min by (instance) (pigeonhole_disk_free_bytes{@}"
                    " / pigeonhole_disk_size_bytes{@})",
                    "{{instance}}",
                )
            ],
            width=12,
            most=1,
        ),
        Panel(
            "Targets",
            "1: Prometheus can read its metrics; 0: it cannot.",
            "short",
            [Query("min by (job, instance) (up{@})", "{{job}} {{instance}}")],
            width=12,
            most=1,
        ),
    ]


# --- words of PromQL that come again -------------------------------------------------------------

_DURATION = "http_request_duration_seconds"
_OLDEST = (
    "max(time() - pigeonhole_inbox_oldest_file_timestamp_seconds{@})"
    " or max(0 * pigeonhole_inbox_files{@})"
)


def _stat(
    title: str, description: str, unit: str, expr: str, steps: tuple[tuple[str, float], ...] = ()
) -> Panel:
    return Panel(
        title, description, unit, [Query(expr, title)], "stat", width=4, height=4, steps=steps
    )


def _rate(metric: str, by: str = "", more: str = "") -> str:
    labels = f" by ({by})" if by else ""
    return f"sum{labels} (rate(pigeonhole_{metric}{{@{more}}}[$__rate_interval]))"


def _quantile(share: float, histogram: str, by: str = "", more: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    # A time in which nothing happened has no quantile: a gap, not a NaN that spoils the picture.
    return f"histogram_quantile({share}, {_rate(f'{histogram}_bucket', labels, more)}) >= 0"


def _mean(histogram: str, by: str = "") -> str:
    return f"{_rate(f'{histogram}_sum', by)} / ({_rate(f'{histogram}_count', by)} > 0)"


def _with_bounds(metric: str) -> list[Query]:
    return [
        Query(f"max({metric}{suffix}{{@}})", legend)
        for suffix, legend in (("", "estimate"), ("_lower", "lower"), ("_upper", "upper"))
    ]
