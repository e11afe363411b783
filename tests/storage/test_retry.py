"""Out of quarantine and back into the inbox, without harm to anything."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.names import written
from core.settings import Settings
from core.types import Failure, ImageRef, ModelRef
from storage import files
from storage.inbox import scan
from storage.results import Result, ResultFilter
from storage.retry import RetryError, quarantined, retry
from storage.store import Finished, Store
from tests.deliveries import kept

Quarantine = Callable[..., Path]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "inbox").mkdir()
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store.open(settings.database_url)
    yield store
    store.close()


@pytest.fixture
def quarantine(settings: Settings, store: Store) -> Quarantine:
    """A delivery that went into quarantine, as the watcher does it; where it lies now."""

    def quarantine(path: str, data: bytes = b"bad", *, keep: bool = False) -> Path:
        source = settings.inbox / path
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_bytes(data)
        stamp = scan(settings.inbox)[path]
        now = datetime.now(UTC)
        (delivery,) = store.claim([(path, stamp)], "me", now, 60)
        failure = Failure("unreadable_image", "The image is damaged.")
        image = ImageRef("0" * 64, written(source.name), len(data))
        store.record(
            [Finished(image, failure, now, 1.0, delivery)],
            source="watcher",
            model=ModelRef("rgb", "1"),
            min_confidence=0.5,
            now=now,
        )
        folder = settings.home / "quarantine" / Path(path).parent
        target = files.put(source, stamp, folder, delivery.id[-8:], "0" * 64)
        assert target
        files.put_reason(target, {"code": failure.code})
        if not keep:
            files.remove(source, stamp)
        where = written(str(target.relative_to(settings.home)))
        store.finish([(delivery.id, where)], keep=keep)
        return target

    return quarantine


def rows(store: Store) -> list[Result]:
    return list(store.stream(ResultFilter(), order="asc"))


@pytest.mark.parametrize(
    "path", ["a.jpg", "trip/day 1/b.jpg", "-rf.jpg", os.fsdecode(b"caf\xe9\n.jpg"), "no suffix"]
)
def test_a_file_goes_back_where_it_came_from_and_its_row_stays(
    settings: Settings, store: Store, quarantine: Quarantine, path: str
) -> None:
    file = quarantine(path, b"the bytes")
    back = retry(settings, store, file)
    assert back == settings.inbox / path
    assert back.read_bytes() == b"the bytes"
    assert list(quarantined(settings.home)) == []
    assert not files.reason_path(file).exists()
    (row,) = rows(store)
    assert (row.status, row.path) == ("quarantined", None)
    assert list(scan(settings.inbox)) == [path], "nothing else is left in the inbox"


def test_it_gets_its_own_name_back_where_another_had_it_in_quarantine(
    settings: Settings, store: Store, quarantine: Quarantine
) -> None:
    first, second = quarantine("a.jpg", b"1"), quarantine("a.jpg", b"2")
    assert second.name != "a.jpg"
    assert retry(settings, store, second) == settings.inbox / "a.jpg"
    assert first.read_bytes() == b"1"
    assert [row.path for row in rows(store)] == ["quarantine/a.jpg", None]


def test_what_lies_in_the_inbox_is_never_replaced(
    settings: Settings, store: Store, quarantine: Quarantine
) -> None:
    file = quarantine("a.jpg", b"old")
    (settings.inbox / "a.jpg").write_bytes(b"new")
    back = retry(settings, store, file)
    assert back == settings.inbox / "a-2.jpg"
    assert (settings.inbox / "a.jpg").read_bytes() == b"new"
    assert back.read_bytes() == b"old"


def test_a_watcher_that_is_faster_and_quarantines_it_again_loses_nothing(
    settings: Settings, store: Store, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the new name in the inbox and the end of the old one in quarantine."""
    file = quarantine("a.jpg", b"still bad")
    give_name = files.give_name

    def overtaken(part: Path, target: Path) -> None:
        give_name(part, target)
        part.unlink()
        stamp = scan(settings.inbox)["a.jpg"]
        assert files.put(target, stamp, file.parent, "12345678", "0" * 64)
        assert files.remove(target, stamp)

    monkeypatch.setattr(files, "give_name", overtaken)
    retry(settings, store, file)
    (left,) = quarantined(settings.home)
    assert left.read_bytes() == b"still bad"


def test_with_policy_keep_the_file_in_the_inbox_is_taken_up_again(
    settings: Settings, store: Store, quarantine: Quarantine
) -> None:
    settings = settings.model_copy(update={"after": "keep"})
    file = quarantine("a.jpg", b"bad", keep=True)
    before = scan(settings.inbox)
    assert kept(store) == ["a.jpg"]
    assert retry(settings, store, file) == settings.inbox / "a.jpg"
    assert kept(store) == []
    assert scan(settings.inbox) == before, "the very same file"
    assert list(quarantined(settings.home)) == []


def test_when_the_copy_fails_all_is_as_it_was(
    settings: Settings, store: Store, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = quarantine("a.jpg", b"bad")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        retry(settings, store, file)
    assert file.read_bytes() == b"bad"
    assert files.reason_path(file).exists()
    assert list(settings.inbox.iterdir()) == []
    assert [row.path for row in rows(store)] == ["quarantine/a.jpg"]


def test_nothing_but_a_file_in_quarantine_can_be_tried_again(
    settings: Settings, store: Store, quarantine: Quarantine
) -> None:
    file = quarantine("a.jpg")
    (settings.home / "sorted").mkdir()
    (settings.home / "sorted" / "b.jpg").write_bytes(b"1")
    (file.parent / "link.jpg").symlink_to(settings.home / "sorted" / "b.jpg")
    (file.parent / "folder").symlink_to(settings.home / "sorted")
    for wrong in (
        settings.home / "sorted" / "b.jpg",
        file.parent / ".." / "sorted" / "b.jpg",
        file.parent / "link.jpg",
        file.parent / "folder" / "b.jpg",
        file.parent / "gone.jpg",
        file.parent,
    ):
        with pytest.raises(RetryError):
            retry(settings, store, wrong)
    assert file.exists()
    assert (settings.home / "sorted" / "b.jpg").read_bytes() == b"1"
    assert scan(settings.inbox) == {}


def test_no_file_goes_to_where_a_link_in_the_inbox_leads(
    settings: Settings, store: Store, quarantine: Quarantine, tmp_path: Path
) -> None:
    """Nobody looks for deliveries there: it would be lost."""
    file = quarantine("trip/a.jpg")
    (settings.inbox / "trip").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (settings.inbox / "trip").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RetryError, match="link"):
        retry(settings, store, file)
    assert file.exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_home_that_is_reached_by_a_link_is_no_hindrance(
    store: Store, quarantine: Quarantine, tmp_path: Path
) -> None:
    quarantine("a.jpg")
    (tmp_path / "by link").symlink_to(tmp_path)
    linked = Settings(home=tmp_path / "by link")
    assert retry(linked, store, linked.home / "quarantine" / "a.jpg") == linked.inbox / "a.jpg"
