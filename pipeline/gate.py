"""The gate: champion against challenger on the challenger's own test images.

    python -m pipeline.gate [--challenger models/candidate] [--champion FOLDER]

It stands outside the DAG of dvc.yaml, for its answer depends on what serves. The test images are
decoded from their files anew, with the recipe that each bundle carries: what is compared is what
would be served. Writes reports/gate.json and reports/gate.md.
"""

import argparse
import html
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from rich.progress import track

from core.bundle import STARTER, Bundle
from core.errors import ImageError
from core.image import preprocess
from core.types import Scores
from pipeline import params as params_file
from pipeline.cost import measured
from pipeline.dataset import PREPARED, UNREADABLE, read_unreadable
from pipeline.params import Gate
from pipeline.stage import StageError, console, told
from pipeline.unzip import IMAGES
from pipeline.verdict import Answers, Comparison, Difference, Verdict, judge

CANDIDATE = Path("models/candidate")
REPORTS = Path("reports")

_MAX_PIXELS = 100_000_000
_CHUNK = 8  # images per forward pass, as serving does it
_SHOWN_FLIPS = 50


class Image(NamedTuple):
    """One image of the test split."""

    path: Path
    label: str


def test_images(root: Path) -> list[Image]:
    """What `unzip` has put aside for the test, but for what `preprocess` found to be no image.

    Empty where the pipeline has not run.
    """
    folder = root / IMAGES / "test"
    found = (root / PREPARED).glob(f"*/{UNREADABLE}")
    unreadable = {one.path for path in found for one in read_unreadable(path.parent)}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        Image(path, path.relative_to(folder).parts[0])
        for path in files
        if path.relative_to(root / IMAGES).as_posix() not in unreadable
    ]


def can_judge(challenger: Bundle, root: Path) -> bool:
    """Whether there are test images of the very classes that the challenger knows."""
    return {image.label for image in test_images(root)} == set(challenger.labels)


def gate(limits: Gate, challenger: Path, champion: Path | None, root: Path = Path()) -> Verdict:
    """Judge a bundle, write the reports and return the verdict; raises `StageError`, `BundleError`.

    `champion` None: nothing serves that it could be compared with.
    """
    bundles = [Bundle.load(folder) for folder in (challenger, champion) if folder is not None]
    if not can_judge(bundles[0], root):
        raise StageError(
            f"{root / IMAGES / 'test'} has no images of the classes of {challenger}. Run "
            "`dvc repro` with the zip that it was trained on."
        )
    images, scores = _answers(bundles, test_images(root))
    answers = [Answers(bundle.labels, given) for bundle, given in zip(bundles, scores, strict=True)]
    verdict = judge(
        answers[1] if champion else None,
        answers[0],
        [image.label for image in images],
        measured(challenger),
        limits,
    )
    _write(verdict, bundles, images, root)
    return verdict


def _answers(
    bundles: Sequence[Bundle], images: Sequence[Image]
) -> tuple[list[Image], list[Scores]]:
    """The images that can be read, and (N, C) scores of each bundle for them."""
    chunks = [images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK)]
    readable: list[Image] = []
    scores: list[list[Scores]] = [[] for _ in bundles]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(partial(_answer, bundles), chunks)
        for read, given in track(results, "gate", len(chunks), console=console, transient=True):
            readable += read
            for parts, part in zip(scores, given, strict=True):
                parts.append(part)
    if not readable:
        raise StageError("Not one test image can be read.")
    return readable, [np.concatenate(parts) for parts in scores]


def _answer(bundles: Sequence[Bundle], images: Sequence[Image]) -> tuple[list[Image], list[Scores]]:
    read, pixels = [], []
    for image in images:
        try:
            data = image.path.read_bytes()
            pixels.append([preprocess(data, one.recipe, _MAX_PIXELS)[0] for one in bundles])
            read.append(image)
        except ImageError:  # `evaluate` names it
            continue
    if not read:
        return [], [np.empty((0, len(one.labels)), dtype=np.float32) for one in bundles]
    per_bundle = zip(bundles, zip(*pixels, strict=True), strict=True)
    return read, [one.scores(np.stack(seen)) for one, seen in per_bundle]


# --- the reports -----------------------------------------------------------------------------


