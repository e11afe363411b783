"""Every metric of the house, in base units, for both processes.

Counters are bumped at the edges. Gauges of state (inbox depth, model) are computed when somebody
scrapes, so they are right after a restart too. Every series whose labels are known starts at 0.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from core.bundle import Manifest
from core.statistics import Reference
from core.types import Failure, Outcome
from monitoring import quality
from storage.database import Database
from storage.outbox import Backlog

log = structlog.get_logger(__name__)
# Else a second series beside each counter, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SOURCES = ("watcher", "upload", "batch")
STAGES = ("settle", "queue", "decode", "infer", "store", "file")
# Series that are born at 1 hide their first error from rate() and increase(); other codes may come.
ERROR_CODES = (
    "empty_file",
    "unsupported_format",
    "unreadable_image",
    "too_many_pixels",
    "too_large",
    "cannot_read",
    "cannot_file",
    "gave_up",
    "paused",
)
SHOWN_LABELS = 20  # a label per class would be 1,000 series for ImageNet; those counts are in SQL
OTHER = "other"

_STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RESULT_BUCKETS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800)
_CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_QUALITY_S = 15.0  # how old an answer out of the database may be


class Metrics:
    """The counters of one process in a registry of its own; an `core.engine.Observer` too."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(_Machine())
        self._images = self._counter("images", "Images that got their row", "source", "outcome")
        self._predictions = self._counter("predictions", "Images per predicted label", "label")
        self._confidence = self._histogram(
            "confidence", "Calibrated score of the predicted label", _CONFIDENCE_BUCKETS
        )
        self._stage = self._histogram(
            "stage_duration_seconds", "Time per stage of the work", _STAGE_BUCKETS_S, "stage"
        )
        self._result = self._histogram(
            "drop_to_result_seconds",
            "From the first sight of a file, or the first byte of an upload, to its committed row",
            _RESULT_BUCKETS_S,
            "source",
        )
        self._batch = self._histogram(
            "batch_images", "Images per forward pass of the model", _BATCH_BUCKETS
        )
        self._watch_events = self._counter(
            "watch_events", "Files found, by what made us look", "source"
        )
        self._errors = self._counter("errors", "Images that failed, and other errors", "code")
        self._overflows = self._counter(
            "watch_overflows", "How often the kernel threw file events away; a scan follows"
        )
        self._reloads = self._counter("model_reloads", "Attempts to load a model", "result")
        self._labels = _BoundedLabels(SHOWN_LABELS)
        self._infos = _Infos()
        self.registry.register(self._infos)
        self._manifest: Manifest | None = None
        self._database: tuple[Database, float] | None = None
        self._qualities = _Quality(self._quality)
        self.registry.register(self._qualities)
        self._start_at_zero()

    def stage(self, name: str, seconds: float) -> None:
        """One image (or one batch, for `infer`, `store` and `file`) took this long."""
        self._stage.labels(name).observe(seconds)

    def batch(self, images: int) -> None:
        """The model ran once over this many images."""
        self._batch.observe(images)

    def finished(self, outcome: Outcome, source: str, seconds: float | None = None) -> None:
        """An image has its row; `seconds` since it arrived, where that is known."""
        if isinstance(outcome, Failure):
            self._images.labels(source, "quarantined").inc()
            self.error(outcome.code)
        else:
            self._images.labels(source, "classified").inc()
            self._predictions.labels(self._labels.bounded(outcome.label)).inc()
            self._confidence.observe(outcome.confidence)
        if seconds is not None:
            self._result.labels(source).observe(max(seconds, 0.0))

    def error(self, code: str) -> None:
        """Something failed; `code` is one of a fixed set, never a stranger's text."""
        self._errors.labels(code).inc()

    def found(self, source: str, files: int) -> None:
        """Files were discovered; `source` is `native` (an event woke us) or `rescan`."""
        self._watch_events.labels(source).inc(files)

    def model_loaded(self, manifest: Manifest) -> None:
        """A bundle serves from now on: its labels get series, and the info metric names it."""
        self._reloads.labels("success").inc()
        self._labels.expect(_commonest(manifest))
        for label in self._labels.known():
            self._predictions.labels(label)
        if len(manifest.labels) > SHOWN_LABELS:
            self._predictions.labels(OTHER)
        self._manifest = manifest
        self._infos.show("model", _model_families(manifest))

    def model_refused(self) -> None:
        """A bundle was promoted that does not load; the one before goes on answering."""
        self._reloads.labels("failure").inc()

    def watcher_mode(self, mode: str) -> None:
        """How the watcher learns of files: `native` or `polling`."""
        meaning = "How the watcher learns of files"
        family = InfoMetricFamily("pigeonhole_watcher_mode", meaning, value={"mode": mode})
        self._infos.show("mode", [family])

    def watcher_paused(self, reason: str | None, reasons: Sequence[str]) -> None:
        """Why no file is taken now: one of `reasons`, or None while work goes on."""
        family = GaugeMetricFamily(
            "pigeonhole_watcher_paused",
            "1 while no file is taken from the inbox, by reason",
            labels=["reason"],
        )
        for each in reasons:
            family.add_metric([each], float(each == reason))
        self._infos.show("paused", [family])

    def overflowed(self, times: int) -> None:
        """The kernel threw file events away so many times."""
        self._overflows.inc(times)

    def scanned(self, now_s: float) -> None:
        """The inbox was listed whole at this Unix time."""
        self._moment("last_scan_timestamp_seconds", "When the inbox was last listed", now_s)

    def heartbeat(self, now_s: float) -> None:
        """The watcher's own picture has passed every stage at this Unix time."""
        self._moment(
            "heartbeat_last_seen_timestamp_seconds",
            "When the watcher's own picture last passed every stage",
            now_s,
        )

    def _moment(self, name: str, meaning: str, now_s: float) -> None:
        """A time of this process's life; no series before the first."""
        self._infos.show(name, [GaugeMetricFamily(f"pigeonhole_{name}", meaning, value=now_s)])

    def watch_inbox(self, look: Callable[[], "InboxState"]) -> None:
        """Read the state of the inbox at every scrape."""
        self.registry.register(_Inbox(look))

    def watch_disk(self, home: Path) -> None:
        """Read how full the disk of HOME is at every scrape."""
        self.registry.register(_Disk(home))

    def watch_quality(self, database: Database, audit_share: float) -> None:
        """Ask the database how good the present model's answers are, at most every 15 s."""
        self._database = (database, audit_share)

    def known_quality(self, *, at_once: bool = False) -> quality.Quality | None:
        """What was last known; `at_once`: not older than 15 s, which may take a while."""
        return self._qualities.look() if at_once else self._qualities.known

    def expect_errors(self, codes: Iterable[str]) -> None:
        """Codes that may come: born at 0, so that rate() sees the first."""
        for code in codes:
            self._errors.labels(code)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _quality(self) -> quality.Quality | None:
        if self._manifest is None or self._database is None:
            return None
        database, audit_share = self._database
        return quality.look(database, self._manifest, audit_share)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"pigeonhole_{name}", meaning, labels, registry=self.registry)

    def _histogram(
        self, name: str, meaning: str, buckets: Sequence[float], *labels: str
    ) -> Histogram:
        return Histogram(
            f"pigeonhole_{name}", meaning, labels, buckets=buckets, registry=self.registry
        )

    def _start_at_zero(self) -> None:
        for source in SOURCES:
            self._result.labels(source)
            for outcome in ("classified", "quarantined"):
                self._images.labels(source, outcome)
        for stage in STAGES:
            self._stage.labels(stage)
        for source in ("native", "rescan"):
            self._watch_events.labels(source)
        for result in ("success", "failure"):
            self._reloads.labels(result)
        for code in ERROR_CODES:
            self._errors.labels(code)


