"""Cut valid and test from train where a zip does not have them, the same way each time.

Stratified: each class gives its share. Near-duplicates stay on one side, so that no image is tested
whose copy was learned. The order is that of a hash of content and seed: file names do not matter,
and a few images more move few others.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.params import Unzip
from pipeline.stage import StageError, counted, shown

Quotas = Counter[tuple[str, str]]  # images wanted, by split and label


class Item(NamedTuple):
    """One image of the data set; `sha256` is that of its file."""

    split: str
    label: str
    sha256: str


def wanted(items: Sequence[tuple[str, str]], params: Unzip) -> Quotas:
    """How many images each split lacks of each class: its share, where it has none at all.

    `items`: split and label of every image. Raises `StageError` if a class has too few.
    """
    have = Counter(items)
    shares = {"valid": params.valid_share, "test": params.test_share}
    quotas: Quotas = Counter()
    for label in sorted({label for _, label in have}):
        lacking = [split for split in shares if not have[split, label]]
        in_train = have["train", label]
        if lacking and in_train <= len(lacking):
            raise StageError(
                f"the class {shown(label)} has {counted(in_train, 'image')} in train: too few to "
                f"cut {' and '.join(lacking)} from. Add some, or take the folder out."
            )
        for split in lacking:
            quotas[split, label] = max(1, min(round(in_train * shares[split]), in_train // 3))
    return quotas


def cut(
    items: Sequence[Item], groups: Sequence[Sequence[int]], quotas: Quotas, seed: int
) -> dict[int, str]:
    """Which items of train go to which other split; `groups`: near-duplicates, by item number.

    A group goes whole or not at all. Raises `StageError` if a class is one group of copies.
    """
    ranked = [
        group
        for group in sorted(groups, key=lambda group: _rank(items, group, seed))
        if all(items[number].split == "train" for number in group)
    ]
    open_quotas, moved = Counter(quotas), dict[int, str]()
    for group in ranked:
        sizes = _sizes(items, group)
        for split in ("test", "valid"):
            if all(open_quotas[split, label] >= count for label, count in sizes.items()):
                open_quotas -= Counter({(split, label): n for label, n in sizes.items()})
                moved |= dict.fromkeys(group, split)
                break
    for split, label in quotas:
        if all(items[n].label != label or to != split for n, to in moved.items()):
            moved |= dict.fromkeys(_smallest(items, ranked, moved, split, label), split)
    return moved


def _smallest(
    items: Sequence[Item],
    groups: Sequence[Sequence[int]],
    moved: dict[int, str],
    split: str,
    label: str,
) -> Sequence[int]:
    """The smallest group with this label that train can spare, where each is above the quota."""
    in_train = [g for g in groups if label in _sizes(items, g) and g[0] not in moved]
    if len(in_train) < 2:
        raise StageError(
            f"{split} cannot be cut for the class {shown(label)}: too many of its images are "
            "near-duplicates of each other. Add others, or make the splits yourself."
        )
    return min(in_train, key=len)


def _sizes(items: Sequence[Item], group: Sequence[int]) -> Counter[str]:
    return Counter(items[number].label for number in group)


def _rank(items: Sequence[Item], group: Sequence[int], seed: int) -> str:
    first = min(items[number].sha256 for number in group)
    return hashlib.sha256(f"{seed} {first}".encode()).hexdigest()
