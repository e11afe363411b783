"""What can be wrong with a data set, one function per kind of fault: pure, so easily planted.

Every function gives checks; a check knows its limit, its offenders and its sentence.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipeline.archive import SPLITS
from pipeline.dataset import Row, Unreadable
from pipeline.independent import Comparison
from pipeline.params import Evaluate
from pipeline.stage import shown

_NAMED = 3  # offenders in a sentence


@dataclass(frozen=True, slots=True)
class Offender:
    """One image, or two that should not be alike; paths are relative to data/images."""

    paths: tuple[str, ...]
    detail: str = ""
    recipe: str | None = None  # whose pixels are the fault

    def __str__(self) -> str:
        """One line for a terminal."""
        names = " = ".join(map(shown, self.paths))
        return f"{names} ({shown(self.detail)})" if self.detail else names


@dataclass(frozen=True, slots=True)
class Check:
    """One question to the data. `limit` None: it is told, and never stops the pipeline.

    `what` says what is counted or measured. `parameter`: where the limit is; None: nowhere.
    """

    name: str
    what: str
    value: float
    limit: float | None = 0
    parameter: str | None = None
    offenders: tuple[Offender, ...] = ()
    is_floor: bool = False

    @property
    def is_breach(self) -> bool:
        """Whether the pipeline must stop."""
        if self.limit is None:
            return False
        return self.value < self.limit if self.is_floor else self.value > self.limit

    @property
    def is_noteworthy(self) -> bool:
        """Whether a person should look, breach or not."""
        return self.is_breach or bool(self.offenders)

    @property
    def sentence(self) -> str:
        """What is wrong, with numbers and the first names."""
        limit = ""
        if self.limit is not None and self.parameter:
            word = "at least" if self.is_floor else "at most"
            limit = f", {word} {self.limit:g} allowed (evaluate.{self.parameter})"
        names = "; ".join(str(offender) for offender in self.offenders[:_NAMED])
        more = len(self.offenders) - _NAMED
        names = f": {names}" + (f"; and {more:,} more" if more > 0 else "") if names else ""
        return f"{self.what}: {self.value:.4g}{limit}{names}"


def mapping(
    files: Mapping[str, str], rows: Sequence[Row], unreadable: Sequence[Unreadable], recipe: str
) -> list[Check]:
    """Every file has one row, and is the one that the row was made of.

    `files`: path to sha256 of data/images now.
    """
    accounted = Counter([row.path for row in rows] + [one.path for one in unreadable])
    missing = [Offender((path,), "no row", recipe) for path in files if not accounted[path]]
    orphans = [Offender((p,), "no file", recipe) for p in accounted if p not in files]
    twice = [Offender((p,), f"{n} rows", recipe) for p, n in accounted.items() if n > 1]
    digests = [(row.path, row.sha256) for row in rows] + [
        (one.path, one.sha256) for one in unreadable
    ]
    changed = [
        Offender((path,), "the file is not the one that was preprocessed", recipe)
        for path, sha256 in digests
        if files.get(path, sha256) != sha256
    ]
    return [
        _counted(
            "one_to_one", f"{recipe}: images without exactly one row", missing + orphans + twice
        ),
        _counted("unchanged_files", f"{recipe}: files that have changed", changed),
    ]


def labels(
    rows: Sequence[Row], indices: Mapping[str, Sequence[int]], names: Sequence[str], recipe: str
) -> list[Check]:
    """Every image has the class index of its folder, in the manifest and in the array."""
    offenders = []
    numbers = Counter[str]()
    for row in rows:
        of_split, number = indices[row.split], numbers[row.split]
        numbers[row.split] += 1
        folder = row.path.split("/")[1]
        given = {int(row.class_index), int(of_split[number]) if number < len(of_split) else -1}
        if {names[index] if 0 <= index < len(names) else "?" for index in given} != {folder}:
            wrong = "/".join(names[i] if 0 <= i < len(names) else "none" for i in sorted(given))
            offenders.append(
                Offender((row.path,), f"labelled {wrong}, its folder is {folder}", recipe)
            )
    return [
        _counted("labels", f"{recipe}: images whose label is not that of their folder", offenders)
    ]


def comparisons(
    compared: Sequence[tuple[str, Comparison | str]], params: Evaluate, recipe: str
) -> list[Check]:
    """Prepared images against an independent preparation; a string says why there is none."""
    done = [(path, one) for path, one in compared if isinstance(one, Comparison)]
    failed = [Offender((path,), one, recipe) for path, one in compared if isinstance(one, str)]
    unlike = [
        Offender((path,), f"PSNR {one.psnr_db:.1f} dB, SSIM {one.ssim:.3f}", recipe)
        for path, one in done
        if one.psnr_db < params.min_psnr_db or one.ssim < params.min_ssim
    ]
    least_db = min((one.psnr_db for _, one in done), default=0.0)
    least_ssim = min((one.ssim for _, one in done), default=0.0)
    differences = np.array([(*one.mean_difference, *one.std_difference) for _, one in done])
    worst = float(np.abs(differences.mean(axis=0)).max()) if done else 0.0
    return [
        _counted("decodable", f"{recipe}: images that another decoder cannot read", failed),
        _counted(
            "pixels",
            f"{recipe}: images unlike their file (PSNR under {params.min_psnr_db:g} dB or SSIM "
            f"under {params.min_ssim:g}: evaluate.min_psnr_db, min_ssim)",
            unlike,
        ),
        Check("psnr_db", f"{recipe}: lowest PSNR, in dB", round(least_db, 2), None, is_floor=True),
        Check("ssim", f"{recipe}: lowest SSIM", round(least_ssim, 4), None, is_floor=True),
        Check(
            "statistics",
            f"{recipe}: largest difference of a channel's mean or deviation over all images, 0..1",
            round(worst, 6),
            params.max_statistics_difference,
            "max_statistics_difference",
        ),
    ]


def duplicates(
    rows: Sequence[Row], near: Iterable[tuple[int, int]], params: Evaluate
) -> list[Check]:
    """Copies and near-copies: across splits (leakage), within a split, under two labels.

    `near`: pairs of row numbers.
    """
    same = defaultdict(list)
    for number, row in enumerate(rows):
        same[row.sha256].append(number)
    copies = {pair for group in same.values() for pair in combinations(group, 2)}
    kinds: dict[str, list[Offender]] = defaultdict(list)
    for pair in sorted(copies | set(near)):
        left, right = (rows[number] for number in pair)
        kind = "copy" if pair in copies else "near-duplicate"
        offender = Offender((left.path, right.path), kind)
        if left.class_index != right.class_index:
            kinds["conflict"].append(offender)
        where = "across" if left.split != right.split else "within"
        kinds[f"{kind} {where}"].append(offender)
    within = kinds["copy within"] + kinds["near-duplicate within"]
    limits = params
    return [
        _limited(
            "duplicates_across_splits",
            "leakage, pairs of copies in different splits",
            kinds["copy across"],
            limits.max_duplicates_across_splits,
        ),
        _limited(
            "near_duplicates_across_splits",
            "leakage, pairs of near-duplicates in different splits",
            kinds["near-duplicate across"],
            limits.max_near_duplicates_across_splits,
        ),
        _limited(
            "duplicates_within_splits",
            "pairs of copies or near-duplicates in one split",
            within,
            limits.max_duplicates_within_splits,
        ),
        _limited(
            "label_conflicts",
            "pairs that show the same under two labels",
            kinds["conflict"],
            limits.max_label_conflicts,
        ),
    ]


def classes(rows: Sequence[Row], names: Sequence[str], params: Evaluate) -> list[Check]:
    """Every class in every split, and none much larger than another."""
    counts = Counter((row.split, row.path.split("/")[1]) for row in rows)
    few = [
        Offender((f"{split}/{label}",), f"{counts[split, label]} images")
        for split in SPLITS
        for label in names
        if counts[split, label] < params.min_images_per_class
    ]
    in_train = sorted((counts["train", label], label) for label in names)
    (least, rarest), (most, commonest) = in_train[0], in_train[-1]
    ratio = most / max(1, least)
    uneven = ratio > (params.max_class_ratio or np.inf)
    offender = Offender((f"train/{rarest}", f"train/{commonest}"), f"{least} and {most} images")
    return [
        Check(
            "images_per_class",
            "images in the smallest class of a split",
            min(counts[split, label] for split in SPLITS for label in names),
            params.min_images_per_class,
            "min_images_per_class",
            tuple(few),
            is_floor=True,
        ),
        Check(
            "class_ratio",
            "images of the commonest class in train for one of the rarest",
            round(ratio, 4),
            params.max_class_ratio,
            "max_class_ratio",
            (offender,) if uneven else (),
        ),
    ]


def files(
    rows: Sequence[Row],
    unreadable: Sequence[Unreadable],
    left_out: Sequence[Mapping[str, str]],
    params: Evaluate,
) -> list[Check]:
    """Files that are of no use, or of little: each kind as a share of all."""
    total = max(1, len(rows) + len(unreadable))
    tiny = [
        Offender((row.path,), f"{row.width_px} x {row.height_px} px")
        for row in rows
        if min(int(row.width_px), int(row.height_px)) < params.tiny_px
    ]
    blank = [Offender((row.path,)) for row in rows if is_blank(row, params)]
    bad = [Offender((one.path,), one.reason) for one in unreadable]
    unused = [Offender((one["member"],), one["reason"]) for one in left_out]
    shares = (
        ("unreadable", "share of files that are no image and were left out", bad, total),
        ("left_out", "share of files in the zip that were left out", unused, total + len(unused)),
        ("tiny", f"share of images with a side under {params.tiny_px} px", tiny, total),
        ("blank", "share of images of a single colour", blank, total),
    )
    return [
        Check(
            name,
            what,
            round(len(offenders) / of, 6),
            getattr(params, f"max_{name}_share"),
            f"max_{name}_share",
            tuple(offenders),
        )
        for name, what, offenders, of in shares
    ]


def is_blank(row: Row, params: Evaluate) -> bool:
    """Whether an image shows nothing."""
    return max(row.std) < params.blank_std


def _counted(name: str, what: str, offenders: list[Offender]) -> Check:
    return Check(name, what, len(offenders), 0, None, tuple(offenders))


def _limited(name: str, what: str, offenders: list[Offender], limit: int | None) -> Check:
    return Check(name, what, len(offenders), limit, f"max_{name}", tuple(offenders))