@dataclass(frozen=True, slots=True)
class InboxState:
    """What lies in the inbox now; `oldest_s` is a Unix time."""

    files: int
    oldest_s: float | None


class HttpMetrics:
    """What the API adds: one route template per label, never a path that a client chose."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "pigeonhole_http_requests",
            "HTTP requests answered",
            ("method", "route", "status"),
            registry=registry,
        )
        self.duration = Histogram(
            "pigeonhole_http_request_duration_seconds",
            "From the first byte of the request to the last of the answer",
            ("method", "route"),
            buckets=_STAGE_BUCKETS_S,
            registry=registry,
        )
        self.received = Counter(
            "pigeonhole_http_request_bytes", "Bytes of request bodies", registry=registry
        )
        self.sent = Counter(
            "pigeonhole_http_response_bytes", "Bytes of response bodies", registry=registry
        )


class WebhookMetrics:
    """What the deliverer of a webhook adds; the outbox is asked at every scrape."""

    def __init__(self, registry: CollectorRegistry, ask: Callable[[], Backlog]) -> None:
        self._deliveries = Counter(
            "pigeonhole_webhook_deliveries",
            "Attempts to tell the webhook of a result",
            ("result",),
            registry=registry,
        )
        for result in ("delivered", "failed", "given_up"):
            self._deliveries.labels(result)
        registry.register(_Outbox(ask))

    def told(self, result: str, events: int) -> None:
        """`delivered`, `failed` (it will be tried again) or `given_up`."""
        self._deliveries.labels(result).inc(events)


class _Outbox(Collector):
    def __init__(self, ask: Callable[[], Backlog]) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        events = GaugeMetricFamily(
            "pigeonhole_webhook_events", "Results that the webhook does not know", labels=["state"]
        )
        oldest = GaugeMetricFamily(
            "pigeonhole_webhook_oldest_event_timestamp_seconds",
            "When the oldest of those that wait was recorded",
        )
        try:
            backlog = self._ask()
        except Exception as error:  # noqa: BLE001 - other metrics must not go with it
            log.warning("no answer about the outbox", reason=str(error))
        else:
            events.add_metric(["waiting"], backlog.waiting)
            events.add_metric(["given_up"], backlog.given_up)
            if backlog.oldest_at is not None:
                oldest.add_metric([], backlog.oldest_at.timestamp())
        yield events
        yield oldest


class _BoundedLabels:
    """The first `limit` labels keep their names, the rest are `other`: series stay bounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._shown: dict[str, None] = {}
        self._lock = threading.Lock()

    def expect(self, labels: Sequence[str]) -> None:
        """A model with few labels shows all of them from the start."""
        if len(labels) <= self._limit:
            for label in labels:
                self.bounded(label)

    def known(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._shown)

    def bounded(self, label: str) -> str:
        with self._lock:
            if label in self._shown:
                return label
            if len(self._shown) < self._limit:
                self._shown[label] = None
                return label
        return OTHER


