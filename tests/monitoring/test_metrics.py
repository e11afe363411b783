"""The metrics by name, as dashboards, alert rules and Prometheus itself see them."""

import math
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from core.bundle import Bundle, Manifest
from core.types import Failure, ImageInfo, LabelScore, ModelRef, Prediction
from monitoring.metrics import (
    ERROR_CODES,
    OTHER,
    SHOWN_LABELS,
    SOURCES,
    STAGES,
    HttpMetrics,
    InboxState,
    Metrics,
)

Scrape = Callable[[], dict[tuple[str, tuple[tuple[str, str], ...]], float]]

# Name and labels, as product.md has them. What is missing there is not made yet.
PROMISED = {
    "pigeonhole_images_total": {"source", "outcome"},
    "pigeonhole_predictions_total": {"label"},
    "pigeonhole_confidence_bucket": {"le"},
    "pigeonhole_stage_duration_seconds_bucket": {"stage", "le"},
    "pigeonhole_drop_to_result_seconds_bucket": {"source", "le"},
    "pigeonhole_batch_images_bucket": {"le"},
    "pigeonhole_inbox_files": set(),
    "pigeonhole_inbox_oldest_file_timestamp_seconds": set(),
    "pigeonhole_watch_events_total": {"source"},
    "pigeonhole_watcher_mode_info": {"mode"},
    "pigeonhole_errors_total": {"code"},
    "pigeonhole_model_info": {"name", "version", "sha256"},
    "pigeonhole_model_reloads_total": {"result"},
    "pigeonhole_http_requests_total": {"method", "route", "status"},
    "pigeonhole_http_request_duration_seconds_bucket": {"method", "route", "le"},
    "pigeonhole_http_request_bytes_total": set(),
    "pigeonhole_http_response_bytes_total": set(),
    "pigeonhole_network_receive_bytes_total": set(),
    "pigeonhole_network_transmit_bytes_total": set(),
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
}


@pytest.fixture
def manifest(rgb_bundle: Path) -> Manifest:
    return Bundle.load(rgb_bundle).manifest


def prediction(label: str = "cat", confidence: float = 0.93) -> Prediction:
    scores = (LabelScore(label, confidence),)
    return Prediction(label, confidence, scores, ModelRef("rgb", "1"), ImageInfo(1, 1, "PNG"))


