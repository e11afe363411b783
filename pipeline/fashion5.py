"""Make data/fashion5.zip again, byte for byte: five kinds of products, from Fashion-MNIST.

    python -m pipeline.fashion5 [--classes bag dress ...] [--per-class 400 100 100] [--out ZIP]

The photographs come from Debian's package `dataset-fashion-mnist`, unpacked in a temporary folder.
That needs `apt-get` and `dpkg`, but no root, and changes nothing of the system.
"""

import argparse
import gzip
import hashlib
import io
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.archive import SPLITS
from pipeline.stage import StageError, console, fresh_file, told

PACKAGE = "dataset-fashion-mnist"
LABELS = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle-boot",
)  # fmt: skip
FIVE = ("bag", "dress", "sneaker", "t-shirt", "trouser")
PER_CLASS = (400, 100, 100)
OUT = Path("data/fashion5.zip")
FASHION5_SHA256 = "cf354d153202b21536d9e30ccf2426dc86b51f6ec590508d2b8047215c07d71f"

# sha256 of the files after gunzip.
_IDX_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_SIDE_PX = 28
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can name


class Photos(NamedTuple):
    """One official split: (N, 28, 28) grey and (N,) indices into `LABELS`."""

    images: NDArray[np.uint8]
    indices: NDArray[np.uint8]


def make(
    classes: Sequence[str], per_class: Sequence[int], out: Path, *, is_exact: bool = True
) -> str:
    """Write the zip and return its sha256.

    `per_class`: how many of each class in train, valid and test; fewer where there are no more,
    unless `is_exact`. Raises `StageError` when the package cannot be had, is not the one we know,
    or holds too few photographs.
    """
    with tempfile.TemporaryDirectory() as folder:
        official = _fetched(Path(folder))
    wanted = dict(zip(SPLITS, per_class, strict=True))
    members = _chosen(official, classes, wanted, is_exact=is_exact)
    with zipfile.ZipFile(fresh_file(out), "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            archive.writestr(_member(name), _png(members[name]))
    return hashlib.sha256(out.read_bytes()).hexdigest()


def _fetched(folder: Path) -> dict[str, Photos]:
    """The two official splits, from Debian, checked."""
    _command(folder, "apt-get", "download", PACKAGE)
    (package,) = folder.glob("*.deb")
    _command(folder, "dpkg", "-x", package.name, "package")
    source = folder / "package/usr/share/datasets/fashion-mnist"
    return {
        name: Photos(
            _idx(source / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, _SIDE_PX, _SIDE_PX),
            _idx(source / f"{name}-labels-idx1-ubyte.gz", 8),
        )
        for name in ("train", "t10k")
    }


def _command(folder: Path, *words: str) -> None:
    try:
        subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True)  # noqa: S603
    except FileNotFoundError:
        raise StageError(
            f"{words[0]} is not here: run this on Debian or Ubuntu, for instance in a container."
        ) from None
    except subprocess.CalledProcessError as error:
        raise StageError(
            f"`{' '.join(words)}` failed: {error.stderr.strip()}. Is the network there, and has "
            "`apt-get update` been run?"
        ) from None


def _idx(path: Path, header_bytes: int) -> NDArray[np.uint8]:
    """The values of an idx file, flat; raises `StageError` if it is not the file that we know."""
    data = gzip.decompress(path.read_bytes())
    if hashlib.sha256(data).hexdigest() != _IDX_SHA256[path.stem]:
        raise StageError(f"{path.stem} is not the file that this script knows (sha256 differs).")
    return np.frombuffer(data, dtype=np.uint8, offset=header_bytes)


def _chosen(
    official: dict[str, Photos],
    classes: Sequence[str],
    per_class: dict[str, int],
    *,
    is_exact: bool,
) -> dict[str, NDArray[np.uint8]]:
    """The first photographs of each class, by name in the zip; no two are the same.

    Test images are from the official test split; train and valid share the official train split.
    """
    seen: set[bytes] = set()
    members = {}
    for split in ("test", "train", "valid"):
        photos = official["t10k" if split == "test" else "train"]
        for label in classes:
            chosen = list(islice(_unseen(photos, label, seen), per_class[split]))
            if is_exact and len(chosen) < per_class[split]:
                raise StageError(f"{split}/{label}: Fashion-MNIST has only {len(chosen)} left.")
            for index in chosen:
                members[f"{split}/{label}/{index:05}.png"] = photos.images[index]
    return members


def _unseen(photos: Photos, label: str, seen: set[bytes]) -> Iterator[int]:
    """Where the photographs of a label are that have not been given before."""
    for index in np.flatnonzero(photos.indices == LABELS.index(label)):
        pixels = photos.images[index].tobytes()
        if pixels not in seen:
            seen.add(pixels)
            yield int(index)


def _png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    # Run lengths only: no search for longer matches, in which one zlib differs from the next.
    Image.fromarray(image).save(file, "PNG", compress_level=9, compress_type=zlib.Z_RLE)
    return file.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    """A member that says nothing of when and where it was packed."""
    member = zipfile.ZipInfo(name, _EPOCH)
    member.create_system = 3  # Unix
    member.external_attr = 0o100644 << 16
    return member


def main() -> None:
    """The command line."""
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser("python -m pipeline.fashion5", description=summary)
    parser.add_argument("--classes", nargs="+", choices=LABELS, default=FIVE)
    parser.add_argument(
        "--per-class", nargs=3, type=int, default=PER_CLASS, metavar=("TRAIN", "VALID", "TEST")
    )
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    with told():
        digest = make(sorted(set(chosen.classes)), chosen.per_class, chosen.out)
        size_bytes = chosen.out.stat().st_size
        console.print(f"{chosen.out}: {size_bytes:,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
