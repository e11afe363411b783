"""Every metric of the house, in base units, for both processes.

Counters are bumped at the edges. Gauges of state (inbox depth, model) are computed when somebody
scrapes, so they are right after a restart too. Every series whose labels are known starts at 0.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import psutil
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
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
from core.types import Failure, Outcome

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


class Metrics:
    """The counters of one process in a registry of its own; an `core.engine.Observer` too."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(_Network())
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
        self._reloads = self._counter("model_reloads", "Attempts to load a model", "result")
        self._labels = _BoundedLabels(SHOWN_LABELS)
        self._infos: dict[str, Collector] = {}
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
        self._labels.expect(manifest.labels)
        for label in self._labels.known():
            self._predictions.labels(label)
        if len(manifest.labels) > SHOWN_LABELS:
            self._predictions.labels(OTHER)
        self._replace("model", _ModelInfo(manifest))

    def watcher_mode(self, mode: str) -> None:
        """How the watcher learns of files: `native` or `polling`."""
        meaning = "How the watcher learns of files"
        self._replace("mode", _Info("pigeonhole_watcher_mode", meaning, {"mode": mode}))

    def watch_inbox(self, look: Callable[[], "InboxState"]) -> None:
        """Read the state of the inbox at every scrape."""
        self.registry.register(_Inbox(look))

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _replace(self, key: str, info: Collector) -> None:
        """Put an info metric in the place of the one before."""
        if key in self._infos:
            self.registry.unregister(self._infos[key])
        self.registry.register(info)
        self._infos[key] = info

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


class _Info(Collector):
    def __init__(self, name: str, meaning: str, values: dict[str, str]) -> None:
        self._metric = InfoMetricFamily(name, meaning, value=values)

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class _ModelInfo(_Info):
    def __init__(self, manifest: Manifest) -> None:
        super().__init__(
            "pigeonhole_model",
            "The bundle that answers",
            {
                "name": manifest.name,
                "version": manifest.version,
                "sha256": manifest.weights_sha256,
            },
        )


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


class _Network(Collector):
    """Bytes over all interfaces of the machine; one process cannot be told from another."""

    def collect(self) -> Iterator[Metric]:
        cards = psutil.net_io_counters(pernic=True).values()
        yield CounterMetricFamily(
            "pigeonhole_network_receive_bytes",
            "Bytes received by this machine",
            value=sum(card.bytes_recv for card in cards),
        )
        yield CounterMetricFamily(
            "pigeonhole_network_transmit_bytes",
            "Bytes sent by this machine",
            value=sum(card.bytes_sent for card in cards),
        )