def series(name: str, /, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


def do_everything(metrics: Metrics, manifest: Manifest) -> None:
    http = HttpMetrics(metrics.registry)
    http.requests.labels("GET", "/v1/results", "200").inc()
    http.duration.labels("GET", "/v1/results").observe(0.1)
    http.received.inc(10)
    http.sent.inc(10)
    metrics.model_loaded(manifest)
    metrics.watcher_mode("native")
    metrics.watch_inbox(lambda: InboxState(3, 1_700_000_000.5))
    metrics.finished(prediction(), "watcher", 0.4)
    metrics.finished(Failure("unreadable_image", "Damaged."), "upload", 0.4)
    metrics.batch(8)
    metrics.stage("infer", 0.01)
    metrics.found("native", 2)


@pytest.mark.parametrize("name", PROMISED)
def test_every_promised_metric_is_there_with_its_labels(
    name: str, metrics: Metrics, scrape: Scrape, manifest: Manifest
) -> None:
    do_everything(metrics, manifest)

    labels = [{label for label, _ in labels} for found, labels in scrape() if found == name]

    assert labels
    assert all(found == PROMISED[name] for found in labels)


def test_every_metric_of_ours_has_our_prefix_and_a_meaning(
    metrics: Metrics, manifest: Manifest
) -> None:
    do_everything(metrics, manifest)

    families = list(metrics.registry.collect())

    assert all(
        family.name.startswith(("pigeonhole_", "process_", "python_")) for family in families
    )
    assert all(family.documentation for family in families)


def test_series_whose_labels_are_known_start_at_zero(scrape: Scrape) -> None:
    found = scrape()

    for source in SOURCES:
        assert found[series("pigeonhole_drop_to_result_seconds_count", source=source)] == 0
        for outcome in ("classified", "quarantined"):
            name = series("pigeonhole_images_total", source=source, outcome=outcome)
            assert found[name] == 0
    for stage in STAGES:
        assert found[series("pigeonhole_stage_duration_seconds_count", stage=stage)] == 0
    for source in ("native", "rescan"):
        assert found[series("pigeonhole_watch_events_total", source=source)] == 0
    for result in ("success", "failure"):
        assert found[series("pigeonhole_model_reloads_total", result=result)] == 0
    for code in ERROR_CODES:
        assert found[series("pigeonhole_errors_total", code=code)] == 0
    assert found[series("pigeonhole_confidence_count")] == 0


def test_a_classified_image_is_counted_once_everywhere(metrics: Metrics, scrape: Scrape) -> None:
    metrics.finished(prediction("dog", 0.93), "watcher", 0.4)

    found = scrape()
    assert found[series("pigeonhole_images_total", source="watcher", outcome="classified")] == 1
    assert found[series("pigeonhole_images_total", source="upload", outcome="classified")] == 0
    assert found[series("pigeonhole_predictions_total", label="dog")] == 1
    assert found[series("pigeonhole_confidence_bucket", le="0.9")] == 0
    assert found[series("pigeonhole_confidence_bucket", le="0.95")] == 1
    assert found[series("pigeonhole_drop_to_result_seconds_sum", source="watcher")] == 0.4


def test_a_failure_is_an_error_by_its_code_and_no_prediction(
    metrics: Metrics, scrape: Scrape
) -> None:
    metrics.finished(Failure("too_large", "Too large."), "upload")

    found = scrape()
    assert found[series("pigeonhole_images_total", source="upload", outcome="quarantined")] == 1
    assert found[series("pigeonhole_errors_total", code="too_large")] == 1
    assert found[series("pigeonhole_confidence_count")] == 0
    assert found[series("pigeonhole_drop_to_result_seconds_count", source="upload")] == 0
    assert not [name for name, _ in found if name == "pigeonhole_predictions_total"]


def test_a_clock_that_was_set_back_makes_no_negative_time(metrics: Metrics, scrape: Scrape) -> None:
    metrics.finished(prediction(), "watcher", -5.0)

    assert scrape()[series("pigeonhole_drop_to_result_seconds_sum", source="watcher")] == 0


# --- labels ----------------------------------------------------------------------------------


def labels_shown(scrape: Scrape) -> dict[str, float]:
    found = scrape().items()
    return {
        labels[0][1]: value
        for (name, labels), value in found
        if name == "pigeonhole_predictions_total"
    }


def test_the_labels_of_a_small_model_start_at_zero(
    metrics: Metrics, scrape: Scrape, manifest: Manifest
) -> None:
    metrics.model_loaded(manifest)

    assert labels_shown(scrape) == {"red": 0, "green": 0, "blue": 0}


def test_a_thousand_labels_are_twenty_series_and_other(
    metrics: Metrics, scrape: Scrape, manifest: Manifest
) -> None:
    labels = tuple(f"class {number}" for number in range(1000))
    metrics.model_loaded(replace(manifest, labels=labels))
    assert labels_shown(scrape) == {OTHER: 0}

    for label in labels:
        metrics.finished(prediction(label), "batch")

    shown = labels_shown(scrape)
    assert len(shown) == SHOWN_LABELS + 1
    assert shown[OTHER] == 1000 - SHOWN_LABELS
    assert sum(shown.values()) == 1000


def test_series_stay_bounded_over_many_models(
    metrics: Metrics, scrape: Scrape, manifest: Manifest
) -> None:
    for number in range(30):
        labels = (f"{number} a", f"{number} b")
        metrics.model_loaded(replace(manifest, labels=labels))
        for label in labels:
            metrics.finished(prediction(label), "batch")

    shown = labels_shown(scrape)
    assert len(shown) == SHOWN_LABELS + 1
    assert sum(shown.values()) == 60


def test_threads_share_the_bound(metrics: Metrics, scrape: Scrape) -> None:
    def count(first: int) -> None:
        for number in range(200):
            metrics.finished(prediction(f"label {(first + number) % 100}"), "batch")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(0, 80, 10)))

    shown = labels_shown(scrape)
    assert len(shown) == SHOWN_LABELS + 1
    assert sum(shown.values()) == 1600


