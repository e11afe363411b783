"""Stage `export`: the chosen network becomes a bundle, and proves that it answers the same.

The test split is looked at here and only here, when all has been chosen.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core import bundle
from core.bundle import Bundle
from core.classify import softmax
from core.statistics import measure, reference
from core.types import ImageInfo, Scores
from pipeline import (
    calibrate,
    compare,
    figures,
    fit,
    int8,
    lineage,
    networks,
    tracking,
    transfer,
    variants,
)
from pipeline import select as selection
from pipeline import train as training
from pipeline.dataset import (
    MANIFEST,
    Indices,
    Split,
    prepared,
    read_labels,
    read_manifest,
    read_recipe,
    read_split,
)
from pipeline.metrics import accuracy, calibration_error, confusion
from pipeline.params import Export, Int8, Params, to_dict
from pipeline.stage import StageError, console, fresh_file, run
from pipeline.variants import Variant

CANDIDATE = Path("models/candidate")
METRICS = Path("metrics/export.json")
ANSWERS = Path("metrics/answers.csv")
CONFUSION = Path("reports/confusion.png")
CURVES = Path("reports/curves.png")

_FORWARD = 8  # images per forward pass, as serving does it


class Parity(NamedTuple):
    """How far the bundle is from the checkpoint, over the same images."""

    images: int
    max_score_difference: float
    label_flips: int


class Answers(NamedTuple):
    """What one set of weights answers, as scores."""

    valid: Scores
    test: Scores


class _Chosen(NamedTuple):
    """The variant that becomes the bundle, and the images that it is measured on."""

    variant: Variant
    folder: Path
    labels: list[str]
    temperature: float
    valid: Split
    test: Split


def export(params: Params, root: Path = Path()) -> None:
    """Write models/candidate, its metrics, the table of all variants and pictures.

    Raises `StageError`, and leaves no bundle, if it answers differently from the checkpoint.
    """
    chosen = _chosen(root)
    logits = _checkpoint_logits(params, chosen, root)
    weights = variants.onnx_path(chosen.folder).read_bytes()
    small = _int8(weights, chosen, params.export.int8, root)
    _write(params, chosen, weights, None, {}, root)
    served = _answers(root / CANDIDATE, chosen)
    measured = parity(softmax(logits, chosen.temperature), served.test)
    figures_ = {**_figures(served, chosen, params.calibrate.bins), **measured._asdict()}
    if small is not None:
        figures_ |= _int8_figures(params, chosen, weights, small, root)
        small = small if figures_["int8_kept"] else None
    counts = confusion(chosen.test.indices, served.test.argmax(1), len(chosen.labels))
    fresh_file(root / METRICS).write_text(json.dumps(figures_, indent=2) + "\n")
    _write_answers(root / ANSWERS, served.test.argmax(1), chosen)
    _check(measured, params.export, root / CANDIDATE)
    metrics = {k: v for k, v in figures_.items() if k in _OF_BUNDLE}
    manifest = _write(params, chosen, weights, small, metrics, root)
    compare.compare(variants.names(params), chosen.variant.name, root)
    name = chosen.variant.name
    figures.confusion(fresh_file(root / CONFUSION), counts, chosen.labels, f"{name}, test images")
    figures.curves(fresh_file(root / CURVES), variants.history(root, name), name)
    tracking.register(root, selection.read(root).mlflow_run_id, root / CANDIDATE, manifest)
    console.print(
        f"{CANDIDATE}: {name}, test accuracy {figures_['test_accuracy']:.4f}, calibration error "
        f"{figures_['ece']:.4f}; against the checkpoint scores differ by up to "
        f"{measured.max_score_difference:.1g} and {measured.label_flips} labels flip"
    )


_OF_BUNDLE = ("validation_accuracy", "test_accuracy", "ece", "macro_recall", "int8_test_accuracy")


def parity(expected: Scores, given: Scores) -> Parity:
    """Compare two (N, C) arrays of scores."""
    flips = int((expected.argmax(1) != given.argmax(1)).sum())
    return Parity(len(expected), float(np.abs(expected - given).max()), flips)


def _chosen(root: Path) -> _Chosen:
    folder = variants.folder_of(root, selection.read(root).variant)
    variant = Variant.read(folder)
    images = root / prepared(variant.prepared)
    return _Chosen(
        variant=variant,
        folder=folder,
        labels=read_labels(images),
        temperature=calibrate.read(root),
        valid=read_split(images, "valid"),
        test=read_split(images, "test"),
    )


def _checkpoint_logits(params: Params, chosen: _Chosen, root: Path) -> NDArray[np.float32]:
    """What the checkpoint answers to the test images, by torch."""
    logits: NDArray[np.float32] = fit.logits_of(
        load(params, chosen.variant, root), chosen.test.images
    ).numpy()
    return logits


def load(params: Params, variant: Variant, root: Path) -> networks.Classifier:
    """The trained network, ready to answer. Only weights are read: a checkpoint cannot run code."""
    images = root / prepared(variant.prepared)
    name, recipe, classes = variant.name, read_recipe(images), len(read_labels(images))
    if name in params.transfer.run:
        model = transfer.new_model(params.transfer, name, recipe, classes)
    else:
        model = training.new_model(params.train, name, recipe, classes)
    state = training.read_weights(variants.checkpoint_file(variants.folder_of(root, name)))
    model.load_state_dict(state)
    model.eval()
    return model


def _write(
    params: Params,
    chosen: _Chosen,
    weights: bytes,
    int8_weights: bytes | None,
    metrics: dict[str, float],
    root: Path,
) -> bundle.Manifest:
    return bundle.write(
        root / CANDIDATE,
        name=params.export.name or Path(params.unzip.archive).stem,
        weights=weights,
        int8_weights=int8_weights,
        labels=chosen.labels,
        recipe=chosen.variant.recipe,
        temperature=chosen.temperature,
        metrics=metrics,
        lineage=_lineage(params, chosen, root) if metrics else {},
    )


def _answers(folder: Path, chosen: _Chosen) -> Answers:
    served = Bundle.load(folder)
    return Answers(_scores(served, chosen.valid), _scores(served, chosen.test))


def _scores(served: Bundle, split: Split) -> Scores:
    """What serving will answer: the bundle from disk, in batches as small as serving's."""
    parts = [
        served.scores(np.array(split.images[start : start + _FORWARD]))
        for start in range(0, len(split), _FORWARD)
    ]
    return np.concatenate(parts)