def _write(
    verdict: Verdict, bundles: Sequence[Bundle], images: Sequence[Image], root: Path
) -> None:
    folder = root / REPORTS
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{one.ref.name} {one.ref.version}" for one in bundles]
    where = [image.path.relative_to(root).as_posix() for image in images]
    record = {
        "versions": {
            "challenger": bundles[0].ref.version,
            "champion": bundles[1].ref.version if bundles[1:] else None,
        },
        **asdict(verdict),
        "cost": verdict.cost._asdict(),
        "flips": [{**asdict(flip), "image": where[flip.image]} for flip in verdict.flips],
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / "gate.json").write_text(text, "utf-8")
    lines = [*_summary(verdict, names), *_table(verdict), *_flips(verdict, where)]
    (folder / "gate.md").write_text("\n".join(lines) + "\n", "utf-8")


def _summary(verdict: Verdict, names: Sequence[str]) -> Iterator[str]:
    yield "# The gate: " + ("passed" if verdict.passed else "refused")
    yield ""
    yield f"Challenger: {_text(names[0])}. Champion: {_text(names[1]) if names[1:] else 'none'}."
    for sentence in (verdict.sentence, *verdict.notes):
        yield from ("", _text(sentence))
    cost = verdict.cost
    yield ""
    yield (
        f"One image on one thread: {cost.latency_ms_p95:.1f} ms (95th percentile); peak memory "
        f"{cost.memory_bytes / 1e6:.0f} MB."
    )


def _table(verdict: Verdict) -> Iterator[str]:
    yield from ("", "## Figures", "")
    if verdict.comparison is None:
        yield from ("| | challenger |", "|---|---|")
        yield f"| accuracy | {verdict.challenger.accuracy:.3f} |"
        yield f"| macro recall | {verdict.challenger.macro_recall:.3f} |"
        for label, recall in verdict.challenger.recalls.items():
            yield f"| recall of {_text(label)} | {recall:.3f} |"
        return
    yield "| | champion | challenger | difference | interval |"
    yield "|---|---|---|---|---|"
    yield from _rows(verdict.comparison)
    fresh = set(verdict.challenger.recalls) - set(verdict.comparison.labels)
    for label in sorted(fresh):
        yield f"| recall of {_text(label)} | | {verdict.challenger.recalls[label]:.3f} | | |"


def _rows(both: Comparison) -> Iterator[str]:
    old, new = both.champion, both.challenger
    yield _row("accuracy", old.accuracy, new.accuracy, both.accuracy)
    yield _row("macro recall", old.macro_recall, new.macro_recall, both.macro_recall)
    for label, difference in both.recalls.items():
        yield _row(f"recall of {_text(label)}", old.recalls[label], new.recalls[label], difference)
    yield f"| calibration error (ECE) | {old.ece:.3f} | {new.ece:.3f} | | |"


def _row(name: str, old: float, new: float, difference: Difference) -> str:
    return (
        f"| {name} | {old:.3f} | {new:.3f} | {difference.value:+.3f} | "
        f"{difference.lower:+.3f} to {difference.upper:+.3f} |"
    )


def _flips(verdict: Verdict, where: Sequence[str]) -> Iterator[str]:
    """The images whose answer changes, with their pictures, worst first."""
    if verdict.comparison is None:
        return
    flips = verdict.flips
    yield from ("", f"## Answers that change: {len(flips)}", "")
    if len(flips) > _SHOWN_FLIPS:
        yield from (f"The worst {_SHOWN_FLIPS}; all of them are in gate.json.", "")
    if flips:
        yield "| image | truth | champion | challenger |"
        yield "|---|---|---|---|"
    for flip in flips[:_SHOWN_FLIPS]:
        path = where[flip.image]
        yield (
            f"| ![](../{quote(path)}) {_text(path)} | {_text(flip.truth)} "
            f"| {_text(flip.champion)} ({flip.champion_confidence:.2f}) "
            f"| {_text(flip.challenger)} ({flip.challenger_confidence:.2f}) |"
        )


def _text(text: str) -> str:
    """Labels and file names are strangers' text: no HTML, no Markdown, no line of their own."""
    spelled = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    marks = {ord(mark): f"&#{ord(mark)};" for mark in "|`*_[]!\\"}
    return html.escape(spelled).translate(marks)


def main(words: Sequence[str] | None = None) -> None:
    """The command line; exit code 1 when the challenger is refused."""
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser("python -m pipeline.gate", description=summary)
    parser.add_argument("--challenger", type=Path, default=CANDIDATE)
    parser.add_argument("--champion", type=Path, default=STARTER)
    chosen = parser.parse_args(words)
    with told():
        verdict = gate(params_file.read().gate, chosen.challenger, chosen.champion)
        console.print(verdict.sentence, markup=False)
        sys.exit(0 if verdict.passed else 1)


if __name__ == "__main__":
    main()
