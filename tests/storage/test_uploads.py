"""Uploads that are kept: no row without its file, and no file without its row for ever."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from core.types import ImageRef
from storage import uploads
from storage.results import Result
from storage.store import Finished, Store

DATA = b"bytes of an image"


@pytest.fixture
def commit(
    record: Callable[..., list[Result]], finished: Callable[..., Finished]
) -> Callable[[str], Result]:
    def commit(path: str) -> Result:
        image = ImageRef(hashlib.sha256(DATA).hexdigest(), "a.jpg", len(DATA))
        (row,) = record(replace(finished(), image=image, path=path))
        return row

    return commit


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_the_name_tells_the_day_and_the_format(tmp_path: Path) -> None:
    part = uploads.receive(tmp_path, DATA)
    (kept,) = uploads.keep(tmp_path, [(part, "JPEG")])

    assert kept == f"uploads/{kept.split('/')[1]}/{part.name}.jpg"
    assert (tmp_path / kept).read_bytes() == DATA


def test_one_that_died_before_the_row_leaves_nothing_for_ever(tmp_path: Path, store: Store) -> None:
    uploads.receive(tmp_path / "home", DATA)
    uploads.keep(tmp_path / "home", [(uploads.receive(tmp_path / "home", DATA), "PNG")])
    assert len(files(tmp_path / "home")) == 3

    assert uploads.settle_stale(store.database, tmp_path / "home") == 0  # somebody may be at work
    assert uploads.settle_stale(store.database, tmp_path / "home", older_than_s=-1) == 2

    assert files(tmp_path / "home") == []


def test_one_that_died_after_the_row_loses_nothing(
    tmp_path: Path, store: Store, commit: Callable[[str], Result]
) -> None:
    home = tmp_path / "home"
    row = commit(uploads.keep(home, [(uploads.receive(home, DATA), "PNG")])[0])

    uploads.settle_stale(store.database, home, older_than_s=-1)

    assert files(home) == [row.path]


def test_twins_do_not_settle_each_other(
    tmp_path: Path, store: Store, commit: Callable[[str], Result]
) -> None:
    home = tmp_path / "home"
    row = commit(uploads.keep(home, [(uploads.receive(home, DATA), "PNG")])[0])
    uploads.keep(home, [(uploads.receive(home, DATA), "PNG")])

    uploads.settle_stale(store.database, home, older_than_s=-1)

    assert files(home) == [row.path]


def test_no_room_is_said_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("in the way")

    with pytest.raises(uploads.CannotStoreError, match="PIGEONHOLE_HOME"):
        uploads.receive(tmp_path, DATA)