def _commonest(manifest: Manifest) -> Sequence[str]:
    """The labels that get a name of their own: all, or those that the reference has most of."""
    if len(manifest.labels) <= SHOWN_LABELS:
        return manifest.labels
    reference = Reference.of_lineage(manifest.lineage)
    shares = reference.labels if reference else {}
    return sorted(shares, key=lambda label: -shares[label])[:SHOWN_LABELS]


class _Infos(Collector):
    """What is so now; shown anew in one step, so that no scrape finds it missing."""

    def __init__(self) -> None:
        self._shown: dict[str, Sequence[Metric]] = {}

    def show(self, key: str, families: Sequence[Metric]) -> None:
        self._shown = self._shown | {key: families}

    def collect(self) -> Iterator[Metric]:
        for families in self._shown.values():
            yield from families


def _model_families(manifest: Manifest) -> list[Metric]:
    info = InfoMetricFamily(
        "pigeonhole_model",
        "The bundle that answers",
        value={
            "name": manifest.name,
            "version": manifest.version,
            "sha256": manifest.weights_sha256,
        },
    )
    accuracy = GaugeMetricFamily(
        "pigeonhole_model_accuracy_ratio",
        "Accuracy that the bundle was promoted with",
        labels=["split"],
    )
    for split in ("validation", "test"):
        if (value := manifest.metrics.get(f"{split}_accuracy")) is not None:
            accuracy.add_metric([split], value)
    return [info, accuracy]


