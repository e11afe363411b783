"""(f) images prepared for training, per second: our function, and torchvision's transforms.

`python -m benchmarks.preparing WHO FOLDER` measures one of them, a process per core.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import interleaved

SIDE_PX = 224
_MAX_PIXELS = 10**8
_REPEATED = 8  # each folder so often: a process must have something to do


def preparing(
    photos: Sequence[bytes], large: Sequence[bytes], *, quick: bool
) -> dict[str, dict[str, float]]:
    """Images per second by kind of photo."""
    found = {}
    for kind, files in (("photographs", photos), ("12 megapixels", large)):
        with tempfile.TemporaryDirectory() as scratch:
            label = Path(scratch) / "label"
            label.mkdir()
            for number, data in enumerate(files):
                (label / f"{number:05}.jpg").write_bytes(data)
            who = ("Pigeonhole",) if quick else ("Pigeonhole", "torchvision")
            runs = {name: lambda name=name: _run(name, scratch) for name in who}
            found[kind] = interleaved(1 if quick else 3, runs)
    return found


def _run(who: str, folder: str) -> float:
    command = [sys.executable, "-m", "benchmarks.preparing", who, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def prepared(path: Path) -> int:
    """One image as the pipeline's stage prepares it; returns its bytes."""
    from core.image import preprocess  # noqa: PLC0415 - torchvision's run does not need it
    from core.recipe import Recipe  # noqa: PLC0415

    recipe = Recipe(SIDE_PX, (0.5,) * 3, (0.5,) * 3)
    return preprocess(path.read_bytes(), recipe, _MAX_PIXELS)[0].nbytes


def _ours(folder: Path) -> int:
    from pipeline.pool import mapped  # noqa: PLC0415 - see above

    paths = sorted(folder.rglob("*.jpg")) * _REPEATED
    started_s = time.perf_counter()
    with mapped(prepared, paths, os.cpu_count() or 1) as done:
        count = sum(1 for _ in done)
    print(count / (time.perf_counter() - started_s))  # noqa: T201 - the answer to our parent
    return count


def _theirs(folder: Path) -> int:
    import torch  # noqa: PLC0415 - ours does not need it
    from torchvision import datasets, transforms  # noqa: PLC0415

    steps = [transforms.Resize((SIDE_PX, SIDE_PX)), transforms.ToTensor()]
    normalize = transforms.Normalize((0.5,) * 3, (0.5,) * 3)
    images = datasets.ImageFolder(str(folder), transforms.Compose([*steps, normalize]))
    several = torch.utils.data.ConcatDataset([images] * _REPEATED)
    loader = torch.utils.data.DataLoader(several, batch_size=32, num_workers=os.cpu_count() or 1)
    started_s = time.perf_counter()
    count = sum(len(batch) for batch, _ in loader)
    print(count / (time.perf_counter() - started_s))  # noqa: T201 - the answer to our parent
    return count


if __name__ == "__main__":
    _WHO = {"Pigeonhole": _ours, "torchvision": _theirs}
    _WHO[sys.argv[1]](Path(sys.argv[2]))