def test_a_label_may_hold_anything(metrics: Metrics, scrape: Scrape) -> None:
    for label in ('quo"te', "back\\slash", "日本語", "{}=,", "a\\nb"):
        metrics.finished(prediction(label), "batch")

    assert set(labels_shown(scrape)) == {'quo"te', "back\\slash", "日本語", "{}=,", "a\\nb"}


# --- states ----------------------------------------------------------------------------------


def test_a_new_model_takes_the_place_of_the_old_one(
    metrics: Metrics, scrape: Scrape, manifest: Manifest
) -> None:
    for version in ("1", "2"):
        metrics.model_loaded(replace(manifest, version=version))
    for mode in ("native", "polling", "polling"):
        metrics.watcher_mode(mode)

    found = scrape()
    infos = [key for key in found if key[0].endswith("_info") and key[0].startswith("pigeonhole")]
    assert sorted(infos) == [
        series(
            "pigeonhole_model_info",
            name=manifest.name,
            version="2",
            sha256=manifest.weights_sha256,
        ),
        series("pigeonhole_watcher_mode_info", mode="polling"),
    ]
    assert found[series("pigeonhole_model_reloads_total", result="success")] == 2


def test_infos_can_be_replaced_while_somebody_scrapes(metrics: Metrics) -> None:
    done = threading.Event()

    def replace_often() -> None:
        for number in range(300):
            metrics.watcher_mode(str(number))
        done.set()

    with ThreadPoolExecutor(1) as pool:
        replacing = pool.submit(replace_often)
        while not done.is_set():
            assert metrics.exposition().count(b"pigeonhole_watcher_mode_info{") <= 1
        replacing.result()


def test_the_inbox_is_looked_at_when_somebody_scrapes(metrics: Metrics, scrape: Scrape) -> None:
    states = [InboxState(0, None), InboxState(7, 1_700_000_000.25)]
    metrics.watch_inbox(states.pop)
    assert len(states) == 2  # nobody has looked yet

    full, empty = scrape(), scrape()

    oldest = series("pigeonhole_inbox_oldest_file_timestamp_seconds")
    assert full[series("pigeonhole_inbox_files")] == 7
    assert full[oldest] == 1_700_000_000.25
    assert empty[series("pigeonhole_inbox_files")] == 0
    assert oldest not in empty  # a file from 1970 would wake somebody up


def test_bytes_of_the_network_only_grow(scrape: Scrape) -> None:
    name = series("pigeonhole_network_receive_bytes_total")

    first, second = scrape()[name], scrape()[name]

    assert 0 <= first <= second
    assert math.isfinite(second)


def test_two_sets_of_metrics_do_not_meet(metrics: Metrics, scrape: Scrape) -> None:
    other = Metrics(CollectorRegistry())
    other.batch(5)

    assert scrape()[series("pigeonhole_batch_images_count")] == 0
    assert other.registry is not metrics.registry


# --- Prometheus ------------------------------------------------------------------------------


def test_promtool_has_nothing_to_say(metrics: Metrics, manifest: Manifest) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NOT TESTED: the exposition; install Debian's package `prometheus`")
    do_everything(metrics, manifest)

    answer = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.exposition(), capture_output=True, check=False
    )

    assert (answer.returncode, answer.stdout + answer.stderr) == (0, b"")
