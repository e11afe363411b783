"""How good a bundle is on the test images of a zip: accuracy, recall per class, confusion matrix.

    python -m pipeline.report [--bundle models/starter] [--data data/fashion5.zip]

The zip is unpacked as the stage `unzip` does it, so a test split that was cut is cut here too. The
images go the way that serving goes, bytes through `core.engine.Engine`; torch is not needed.
"""

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from core.bundle import Bundle
from core.engine import Engine
from core.types import Failure
from pipeline import params as params_file
from pipeline.gate import test_images
from pipeline.params import Unzip
from pipeline.stage import StageError, console, shown, told
from pipeline.unzip import IMAGES, unzip

MAX_PIXELS = 100_000_000

_CHUNK = 256  # images in memory at once


@dataclass(frozen=True, slots=True)
class Report:
    """`counts[truth, answer]`: how many test images of one label got which answer."""

    labels: tuple[str, ...]
    counts: Counter[tuple[str, str]]

    @property
    def images(self) -> int:
        """How many images were classified."""
        return self.counts.total()

    @property
    def accuracy(self) -> float:
        """The share of right answers, 0..1."""
        return sum(self.counts[label, label] for label in self.labels) / self.images

    def recall(self, label: str) -> float:
        """The share of this label's images that were found, 0..1."""
        return self.counts[label, label] / sum(self.counts[label, answer] for answer in self.labels)


def report(bundle: Bundle, data: Path, params: Unzip) -> Report:
    """Classify the test images of a zip; raises `StageError` if it cannot be used.

    A file that is no image is left out and named, as `preprocess` does.
    """
    counts: Counter[tuple[str, str]] = Counter()
    workers = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as name, Engine(bundle, workers, MAX_PIXELS) as engine:
        root = Path(name)
        unzip(replace(params, archive=str(data.absolute())), root)
        images = test_images(root)
        _check_labels(bundle, {image.label for image in images}, data)
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK]
            outcomes = engine.classify([image.path.read_bytes() for image in chunk])
            for image, outcome in zip(chunk, outcomes, strict=True):
                if isinstance(outcome, Failure):
                    path = shown(str(image.path.relative_to(root / IMAGES)))
                    console.print(f"left out: {path}: {outcome.detail}", markup=False)
                else:
                    counts[image.label, outcome.label] += 1
    return Report(bundle.labels, counts)


def _check_labels(bundle: Bundle, labels: set[str], data: Path) -> None:
    if labels != set(bundle.labels):
        raise StageError(
            f"{data} has the classes {', '.join(sorted(labels))}; the bundle knows "
            f"{', '.join(bundle.labels)}. Give the zip that it was trained on with --data."
        )


def show(measured: Report, bundle: Bundle, console: Console) -> None:
    """Print the figures: a row per true label, a column per answer."""
    right = sum(measured.counts[label, label] for label in measured.labels)
    console.print(
        f"{bundle.ref.name} {bundle.ref.version}: accuracy {measured.accuracy:.4f} "
        f"({right} of {measured.images} test images)"
    )
    table = Table("true \\ answered", *measured.labels, "recall", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for truth in measured.labels:
        answers = [str(measured.counts[truth, answer]) for answer in measured.labels]
        table.add_row(truth, *answers, f"{measured.recall(truth):.3f}")
    console.print(table)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser("python -m pipeline.report", description=summary)
    parser.add_argument("--bundle", type=Path, default=Path("models/starter"))
    parser.add_argument("--data", type=Path, default=Path("data/fashion5.zip"))
    chosen = parser.parse_args(words)
    with told():
        bundle = Bundle.load(chosen.bundle)
        measured = report(bundle, chosen.data, params_file.read().unzip)
        show(measured, bundle, Console(highlight=False, width=10_000))


if __name__ == "__main__":
    main()
