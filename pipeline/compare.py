"""The table of all variants: what each reached and what it costs. Export writes it for people."""

import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline import onnx_file, variants
from pipeline.dataset import Split, prepared, read_split
from pipeline.metrics import accuracy
from pipeline.stage import fresh_file
from pipeline.variants import Variant

METRICS = Path("metrics/variants.json")
TABLE = Path("reports/variants.md")

_TIMED = 30  # images whose time is taken, one at a time on one thread
_HEAD = (
    "| variant | validation accuracy | test accuracy | parameters | million multiply-adds "
    "| seconds to train | ms per image |"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One variant; `ms_per_image`: ONNX Runtime, fp32, one thread, one image, median."""

    variant: str
    validation_accuracy: float
    test_accuracy: float
    parameters: int
    multiply_adds: int
    seconds: float
    ms_per_image: float


def compare(names: list[str], chosen: str, root: Path) -> list[Row]:
    """Measure every variant on test, for the record; write metrics/variants.json and the table."""
    trained = [Variant.read(variants.folder_of(root, name)) for name in names]
    tests = {
        recipe: read_split(root / prepared(recipe), "test")
        for recipe in {variant.prepared for variant in trained}
    }
    rows = [_row(variant, tests[variant.prepared], root) for variant in trained]
    figures = {row.variant: asdict(row) for row in rows}
    fresh_file(root / METRICS).write_text(json.dumps(figures, indent=2) + "\n")
    fresh_file(root / TABLE).write_text(_table(rows, chosen), "utf-8")
    return rows


def _row(variant: Variant, test: Split, root: Path) -> Row:
    weights = variants.onnx_path(variants.folder_of(root, variant.name)).read_bytes()
    many = onnx_file.session(weights, threads=os.cpu_count() or 1)
    answers = onnx_file.run(many, test.images).argmax(axis=1)
    session = onnx_file.session(weights)
    times_ms = []
    for image in test.images[:_TIMED]:
        one = np.ascontiguousarray(image[None])
        started = time.perf_counter()
        onnx_file.run(session, one)
        times_ms.append((time.perf_counter() - started) * 1000)
    return Row(
        variant=variant.name,
        validation_accuracy=variant.validation_accuracy,
        test_accuracy=accuracy(test.indices, answers),
        parameters=variant.parameters,
        multiply_adds=variant.multiply_adds,
        seconds=variants.seconds(root, variant.name),
        ms_per_image=round(statistics.median(times_ms), 2),
    )


def _table(rows: list[Row], chosen: str) -> str:
    """Markdown; the chosen variant is bold."""
    lines = [_HEAD, "|---|" + "---:|" * 6]
    for row in rows:
        name = f"**{row.variant}**" if row.variant == chosen else row.variant
        lines.append(
            f"| {name} | {row.validation_accuracy:.4f} | {row.test_accuracy:.4f} "
            f"| {row.parameters:,} | {row.multiply_adds / 1e6:.1f} | {row.seconds:.0f} "
            f"| {row.ms_per_image:.2f} |"
        )
    return "\n".join(lines) + "\n"