class _Inbox(Collector):
    def __init__(self, look: Callable[[], InboxState]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        state = self._look()
        yield GaugeMetricFamily(
            "pigeonhole_inbox_files", "Files in the inbox that have no row yet", value=state.files
        )
        oldest = GaugeMetricFamily(
            "pigeonhole_inbox_oldest_file_timestamp_seconds",
            "Arrival of the oldest file that has no row yet",
        )
        if state.oldest_s is not None:
            oldest.add_metric([], state.oldest_s)
        yield oldest


class _Machine(Collector):
    """The whole machine (or container network): one process cannot be told from another.

    Every process of a machine says the same, so take one of them, never their sum.
    """

    def collect(self) -> Iterator[Metric]:
        cards = psutil.net_io_counters(pernic=True).values()
        for way, total in (
            ("receive", sum(card.bytes_recv for card in cards)),
            ("transmit", sum(card.bytes_sent for card in cards)),
        ):
            yield CounterMetricFamily(
                f"pigeonhole_network_{way}_bytes",
                f"Bytes that this machine has seen ({way})",
                value=total,
            )
        spent = psutil.cpu_times()
        cpu = CounterMetricFamily(
            "pigeonhole_machine_cpu_seconds",
            "Time of all cores by what it went to",
            labels=["mode"],
        )
        for mode in ("user", "system", "idle"):
            cpu.add_metric([mode], getattr(spent, mode))
        yield cpu
        memory = psutil.virtual_memory()
        yield GaugeMetricFamily(
            "pigeonhole_machine_memory_bytes", "Memory of this machine", value=memory.total
        )
        yield GaugeMetricFamily(
            "pigeonhole_machine_memory_available_bytes",
            "Memory that could be had without swapping",
            value=memory.available,
        )


class _Disk(Collector):
    def __init__(self, home: Path) -> None:
        self._home = home

    def collect(self) -> Iterator[Metric]:
        size = GaugeMetricFamily("pigeonhole_disk_size_bytes", "Size of the disk of HOME")
        free = GaugeMetricFamily("pigeonhole_disk_free_bytes", "Room that is left for us there")
        try:
            usage = psutil.disk_usage(str(self._home))
        except OSError:
            pass  # /readyz says so
        else:
            size.add_metric([], usage.total)
            free.add_metric([], usage.free)
        yield size
        yield free


class _Quality(Collector):
    """How good the answers are. The database is asked now and then, and what it says is kept.

    Every process is told the same, so take one of them, never their sum.
    """

    def __init__(self, ask: Callable[[], quality.Quality | None]) -> None:
        self._ask = ask
        self.known: quality.Quality | None = None
        self._asked_s = -math.inf
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        known = self.look()
        yield from _estimate_families(
            "estimated",
            "Mean calibrated confidence of the latest answers",
            known.estimated_accuracy if known else None,
        )
        yield from _estimate_families(
            "reviewed",
            "Right answers among those of the audit sample that people looked at",
            known.reviewed_accuracy if known else None,
        )
        waiting = GaugeMetricFamily(
            "pigeonhole_audit_waiting_images", "Results of the audit sample to be looked at"
        )
        if known:
            waiting.add_metric([], known.audit_waiting)
        yield waiting
        drift = GaugeMetricFamily(
            "pigeonhole_drift_score",
            "Population stability index of the latest labels and images against the reference",
            labels=["kind"],
        )
        for kind, score in (known.drift if known else {}).items():
            drift.add_metric([kind], score)
        yield drift

    def look(self) -> quality.Quality | None:
        """Ask if it is time to."""
        with self._lock:
            if time.monotonic() - self._asked_s >= _QUALITY_S:
                try:
                    self.known = self._ask()
                except Exception as error:  # noqa: BLE001 - other metrics must not go with it
                    log.warning("no answer about quality", reason=str(error))
                    self.known = None
                self._asked_s = time.monotonic()
            return self.known


def _estimate_families(
    name: str, meaning: str, estimate: quality.Estimate | None
) -> Iterator[Metric]:
    """`NAME_accuracy_ratio` with its 95 % bounds; no value where nothing can be said."""
    for suffix, what in (("", ""), ("_lower", ": lower bound"), ("_upper", ": upper bound")):
        family = GaugeMetricFamily(f"pigeonhole_{name}_accuracy_ratio{suffix}", meaning + what)
        if estimate is not None:
            family.add_metric([], getattr(estimate, suffix.removeprefix("_") or "value"))
        yield family
