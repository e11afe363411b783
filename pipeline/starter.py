"""Make the trained candidate the starter that we ship: models/candidate to models/starter."""

from pathlib import Path

from core import bundle
from core.bundle import Bundle, Manifest
from pipeline.export import CANDIDATE
from pipeline.stage import console, told

STARTER = Path("models/starter")


def ship(root: Path = Path()) -> Manifest:
    """Copy a bundle that loads, whole or not at all; raises `BundleError`."""
    manifest = Bundle.load(root / CANDIDATE).manifest
    int8 = root / CANDIDATE / "model.int8.onnx"
    return bundle.write(
        root / STARTER,
        name=manifest.name,
        weights=(root / CANDIDATE / "model.onnx").read_bytes(),
        int8_weights=int8.read_bytes() if manifest.int8_sha256 else None,
        labels=manifest.labels,
        recipe=manifest.recipe,
        temperature=manifest.temperature,
        metrics=manifest.metrics,
        lineage=manifest.lineage,
    )


if __name__ == "__main__":
    with told():
        console.print(f"{STARTER}: {ship().version}")
