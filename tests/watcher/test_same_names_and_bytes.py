"""The same bytes (G7), the same name (G12), and a newer file under it at the worst moment (G13)."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.types import Stamp
from monitoring.metrics import Metrics
from storage.inbox import scan
from storage.results import Result
from storage.store import Store
from watcher.batch import Worker

pytestmark = pytest.mark.timeout(1200)  # of a busy machine, or in the long form

Rows = Callable[[], list[Result]]
Paint = Callable[..., bytes]
Say = Callable[[object], None]
BATCH = 32


def work_through(worker: Worker, inbox: Path) -> None:
    listing: list[tuple[str, Stamp]] = sorted(scan(inbox).items())
    for start in range(0, len(listing), BATCH):
        worker.work(dict(listing[start : start + BATCH]), {})


@pytest.mark.guarantee("G7")
def test_a_thousand_files_of_five_hundred_kinds_cost_five_hundred_inferences(
    worker: Worker, home: Path, rows: Rows, metrics: Metrics, paint: Paint, say: Say
) -> None:
    for number in range(1_000):
        data = paint("red", (10 + number % 500, 9))
        (home / "inbox" / f"{number:04}.png").write_bytes(data)
    work_through(worker, home / "inbox")
    found = rows()
    originals = {row.sha256: row.id for row in found if row.duplicate_of is None}
    inferred = metrics.registry.get_sample_value("pigeonhole_batch_images_sum")
    say(f"G7: {len(found)} rows, {len(originals)} kinds, {inferred:.0f} inferences")
    assert (len(found), len(originals), inferred) == (1_000, 500, 500)
    doubles = [row for row in found if row.duplicate_of is not None]
    assert len(doubles) == 500
    assert all(row.duplicate_of == originals[row.sha256] for row in doubles)


@pytest.mark.guarantee("G12")
def test_a_thousand_files_of_one_name_are_all_kept(
    worker: Worker, home: Path, rows: Rows, paint: Paint, soak: bool, say: Say
) -> None:
    number = 1_000 if soak else 100
    theirs = home / "sorted" / "red" / "IMG_0001.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"somebody put this here by hand")
    sent = {paint("red", (10 + width, 9)) for width in range(number)}
    for data in sent:
        (home / "inbox" / "IMG_0001.png").write_bytes(data)
        worker.work(scan(home / "inbox"), {})
    kept = Counter(path.read_bytes() for path in theirs.parent.iterdir())
    assert kept == Counter([*sent, b"somebody put this here by hand"])
    assert len({row.path for row in rows()}) == number
    say(f"G12: {number} files of one name, {len(kept) - 1} kept, none overwritten")


@pytest.mark.guarantee("G13")
def test_a_newer_file_that_takes_the_name_while_we_work_is_never_removed(
    worker: Worker, home: Path, rows: Rows, paint: Paint, soak: bool, say: Say,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Before or after the commit, the name passes to another file, by rename or written anew."""
    rounds = 500 if soak else 50
    path = home / "inbox" / "a.png"
    record = Store.record
    newer = [paint("blue", (10 + width, 9)) for width in range(rounds)]

    def pass_on(width: int) -> None:
        if width % 2:
            path.unlink()
            path.write_bytes(newer[width])
        else:
            path.with_name(".new").write_bytes(newer[width])
            path.with_name(".new").rename(path)

    for width in range(rounds):

        def interrupted(
            store: Store,
            *images: Any,  # noqa: ANN401 - as `Store.record` takes them
            width: int = width,
            **how: Any,  # noqa: ANN401
        ) -> list[Result | None]:
            if width % 4 < 2:
                pass_on(width)
            answers = record(store, *images, **how)
            if width % 4 >= 2:
                pass_on(width)
            return answers

        path.write_bytes(paint("red", (10 + width, 9)))
        with monkeypatch.context() as patch:
            patch.setattr(Store, "record", interrupted)
            worker.work(scan(home / "inbox"), {})
        assert path.read_bytes() == newer[width], "the newer file waits for its turn"
        worker.work(scan(home / "inbox"), {})
        assert not path.exists()
    assert [row.label for row in rows()] == ["red", "blue"] * rounds
    kept = Counter(found.read_bytes() for found in (home / "sorted" / "blue").iterdir())
    assert kept == Counter(newer)
    say(f"G13: {rounds} files replaced in the middle, {len(kept)} newer ones filed")
