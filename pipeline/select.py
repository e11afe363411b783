"""Stage `select`: the variant to go on with, by the validation images alone; MLflow gets the runs.

Of the variants that are within `select.tolerance` of the best, the one with the fewest
multiplications is taken: a difference that small may be chance, its cost in serving is not.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from pipeline import tracking, variants
from pipeline.dataset import prepared, read_labels, read_split
from pipeline.params import Params
from pipeline.stage import console, fresh_file, run
from pipeline.variants import Variant

SELECTED = Path("models/selected.json")
METRICS = Path("metrics/select.json")


@dataclass(frozen=True, slots=True)
class Selected:
    """The chosen variant, why in one sentence, and its run in MLflow."""

    variant: str
    why: str
    mlflow_run_id: str


def select(params: Params, root: Path = Path()) -> None:
    """Write models/selected.json and metrics/select.json, and the runs to MLflow."""
    trained = [Variant.read(variants.folder_of(root, name)) for name in variants.names(params)]
    chosen = choose(trained, params.select.tolerance)
    why = reason(chosen, trained, params.select.tolerance)
    folder = root / prepared(chosen.prepared)
    run_id = tracking.track(
        root, params, trained, chosen.name, read_labels(folder), _truths(root, trained)
    )
    fresh_file(root / SELECTED).write_text(
        json.dumps({"variant": chosen.name, "why": why, "mlflow_run_id": run_id}, indent=2) + "\n"
    )
    fresh_file(root / METRICS).write_text(
        json.dumps({"validation_accuracy": chosen.validation_accuracy}, indent=2) + "\n"
    )
    _show(trained, root)
    console.print(why, markup=False)


def read(root: Path = Path()) -> Selected:
    """What was chosen."""
    return Selected(**json.loads((root / SELECTED).read_text("utf-8")))


def choose(trained: list[Variant], tolerance: float) -> Variant:
    """The cheapest of those that are nearly the best on valid."""
    best = max(variant.validation_accuracy for variant in trained)
    near = [v for v in trained if v.validation_accuracy >= best - tolerance - 1e-9]
    return min(near, key=lambda v: (v.multiply_adds, -v.validation_accuracy, v.name))


def reason(chosen: Variant, trained: list[Variant], tolerance: float) -> str:
    """The choice in one sentence with its numbers."""
    best = max(trained, key=lambda variant: variant.validation_accuracy)
    said = f"{chosen.name} is chosen: validation accuracy {chosen.validation_accuracy:.4f}"
    if best.validation_accuracy == chosen.validation_accuracy:
        return f"{said}, the best of {len(trained)} variants."
    cheaper = best.multiply_adds / chosen.multiply_adds
    return (
        f"{said}, within {tolerance} of {best.name} ({best.validation_accuracy:.4f}), "
        f"and {cheaper:.1f} times fewer multiplications."
    )


def _truths(root: Path, trained: list[Variant]) -> dict[str, list[int]]:
    """The class indices of the validation images, per recipe."""
    return {
        name: read_split(root / prepared(name), "valid").indices.tolist()
        for name in {variant.prepared for variant in trained}
    }


def _show(trained: list[Variant], root: Path) -> None:
    table = Table("variant", "validation accuracy", "parameters", "MMAC", "seconds", box=None)
    for variant in trained:
        table.add_row(
            variant.name,
            f"{variant.validation_accuracy:.4f}",
            f"{variant.parameters:,}",
            f"{variant.multiply_adds / 1e6:.1f}",
            f"{variants.seconds(root, variant.name):.0f}",
        )
    console.print(table)


if __name__ == "__main__":
    run(select)
