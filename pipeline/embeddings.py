"""What a frozen backbone sees in each image, kept: an image is looked at once, whatever is trained.

In one folder per backbone (the sha256 of its weights and its normalisation): `backbone.onnx` and
`features.npz`, whose rows are known by the sha256 of the pixels. A cache, not an output: any of it
may be deleted.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from core.recipe import Recipe
from core.types import Batch
from pipeline import backbone, onnx_file
from pipeline.backbone import Pretrained
from pipeline.dataset import Split
from pipeline.stage import console

EMBEDDINGS = Path("data/embeddings")

Features = NDArray[np.float32]  # (N, D)

_KEY_BYTES = 32


def embed(
    pretrained: Pretrained, recipe: Recipe, splits: Sequence[Split], threads: int, root: Path
) -> list[Features]:
    """The features of every image of each split, computed only where they are not known."""
    folder = root / EMBEDDINGS / _key(pretrained, recipe)
    known = _read(folder / "features.npz")
    keys = [[_hash(image) for image in split.images] for split in splits]
    missing: dict[bytes, NDArray[np.uint8]] = {
        key: image
        for split, its_keys in zip(splits, keys, strict=True)
        for key, image in zip(its_keys, split.images, strict=True)
        if key not in known
    }
    if missing:
        weights = _onnx(folder / "backbone.onnx", pretrained, recipe)
        known |= dict(
            zip(missing, _features(weights, list(missing.values()), threads), strict=True)
        )
        _write(folder / "features.npz", known)
    return [np.stack([known[key] for key in its_keys]) for its_keys in keys]


def _features(weights: bytes, images: Sequence[Batch], threads: int) -> list[Features]:
    """One image at a time, so that what else is there changes no bit; many threads at once."""
    session = onnx_file.session(weights)
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda image: onnx_file.run(session, image[None])[0], images)
        return list(track(found, "embed", total=len(images), console=console))


def _onnx(path: Path, pretrained: Pretrained, recipe: Recipe) -> bytes:
    if not path.is_file():
        model = backbone.classifier(pretrained, recipe, torch.nn.Identity())
        _replace(path, onnx_file.to_onnx(model, recipe.size_px))
    return path.read_bytes()


def _key(pretrained: Pretrained, recipe: Recipe) -> str:
    parts = (pretrained.sha256, recipe.size_px, pretrained.mean, pretrained.std, torch.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _hash(image: Batch) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _read(path: Path) -> dict[bytes, Features]:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        keys = stored["keys"].tobytes()
        rows = stored["features"]
    return {
        keys[start : start + _KEY_BYTES]: row
        for start, row in zip(range(0, len(keys), _KEY_BYTES), rows, strict=True)
    }


def _write(path: Path, known: dict[bytes, Features]) -> None:
    part = path.with_suffix(".part.npz")
    part.parent.mkdir(parents=True, exist_ok=True)
    keys = np.frombuffer(b"".join(known), dtype=np.uint8)
    np.savez(part, keys=keys, features=np.stack(list(known.values())))
    part.replace(path)


def _replace(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    part.replace(path)