def _figures(served: Answers, chosen: _Chosen, bins: int) -> dict[str, Any]:
    truth, answers = chosen.test.indices, served.test.argmax(1)
    counts = confusion(truth, answers, len(chosen.labels))
    recalls = counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
    return {
        "validation_accuracy": accuracy(chosen.valid.indices, served.valid.argmax(1)),
        "test_accuracy": accuracy(truth, answers),
        "macro_recall": float(recalls.mean()),
        "ece": calibration_error(served.test.max(1), answers == truth, bins),
        "variant": chosen.variant.name,
    }


def _int8(weights: bytes, chosen: _Chosen, params: Int8 | None, root: Path) -> bytes | None:
    if params is None or chosen.variant.multiply_adds < params.min_multiply_adds:
        return None
    train = read_split(root / prepared(chosen.variant.prepared), "train")
    step = max(1, len(train) // params.images)  # the classes lie one after another
    return int8.quantised(weights, train.images[::step][: params.images])


def _int8_figures(
    params: Params, chosen: _Chosen, weights: bytes, small: bytes, root: Path
) -> dict[str, Any]:
    """What int8 loses; whether it is kept is decided on valid."""
    assert params.export.int8 is not None  # noqa: S101 - the caller has int8 weights
    _write(params, chosen, weights, small, {}, root)
    served = _answers(root / CANDIDATE, chosen)
    loss = _int8_loss(served, chosen)
    return {
        "int8_validation_accuracy": chosen.variant.validation_accuracy - loss,
        "int8_test_accuracy": accuracy(chosen.test.indices, served.test.argmax(1)),
        "int8_kept": loss <= params.export.int8.max_accuracy_loss,
    }


def _int8_loss(served: Answers, chosen: _Chosen) -> float:
    """Accuracy on valid that is lost against fp32."""
    reached = accuracy(chosen.valid.indices, served.valid.argmax(1))
    return chosen.variant.validation_accuracy - reached


def _check(measured: Parity, limits: Export, candidate: Path) -> None:
    if (
        measured.max_score_difference > limits.max_score_difference
        or measured.label_flips > limits.max_label_flips
    ):
        shutil.rmtree(candidate)
        raise StageError(
            f"the bundle is not the checkpoint: over {measured.images} images scores differ by "
            f"up to {measured.max_score_difference:.2g} (export.max_score_difference is "
            f"{limits.max_score_difference:.2g}) and {measured.label_flips} labels flip "
            f"(export.max_label_flips is {limits.max_label_flips}). The bundle was removed."
        )


def _write_answers(path: Path, answers: Indices, chosen: _Chosen) -> None:
    """A line per test image, from which `dvc plots` draws the confusion matrix."""
    with fresh_file(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("true", "answered"))
        for truth, answer in zip(chosen.test.indices, answers, strict=True):
            writer.writerow((chosen.labels[truth], chosen.labels[answer]))


def _lineage(params: Params, chosen: _Chosen, root: Path) -> dict[str, Any]:
    """The chain from the zip to this bundle, and what images and answers looked like on valid."""
    archive, images = root / params.unzip.archive, root / prepared(chosen.variant.prepared)
    section = params.transfer if chosen.variant.name in params.transfer.run else params.train
    return {
        "zip_sha256": lineage.sha256(archive),
        "zip_md5": lineage.dvc_md5(archive),  # as dvc.lock names it
        "prepared_md5": lineage.dvc_md5(images),
        "manifest_sha256": lineage.sha256(images / MANIFEST),
        "git_revision": lineage.git_revision(root),
        "mlflow_run_id": selection.read(root).mlflow_run_id,
        "variant": chosen.variant.name,
        "why": selection.read(root).why,
        "seed": section.seed,
        "params": to_dict(params),
        "params_sha256": lineage.params_sha256(params),
        "versions": lineage.environment(),
        "reference": _reference(chosen, images),
    }


def _reference(chosen: _Chosen, images: Path) -> dict[str, Any]:
    answers = variants.valid_logits(chosen.folder).argmax(axis=1)
    rows = [row for row in read_manifest(images) if row.split == "valid"]
    measured = [
        measure(np.array(pixels), ImageInfo(int(row.width_px), int(row.height_px), row.format))
        for pixels, row in zip(chosen.valid.images, rows, strict=True)
    ]
    return reference([chosen.labels[index] for index in answers], measured).to_dict()


if __name__ == "__main__":
    run(export)
