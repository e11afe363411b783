"""Which images show the same picture: copies, and copies that were scaled or saved again.

A fingerprint is a dHash (64 bits: is each pixel of a 9 x 8 grey image brighter than its left
neighbour?) and a grey thumbnail. Two images are near-duplicates if both are close. A dHash alone
calls 8 % of all pairs in Fashion-MNIST the same; with the thumbnail it is none that differ, and
98 % of photographs that were halved and saved again are found (docs/adr/0020-near-duplicates.md).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.types import Pixels

THUMBNAIL_PX = 16
MAX_BITS = 10  # of 64 in which the dHash of near-duplicates may differ

_BLOCK = 64  # rows of the table of all pairs that are in memory at once

Hashes = NDArray[np.uint64]  # (N,)
Thumbnails = NDArray[np.uint8]  # (N, 16, 16), grey


class Fingerprint(NamedTuple):
    """One image, small enough to compare it with all others. `thumbnail`: (16, 16) uint8."""

    dhash: int
    thumbnail: NDArray[np.uint8]


def fingerprint(pixels: Pixels) -> Fingerprint:
    """The fingerprint of an image, (H, W, 3) uint8."""
    grey = Image.fromarray(pixels).convert("L")
    nine_by_eight = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    bits = np.packbits(nine_by_eight[:, 1:] > nine_by_eight[:, :-1])
    thumbnail = grey.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
    return Fingerprint(int.from_bytes(bits.tobytes(), "big"), np.asarray(thumbnail))


def near_pairs(hashes: Hashes, thumbnails: Thumbnails, max_levels: float) -> list[tuple[int, int]]:
    """Every pair (i, j), i < j, of near-duplicates, sorted.

    `max_levels`: the root mean square difference of the thumbnails, of 255. It is never below the
    difference of their means, so with images sorted by mean only neighbours are compared.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    means = flat.mean(axis=1)
    order = np.argsort(means, kind="stable")
    means, ordered = means[order], hashes[order]
    found: list[tuple[int, int]] = []
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        end = int(np.searchsorted(means, means[stop - 1] + max_levels, side="right"))
        distance = np.bitwise_count(ordered[start:stop, None] ^ ordered[None, start:end])
        rows, columns = np.nonzero(np.triu(distance <= MAX_BITS, 1))
        left, right = order[start + rows], order[start + columns]
        squares = ((flat[left] - flat[right]) ** 2).mean(axis=1)
        near = squares <= max_levels**2
        found += zip(left[near].tolist(), right[near].tolist(), strict=True)
    return sorted((min(pair), max(pair)) for pair in found)


def grouped(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The numbers 0..count-1 in groups: who is in a pair with one of a group is in that group."""
    parents = list(range(count))
    for left, right in pairs:
        first, second = sorted((_root(parents, left), _root(parents, right)))
        parents[second] = first
    groups: dict[int, list[int]] = {}
    for number in range(count):
        groups.setdefault(_root(parents, number), []).append(number)
    return list(groups.values())


def stacked(prints: Sequence[Fingerprint]) -> tuple[Hashes, Thumbnails]:
    """Many fingerprints as two arrays."""
    hashes = np.array([one.dhash for one in prints], dtype=np.uint64)
    empty = np.zeros((0, THUMBNAIL_PX, THUMBNAIL_PX), dtype=np.uint8)
    return hashes, np.stack([one.thumbnail for one in prints]) if prints else empty


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number
