"""Gauges that are read when somebody scrapes: disk, machine, quality."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core import statistics
from core.bundle import Manifest, read_manifest
from core.types import ImageInfo, ImageRef, InputStatistics, LabelScore, ModelRef, Prediction
from monitoring.metrics import Metrics
from storage.results import Source
from storage.store import Finished, Store

DRIFT = "pigeonhole_drift_score"
Scrape = Callable[[], dict[tuple[str, tuple[tuple[str, str], ...]], float]]


def named(found: dict[tuple[str, tuple[tuple[str, str], ...]], float], name: str) -> list[float]:
    return [value for (sample, _), value in found.items() if sample == name]


def record(store: Store, manifest: Manifest, source: Source, images: int) -> None:
    """Bright images; watchers and API write rows in no other way."""
    model = ModelRef(manifest.name, manifest.version)
    info = ImageInfo(1000, 1000, "PNG", InputStatistics(0.9, 0.2, 0.1, 1.0))
    outcome = Prediction("red", 0.9, (LabelScore("red", 0.9),), model, info)
    now = datetime.now(UTC)
    finished = [Finished(ImageRef("0" * 64, "a.png", 1), outcome, now, 1.0)] * images
    store.record(finished, source=source, model=model, min_confidence=0.5, now=now)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(f"sqlite:///{tmp_path}/p.db")
    yield store
    store.close()


@pytest.fixture
def manifest(rgb_bundle: Path) -> Manifest:
    measured = [InputStatistics(n / 500, 0.2, 0.1, 1.0) for n in range(500)]
    frozen = statistics.reference(["red"] * 250 + ["blue"] * 250, measured)
    return replace(read_manifest(rgb_bundle), lineage={"reference": frozen.to_dict()})


def test_no_counter_has_a_second_series_for_its_birth(scrape: Scrape) -> None:
    assert not [name for name, _ in scrape() if name.endswith("_created")]


def test_the_disk_of_home_has_a_size_and_room(
    metrics: Metrics, scrape: Scrape, tmp_path: Path
) -> None:
    metrics.watch_disk(tmp_path)
    found = scrape()

    (free,) = named(found, "pigeonhole_disk_free_bytes")
    (size,) = named(found, "pigeonhole_disk_size_bytes")
    assert 0 < free < size


def test_a_disk_that_went_away_spoils_no_scrape(
    metrics: Metrics, scrape: Scrape, tmp_path: Path
) -> None:
    metrics.watch_disk(tmp_path / "unmounted")

    assert named(scrape(), "pigeonhole_disk_free_bytes") == []


def test_the_machine_is_there_without_being_asked_for(scrape: Scrape) -> None:
    found = scrape()
    (available,) = named(found, "pigeonhole_machine_memory_available_bytes")
    (memory,) = named(found, "pigeonhole_machine_memory_bytes")

    assert 0 < available < memory
    assert len(named(found, "pigeonhole_machine_cpu_seconds_total")) == 3


def test_errors_that_may_come_are_born_at_zero(metrics: Metrics, scrape: Scrape) -> None:
    metrics.expect_errors(["busy"])

    assert scrape()["pigeonhole_errors_total", (("code", "busy"),)] == 0


def test_the_accuracy_that_a_model_was_promoted_with_is_shown(
    metrics: Metrics, scrape: Scrape, manifest: Manifest
) -> None:
    metrics.model_loaded(manifest)

    assert scrape()["pigeonhole_model_accuracy_ratio", (("split", "test"),)] == 1.0


def test_images_unlike_the_reference_are_drift_for_every_process_alike(
    metrics: Metrics, scrape: Scrape, manifest: Manifest, store: Store
) -> None:
    record(store, manifest, "watcher", 150)
    record(store, manifest, "upload", 50)
    other = Metrics()
    for each in (metrics, other):
        each.model_loaded(manifest)
        each.watch_quality(store.database, 0.01)
    found = scrape()

    drift = {dict(at)["kind"]: score for (name, at), score in found.items() if name == DRIFT}
    assert set(drift) == {"label", *statistics.KINDS}
    assert drift["brightness"] > 0.25
    assert drift["contrast"] == pytest.approx(0)
    seen = other.known_quality(at_once=True)
    assert seen is not None
    assert seen.drift == drift


def test_of_many_labels_the_commonest_of_the_reference_are_shown_by_name(
    metrics: Metrics, scrape: Scrape, manifest: Manifest
) -> None:
    labels = tuple(f"label {number}" for number in range(100))
    common = [label for number, label in enumerate(labels) for _ in range(number)]
    measured = [InputStatistics(0.5, 0.2, 0.1, 1.0)] * len(common)
    frozen = statistics.reference(common, measured)
    lineage = {"reference": frozen.to_dict()}
    metrics.model_loaded(replace(manifest, labels=labels, lineage=lineage))

    shown = {dict(at)["label"] for name, at in scrape() if name == "pigeonhole_predictions_total"}

    assert shown == {*labels[-20:], "other"}


def test_what_the_old_model_was_shown_says_nothing_about_the_new_one(
    metrics: Metrics, scrape: Scrape, manifest: Manifest, store: Store
) -> None:
    record(store, manifest, "watcher", 200)
    metrics.model_loaded(replace(manifest, version="2"))
    metrics.watch_quality(store.database, 0.01)

    assert named(scrape(), DRIFT) == []


def test_without_answers_there_is_no_accuracy_and_nothing_to_review(
    metrics: Metrics, scrape: Scrape, manifest: Manifest, store: Store
) -> None:
    metrics.model_loaded(manifest)
    metrics.watch_quality(store.database, 0.01)
    found = scrape()

    assert named(found, "pigeonhole_estimated_accuracy_ratio") == []
    assert named(found, "pigeonhole_reviewed_accuracy_ratio") == []
    assert named(found, "pigeonhole_audit_waiting_images") == [0]


def test_a_database_that_is_away_takes_no_other_metric_with_it(
    metrics: Metrics, scrape: Scrape, manifest: Manifest, tmp_path: Path
) -> None:
    file = tmp_path / "p.db"
    store = Store.open(f"sqlite:///{file}")
    store.close()
    file.write_bytes(b"this is no database" * 100)
    metrics.model_loaded(manifest)
    metrics.watch_quality(store.database, 0.01)
    found = scrape()
    store.close()

    assert named(found, "pigeonhole_audit_waiting_images") == []
    assert named(found, "pigeonhole_model_info") == [1]
