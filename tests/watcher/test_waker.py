"""watchdog on a real folder."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from watcher.waker import Clock, Watchdog


def _collect(arrived: set[str], waker: Watchdog) -> set[str]:
    arrived |= waker.arrived()
    return arrived


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    return inbox


@pytest.fixture
def waker(inbox: Path) -> Iterator[Watchdog]:
    waker = Watchdog(inbox)
    yield waker
    waker.close()


def test_a_written_file_wakes_us_but_is_not_known_to_be_whole(waker: Watchdog, inbox: Path) -> None:
    (inbox / "a.jpg").write_bytes(b"1")
    assert waker.wait(10)
    assert waker.arrived() == frozenset()


def test_a_file_renamed_in_is_known_to_be_whole(
    waker: Watchdog, inbox: Path, tmp_path: Path, until: Callable[..., None]
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"1")
    (tmp_path / "a.jpg").rename(inbox / "a.jpg")
    assert waker.wait(10)
    arrived: set[str] = set()
    until(lambda: bool(_collect(arrived, waker)), "the rename is reported")
    assert arrived == {"a.jpg"}
    assert waker.arrived() == frozenset(), "each arrival is told once"


def test_a_rename_below_a_new_folder_is_seen(
    waker: Watchdog, inbox: Path, tmp_path: Path, until: Callable[..., None]
) -> None:
    (inbox / "new").mkdir()
    assert waker.wait(10)
    arrived: set[str] = set()

    def renamed() -> bool:
        (tmp_path / "b.jpg").write_bytes(b"1")
        (tmp_path / "b.jpg").rename(inbox / "new" / "b.jpg")
        waker.wait(0.2)
        arrived.update(waker.arrived())
        return bool(arrived)

    until(renamed, "the new folder is watched too")
    assert arrived == {"new/b.jpg"}


def test_a_name_that_is_not_utf_8_disturbs_nothing(
    waker: Watchdog, inbox: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"bad\xff.jpg")
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "a").rename(inbox / name)
    assert waker.wait(10)
    assert waker.is_healthy()


def test_our_own_reading_and_linking_and_unlinking_wakes_nobody(
    waker: Watchdog, inbox: Path, tmp_path: Path
) -> None:
    (inbox / "a.jpg").write_bytes(b"1")
    assert waker.wait(10)
    while waker.wait(0.5):
        pass
    (inbox / "a.jpg").read_bytes()
    os.link(inbox / "a.jpg", tmp_path / "kept.jpg")
    (inbox / "a.jpg").unlink()
    assert not waker.wait(0.5)


def test_a_folder_that_was_removed_and_made_again_is_noticed(
    waker: Watchdog, inbox: Path, until: Callable[..., None]
) -> None:
    assert waker.is_healthy()
    shutil.rmtree(inbox)
    assert not waker.is_healthy()
    inbox.mkdir()
    # The new folder may get the old inode; then the end of watchdog's thread tells, a little later.
    until(lambda: not waker.is_healthy(), "the new folder is not taken for the old one")


def test_a_clock_wakes_only_when_told() -> None:
    clock = Clock()
    assert not clock.wait(0.01)
    clock.wake()
    assert clock.wait(10)
    assert clock.is_healthy()
