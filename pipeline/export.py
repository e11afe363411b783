"""Stage 4: the checkpoint becomes a bundle, and proves that it answers the same.

The proof goes over the test split, which is looked at here and only here, when all has been chosen.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from core import bundle
from core.bundle import Bundle
from core.classify import softmax
from core.types import Scores
from pipeline import train
from pipeline.dataset import (
    MANIFEST,
    Indices,
    Split,
    prepared,
    read_labels,
    read_recipe,
    read_split,
)
from pipeline.model import ConvNet
from pipeline.params import Export, Params, to_dict
from pipeline.stage import StageError, console, fresh_file, run

CANDIDATE = Path("models/candidate")
METRICS = Path("metrics/export.json")

INPUT, OUTPUT = "images", "logits"

_FORWARD = 8  # images per forward pass, as serving does it


class Parity(NamedTuple):
    """How far the bundle is from the checkpoint, over the same images."""

    images: int
    max_score_difference: float
    label_flips: int


def export(params: Params, root: Path = Path()) -> None:
    """Write models/candidate and its metrics; raises `StageError` if it answers differently."""
    folder = root / prepared("small")
    labels, recipe, test = read_labels(folder), read_recipe(folder), read_split(folder, "test")
    model = train.load(params.train, recipe, len(labels), root / train.CHECKPOINT)
    logits = train.logits_of(model, test.images).numpy()
    counts = confusion(test.indices, logits.argmax(1), len(labels))
    accuracies = {
        "validation_accuracy": _accuracy(model, read_split(folder, "valid")),
        "test_accuracy": float(counts.trace() / counts.sum()),
    }
    bundle.write(
        root / CANDIDATE,
        name=params.export.name or Path(params.unzip.archive).stem,
        weights=to_onnx(model, recipe.size_px),
        labels=labels,
        recipe=recipe,
        metrics=accuracies,
        lineage=_lineage(params, root),
    )
    measured = parity(softmax(logits), _bundle_scores(root / CANDIDATE, test))
    _write_metrics(root / METRICS, {**accuracies, **measured._asdict()}, labels, counts)
    _check(measured, params.export, root / CANDIDATE)
    console.print(
        f"{CANDIDATE}: test accuracy {accuracies['test_accuracy']:.4f}; against the checkpoint "
        f"scores differ by up to {measured.max_score_difference:.1g} and "
        f"{measured.label_flips} labels flip"
    )


def to_onnx(model: ConvNet, size_px: int) -> bytes:
    """ONNX without side files: `images` (N, S, S, 3) uint8, any N, to `logits` (N, C) float32."""
    example = torch.zeros((2, size_px, size_px, 3), dtype=torch.uint8)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("N")},),
        verbose=False,
    )
    proto = program.model_proto
    _forget_origins(proto.graph)
    onnx.checker.check_model(proto, full_check=True)
    weights: bytes = proto.SerializeToString(deterministic=True)
    return weights


def confusion(truth: Indices, answers: Indices, classes: int) -> NDArray[np.int64]:
    """(C, C) counts: a row per true class, a column per answer."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (truth, answers), 1)
    return counts


def parity(expected: Scores, given: Scores) -> Parity:
    """Compare two (N, C) arrays of scores."""
    flips = int((expected.argmax(1) != given.argmax(1)).sum())
    return Parity(len(expected), float(np.abs(expected - given).max()), flips)


def git_revision(root: Path) -> str | None:
    """The commit, with `-dirty` if code was changed since; None: no git, or no commit yet."""
    head = _git(root, "rev-parse", "--verify", "HEAD")
    if head is None:
        return None
    changed = _git(root, "status", "--porcelain", "--", "core", "pipeline", "params.yaml")
    return f"{head}-dirty" if changed else head


def _accuracy(model: ConvNet, split: Split) -> float:
    answers = train.logits_of(model, split.images).numpy().argmax(1)
    return float((answers == split.indices).mean())


def _bundle_scores(folder: Path, split: Split) -> Scores:
    """What serving will answer: the bundle from disk, in batches as small as serving's."""
    served = Bundle.load(folder)
    parts = [
        served.scores(np.array(split.images[start : start + _FORWARD]))
        for start in range(0, len(split), _FORWARD)
    ]
    return np.concatenate(parts)


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


def _write_metrics(
    path: Path, figures: dict[str, float], labels: list[str], counts: NDArray[np.int64]
) -> None:
    """`confusion`: per true label, how often each label was answered."""
    table = {
        label: dict(zip(labels, row, strict=True))
        for label, row in zip(labels, counts.tolist(), strict=True)
    }
    text = json.dumps({**figures, "confusion": table}, indent=2, ensure_ascii=False)
    fresh_file(path).write_text(text + "\n", "utf-8")


def _lineage(params: Params, root: Path) -> dict[str, Any]:
    """From what this bundle was made: enough to make it again, and to see that it is the same."""
    archive = root / params.unzip.archive
    return {
        "zip_sha256": _digest(archive, "sha256"),
        "zip_md5": _digest(archive, "md5"),  # as dvc.lock names it
        "manifest_sha256": _digest(root / prepared("small") / MANIFEST, "sha256"),
        "git_revision": git_revision(root),
        "seed": params.train.seed,
        "params": to_dict(params),
        "torch_version": str(torch.__version__),
        "onnx_version": onnx.__version__,
    }


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _git(root: Path, *words: str) -> str | None:
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _forget_origins(graph: onnx.GraphProto) -> None:
    """Remove the exporter's notes of the source lines behind each node: they name this machine."""
    for item in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        del item.metadata_props[:]
    for tensor in graph.initializer:
        del tensor.metadata_props[:]


if __name__ == "__main__":
    run(export)
