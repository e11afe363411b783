"""Files that are kept: nothing overwritten, nothing lost, and every step may be repeated."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from core.types import Failure, ModelRef, Outcome, Stamp
from storage import files
from storage.database import Database
from storage.files import (
    ChangedError,
    hash_file,
    label_folder,
    make_folder,
    put,
    put_at_once,
    put_reason,
    read_once,
    reason_path,
    remove,
    stamp_of,
    sync_folders,
)
from storage.results import ResultFilter
from storage.store import Finished, Store

MODEL = ModelRef("rgb", "1")
BYTES = b"the bytes of an image"
SHA = hashlib.sha256(BYTES).hexdigest()
TAG = "01234567"


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "home" / "sorted" / "cat"  # not there yet


@pytest.fixture
def drop(inbox: Path) -> Callable[..., Path]:
    def drop(name: str = "a.jpg", data: bytes = BYTES) -> Path:
        (inbox / name).write_bytes(data)
        return inbox / name

    return drop


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another device than `tmp_path`."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("NOT TESTED: copies between devices; /dev/shm is no device of its own here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


Drop = Callable[..., Path]


def stamp(path: Path) -> Stamp:
    return stamp_of(path.lstat())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024, 1024 * 1024 + 1])
def test_a_file_is_read_and_hashed_as_it_was_listed(size: int, drop: Drop) -> None:
    data = os.urandom(size)
    path = drop(data=data)

    assert read_once(path, stamp(path)) == data
    assert hash_file(path, stamp(path)) == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("read", [read_once, hash_file])
def test_what_is_gone_or_changed_is_not_read(
    read: Callable[[Path, Stamp], object], drop: Drop
) -> None:
    path = drop()
    before = stamp(path)

    path.write_bytes(BYTES + b"and more")
    with pytest.raises(ChangedError):
        read(path, before)

    path.write_bytes(BYTES)
    os.utime(path, ns=(0, before.mtime_ns + 1))
    with pytest.raises(ChangedError):
        read(path, before)

    path.unlink()
    with pytest.raises(ChangedError):
        read(path, before)

    path.mkdir()
    with pytest.raises(ChangedError):
        read(path, before)

    with pytest.raises(ChangedError):
        read(path.parent.parent / "gone" / path.name, before)


@pytest.mark.parametrize("read", [read_once, hash_file])
def test_a_file_in_the_place_of_its_folder_is_a_change(
    read: Callable[[Path, Stamp], object], inbox: Path, drop: Drop
) -> None:
    before = stamp(drop("a.jpg"))

    with pytest.raises(ChangedError):
        read(inbox / "a.jpg" / "b.jpg", before)


def test_another_file_with_size_and_time_of_the_first_is_a_change(drop: Drop) -> None:
    path = drop()
    before = stamp(path)
    other = drop("b.jpg", BYTES[::-1])
    os.utime(other, ns=(before.mtime_ns, before.mtime_ns))
    other.replace(path)

    with pytest.raises(ChangedError):
        read_once(path, before)


def test_a_link_is_not_followed(inbox: Path, drop: Drop) -> None:
    secret = drop("secret.jpg")
    (inbox / "a.jpg").symlink_to(secret)

    for seen in (stamp(inbox / "a.jpg"), stamp(secret)):
        with pytest.raises(ChangedError):
            read_once(inbox / "a.jpg", seen)


def test_nobody_waits_at_a_pipe(inbox: Path) -> None:
    os.mkfifo(inbox / "a.jpg")

    with pytest.raises(ChangedError):  # a plain open() would wait here for ever
        read_once(inbox / "a.jpg", stamp(inbox / "a.jpg"))


def test_a_socket_is_unreadable(inbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inbox)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("a.jpg")
        with pytest.raises(OSError, match="No such device"):
            read_once(inbox / "a.jpg", stamp(inbox / "a.jpg"))


def test_a_file_that_grows_while_it_is_read_is_refused(drop: Drop) -> None:
    path = drop()
    grown = stamp(path)
    with path.open("ab") as file:
        file.write(b"!")

    with pytest.raises(ChangedError):
        read_once(path, grown)


# --- putting ---------------------------------------------------------------------------------


def test_a_file_gets_a_second_name_and_keeps_its_first(drop: Drop, kept: Path) -> None:
    path = drop()

    target = put(path, stamp(path), kept, TAG, SHA)

    assert target == kept / "a.jpg"
    assert target.samefile(path)  # a link, not a copy
    assert names(kept) == ["a.jpg"]


def test_a_repeated_put_finds_its_own_link(drop: Drop, kept: Path) -> None:
    path = drop()
    seen = stamp(path)
    first = put(path, seen, kept, TAG, SHA)

    assert put(path, seen, kept, TAG, SHA) == first
    assert remove(path, seen)
    assert put(path, seen, kept, TAG, SHA) == first
    assert names(kept) == ["a.jpg"]


def test_a_file_with_no_other_name_is_put_at_once(drop: Drop, kept: Path) -> None:
    make_folder(kept)
    path = drop()

    assert put_at_once(str(path), stamp(path), str(kept / "a.jpg"))
    assert (kept / "a.jpg").samefile(path)


@pytest.mark.parametrize(
    "case", ["no folder", "taken", "taken by itself", "linked before", "newer", "gone", "a reason"]
)
def test_every_other_case_is_left_as_it_was(case: str, drop: Drop, kept: Path) -> None:
    """`put` decides those: with a second link of our own, one file would be filed twice."""
    if case != "no folder":
        make_folder(kept)
    name = "a.jpg.reason.json" if case == "a reason" else "a.jpg"
    path = drop(name)
    seen = stamp(path)
    if case == "taken":
        (kept / name).write_bytes(b"somebody else's")
    elif case == "taken by itself":
        os.link(path, kept / name)
    elif case == "linked before":
        os.link(path, kept / f"a-{TAG}.jpg")
    elif case == "newer":
        path.write_bytes(b"other bytes under the same name")
    elif case == "gone":
        path.unlink()
    before = {each: stamp(each) for each in kept.glob("*")}

    assert not put_at_once(str(path), seen, str(kept / name))
    assert {each: stamp(each) for each in kept.glob("*")} == before


def test_a_taken_name_is_left_alone(drop: Drop, kept: Path) -> None:
    make_folder(kept)
    (kept / "a.jpg").write_bytes(b"somebody else's")
    path = drop()

    target = put(path, stamp(path), kept, TAG, SHA)

    assert target == kept / f"a-{TAG}.jpg"
    assert target.read_bytes() == BYTES
    assert (kept / "a.jpg").read_bytes() == b"somebody else's"


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("a", f"a-{TAG}"),
        ("a.tar.gz", f"a.tar-{TAG}.gz"),
        ("a.", f"a-{TAG}."),
        ("a b.JPG", f"a b-{TAG}.JPG"),
        ("-rf", f"-rf-{TAG}"),
        ("a.jpg.reason.json", f"a.jpg.reason-{TAG}.json"),
    ],
)
def test_the_other_name_keeps_the_suffix(name: str, other: str, drop: Drop, kept: Path) -> None:
    make_folder(kept)
    (kept / name).write_bytes(b"somebody else's")
    path = drop(name)

    assert put(path, stamp(path), kept, TAG, SHA) == kept / other


@pytest.mark.parametrize("kind", ["folder", "dangling link", "link to the file", "pipe"])
def test_whatever_has_the_name_is_left_alone(kind: str, drop: Drop, kept: Path) -> None:
    path = drop()
    make_folder(kept)
    taken = kept / "a.jpg"
    if kind == "folder":
        taken.mkdir()
    elif kind == "dangling link":
        taken.symlink_to("nowhere")
    elif kind == "link to the file":
        taken.symlink_to(path)
    else:
        os.mkfifo(taken)
    before = stamp(taken)

    target = put(path, stamp(path), kept, TAG, SHA)

    assert target == kept / f"a-{TAG}.jpg"
    assert stamp(taken) == before


def test_the_link_under_the_other_name_is_found_when_the_first_name_is_free_again(
    drop: Drop, kept: Path
) -> None:
    make_folder(kept)
    (kept / "a.jpg").write_bytes(b"somebody else's")
    path = drop()
    seen = stamp(path)
    target = put(path, seen, kept, TAG, SHA)
    (kept / "a.jpg").unlink()

    assert put(path, seen, kept, TAG, SHA) == target
    assert names(kept) == [f"a-{TAG}.jpg"]


def test_when_all_names_are_taken_the_file_stays_and_it_is_said(drop: Drop, kept: Path) -> None:
    make_folder(kept)
    (kept / "a.jpg").write_bytes(b"1")
    (kept / f"a-{TAG}.jpg").write_bytes(b"2")
    path = drop()

    # To answer "the file is not there" would have the caller remove it.
    assert put(path, stamp(path), kept, TAG, SHA) == kept / f"a-{TAG}-2.jpg"
    for number in range(2, 10):
        (kept / f"a-{TAG}-{number}.jpg").unlink(missing_ok=True)
        (kept / f"a-{TAG}-{number}.jpg").write_bytes(b"n")
    with pytest.raises(FileExistsError, match="make room there"):
        put(path, stamp(path), kept, TAG, SHA)
    assert path.read_bytes() == BYTES


def test_two_files_of_one_name_and_the_same_bytes_stay_two(drop: Drop, kept: Path) -> None:
    for tag in ("1" * 8, "2" * 8):
        path = drop()
        os.utime(path, ns=(0, 0))
        seen = stamp(path)
        put(path, seen, kept, tag, SHA)
        remove(path, seen)

    assert names(kept) == ["a-22222222.jpg", "a.jpg"]


def test_what_is_not_there_is_not_put(drop: Drop, kept: Path) -> None:
    path = drop()
    seen = stamp(path)
    path.unlink()

    assert put(path, seen, kept, TAG, SHA) is None
    assert names(kept) == []


def test_a_newer_file_of_the_same_name_is_not_touched(drop: Drop, kept: Path) -> None:
    path = drop()
    seen = stamp(path)
    drop("new", b"newer").replace(path)

    assert put(path, seen, kept, TAG, SHA) is None
    assert not remove(path, seen)
    assert path.read_bytes() == b"newer"
    assert names(kept) == []


def test_a_file_that_was_written_to_is_not_touched(drop: Drop, kept: Path) -> None:
    path = drop()
    seen = stamp(path)
    with path.open("ab") as file:
        file.write(b"more")

    assert put(path, seen, kept, TAG, SHA) is None
    assert not remove(path, seen)
    assert names(kept) == []


def test_a_link_in_the_place_of_the_file_is_not_put(drop: Drop, kept: Path, inbox: Path) -> None:
    path = drop()
    seen = stamp(path)
    path.rename(inbox / "b.jpg")
    path.symlink_to("b.jpg")

    assert put(path, seen, kept, TAG, SHA) is None
    assert not remove(path, seen)
    assert names(kept) == []
    assert names(inbox) == ["a.jpg", "b.jpg"]


def test_a_file_in_the_place_of_the_inbox_folder_is_no_error(drop: Drop, kept: Path) -> None:
    path = drop()
    below = path / "b.jpg"  # `a.jpg` was a folder when it was listed

    assert put(below, Stamp(1, 2, 3, 4), kept, TAG, SHA) is None
    assert not remove(below, Stamp(1, 2, 3, 4))
    sync_folders([path])


def test_a_folder_that_vanishes_is_an_error_and_no_missing_file(
    drop: Drop, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Somebody removes sorted/cat/ between our mkdir and our link. To answer None would lose the
    # file. The moment cannot be met from outside, so the folder is never made.
    monkeypatch.setattr(files, "make_folder", lambda _: None)
    path = drop()

    with pytest.raises(FileNotFoundError):
        put(path, stamp(path), kept, TAG, SHA)
    assert path.read_bytes() == BYTES


# --- names -----------------------------------------------------------------------------------

LONG = [
    "x" * 251 + ".jpg",
    "é" * 125 + ".jpg",
    "日" * 83 + ".jpg",
    "🏺" * 62 + ".jpg",
    "y" * 255,
    "." + "z" * 254,
    "a." + "z" * 253,
    os.fsdecode(b"\x80" * 255),
    os.fsdecode(b"\xff" * 251 + b".jpg"),
]


@pytest.mark.parametrize("name", LONG)
def test_the_longest_names_find_room_for_tag_and_reason(name: str, inbox: Path, kept: Path) -> None:
    found = set()
    for number in range(4):
        path = inbox / name
        path.write_bytes(b"%d" % number)
        seen = stamp(path)
        target = put(path, seen, kept, f"{number}" * 8, None)
        assert target
        put_reason(target, {"number": number})
        assert remove(path, seen)
        found.add(target)

    assert len(found) == 4
    assert {target.read_bytes() for target in found} == {b"0", b"1", b"2", b"3"}
    for target in found:  # and each has the reason that is its own
        assert json.loads(reason_path(target).read_text())["number"] == int(target.read_bytes())
    assert len(names(kept)) == 8


def test_long_names_that_differ_only_at_the_end_keep_their_reasons_apart(
    inbox: Path, kept: Path
) -> None:
    for number in range(5):
        path = inbox / ("x" * 250 + f"{number}.jpg")
        path.write_bytes(b"%d" % number)
        target = put(path, stamp(path), kept, f"{number}" * 8, None)
        assert target
        put_reason(target, {"number": number})

    assert len(names(kept)) == 10


@pytest.mark.parametrize("name", LONG)
def test_names_are_cut_at_a_whole_letter(name: str, kept: Path) -> None:
    cut = reason_path(kept / name).name

    assert len(os.fsencode(cut)) <= 255
    assert cut.endswith(".reason.json")
    if name.isprintable():
        assert cut.isprintable()  # no half of a letter, which would be a surrogate


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("cat", "cat"),
        ("T-shirt/top", "T-shirt_top"),
        ("..", "_"),
        (".", "_"),
        ("", "_"),
        ("   ", "_"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("/etc", "_etc"),
        ("..\\..\\x", "_.._x"),
        ("a\0b", "a_b"),
        (".hidden", "hidden"),
        ("~", "~"),
        ("x" * 300, "x" * 255),
        ("é" * 200, "é" * 127),
        ("日本語", "日本語"),
        ("\ud800x\udcff", "?x?"),
        ("line\nbreak", "line\nbreak"),
    ],
)
def test_a_label_becomes_one_harmless_folder(label: str, folder: str, tmp_path: Path) -> None:
    assert label_folder(label) == folder
    make_folder(tmp_path / label_folder(label))
    assert names(tmp_path) == [folder]


def test_a_letter_and_its_accent_stay_together_as_they_came() -> None:
    assert label_folder(unicodedata.normalize("NFD", "é")) == "e\u0301"


# --- reasons ---------------------------------------------------------------------------------


def test_a_reason_is_json_beside_the_file(kept: Path) -> None:
    make_folder(kept)

    put_reason(kept / "a.jpg", {"code": "x", "file": "ä\n"})

    assert names(kept) == ["a.jpg.reason.json"]
    assert json.loads((kept / "a.jpg.reason.json").read_text()) == {"code": "x", "file": "ä\n"}


def test_a_reason_that_cannot_be_written_leaves_nothing(kept: Path) -> None:
    make_folder(kept)

    with pytest.raises(TypeError):
        put_reason(kept / "a.jpg", {"code": object()})

    assert names(kept) == []


def test_a_users_file_that_is_called_like_a_reason_is_never_overwritten(
    drop: Drop, kept: Path
) -> None:
    make_folder(kept)
    (kept / "a.jpg.reason.json").write_text("mine")
    path = drop()

    target = put(path, stamp(path), kept, TAG, SHA)
    assert target == kept / f"a-{TAG}.jpg"
    put_reason(target, {"code": "x"})

    assert names(kept) == ["a-01234567.jpg", "a-01234567.jpg.reason.json", "a.jpg.reason.json"]
    assert (kept / "a.jpg.reason.json").read_text() == "mine"


def test_a_delivery_that_is_called_like_a_reason_never_takes_its_place(
    drop: Drop, kept: Path
) -> None:
    # a.jpg is linked, and then the watcher dies before it writes the reason.
    path, imitation = drop("a.jpg"), drop("a.jpg.reason.json", b"a user's own")
    target = put(path, stamp(path), kept, TAG, SHA)
    assert target
    other = put(imitation, stamp(imitation), kept, "2" * 8, None)
    put_reason(target, {"code": "x"})

    assert other
    assert other.read_bytes() == b"a user's own"
    assert json.loads((kept / "a.jpg.reason.json").read_text()) == {"code": "x"}


def test_a_reason_that_came_by_hand_meanwhile_stays(drop: Drop, kept: Path) -> None:
    path = drop()
    target = put(path, stamp(path), kept, TAG, SHA)
    assert target
    (kept / "a.jpg.reason.json").write_text("mine")

    put_reason(target, {"code": "x"})

    assert (kept / "a.jpg.reason.json").read_text() == "mine"


# --- folders ---------------------------------------------------------------------------------


def test_folders_are_made_with_their_parents_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "a" / "b" / "c")

    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_folder_cannot_be_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")

    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            make_folder(folder)


def test_folders_that_are_gone_need_no_sync(tmp_path: Path) -> None:
    sync_folders([tmp_path, tmp_path / "gone", tmp_path])
    sync_folders([])


def test_to_remove_what_is_gone_is_no_error(drop: Drop) -> None:
    path = drop()
    seen = stamp(path)

    assert remove(path, seen)
    assert not remove(path, seen)


# --- another device --------------------------------------------------------------------------


def test_between_devices_the_bytes_are_copied_with_their_time(drop: Drop, elsewhere: Path) -> None:
    path = drop()
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))

    target = put(path, stamp(path), elsewhere / "cat", TAG, SHA)

    assert target == elsewhere / "cat" / "a.jpg"
    assert target.read_bytes() == BYTES
    assert target.stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert names(elsewhere / "cat") == ["a.jpg"]  # and nothing hidden


def test_a_repeated_put_finds_its_own_copy(drop: Drop, elsewhere: Path) -> None:
    path = drop()
    seen = stamp(path)
    first = put(path, seen, elsewhere, TAG, SHA)

    assert put(path, seen, elsewhere, TAG, SHA) == first
    assert remove(path, seen)
    assert put(path, seen, elsewhere, TAG, SHA) == first
    assert names(elsewhere) == ["a.jpg"]


def test_half_a_copy_from_before_a_crash_is_made_anew(drop: Drop, elsewhere: Path) -> None:
    path = drop()
    (elsewhere / f".part-{TAG}").write_bytes(BYTES[:5])

    target = put(path, stamp(path), elsewhere, TAG, SHA)

    assert target
    assert target.read_bytes() == BYTES
    assert names(elsewhere) == ["a.jpg"]


def test_between_devices_too_a_taken_name_is_left_alone(drop: Drop, elsewhere: Path) -> None:
    (elsewhere / "a.jpg").write_bytes(b"somebody else's file!")
    assert len(b"somebody else's file!") == len(BYTES)
    path = drop()
    os.utime(elsewhere / "a.jpg", ns=(0, stamp(path).mtime_ns))

    target = put(path, stamp(path), elsewhere, TAG, SHA)

    assert target == elsewhere / f"a-{TAG}.jpg"
    assert (elsewhere / "a.jpg").read_bytes() == b"somebody else's file!"


def test_between_devices_too_two_drops_of_the_same_bytes_stay_two(
    drop: Drop, elsewhere: Path
) -> None:
    for number in range(2):
        path = drop()
        os.utime(path, ns=(0, 1_234_567_890_123_456_789 + number))
        put(path, stamp(path), elsewhere, f"{number}" * 8, SHA)
        path.unlink()

    assert names(elsewhere) == ["a-11111111.jpg", "a.jpg"]


def test_between_devices_too_a_changed_file_is_not_put(drop: Drop, elsewhere: Path) -> None:
    path = drop()
    seen = stamp(path)
    drop("new", b"newer").replace(path)

    assert put(path, seen, elsewhere, TAG, SHA) is None
    path.unlink()
    assert put(path, seen, elsewhere, TAG, SHA) is None
    assert names(elsewhere) == []


def test_a_copy_for_which_there_is_no_room_leaves_nothing_behind(
    drop: Drop, elsewhere: Path, drive: Callable[..., subprocess.Popen[str]]
) -> None:
    path = drop(data=os.urandom(200_000))

    said, _ = drive("put_in_little_room.py", path, elsewhere).communicate()

    assert said == "File too large\n"
    assert names(elsewhere) == []
    assert len(path.read_bytes()) == 200_000


# --- crashes ---------------------------------------------------------------------------------


@pytest.fixture
def recorded(
    tmp_path: Path, empty_database: Path, finished: Callable[..., Finished], now: datetime
) -> Callable[[Outcome | None], list[Path]]:
    """Sixteen homes whose watcher died when the row was committed and the file not put away."""

    def recorded(outcome: Outcome | None) -> list[Path]:
        homes = [tmp_path / f"home {number}" for number in range(16)]
        for home in homes:
            (home / "inbox").mkdir(parents=True)
            (home / "inbox" / "a.jpg").write_bytes(BYTES)
            shutil.copy(empty_database, home / "pigeonhole.db")
            store = Store(Database(f"sqlite:///{home / 'pigeonhole.db'}"))
            seen = [("a.jpg", stamp(home / "inbox" / "a.jpg"))]
            (delivery,) = store.claim(seen, "me", now, 60)
            image = finished("a.jpg", sha=SHA, outcome=outcome, delivery=delivery)
            store.record([image], source="watcher", model=MODEL, min_confidence=0, now=now)
            store.close()
        return homes

    return recorded


@pytest.mark.parametrize(
    ("is_image", "is_elsewhere", "is_taken"),
    [
        (True, False, False),
        (True, False, True),
        (True, True, False),
        (False, False, False),
        (False, True, True),
    ],
)
def test_a_kill_before_any_change_of_the_disk_costs_nothing(
    is_image: bool,
    is_elsewhere: bool,
    is_taken: bool,
    recorded: Callable[[Outcome | None], list[Path]],
    failure: Failure,
    request: pytest.FixtureRequest,
    drive: Callable[..., subprocess.Popen[str]],
) -> None:
    homes = recorded(None if is_image else failure)
    for home in homes:
        if is_elsewhere:
            there = request.getfixturevalue("elsewhere") / home.name
            there.mkdir()
            (home / "kept").symlink_to(there)
        if is_taken:
            make_folder(home / "kept" / "cat")
            (home / "kept" / "cat" / "a.jpg").write_bytes(b"somebody else's")

    said, complaints = drive("put_away.py", "kept/cat", *homes).communicate()

    assert complaints == ""
    ends = said.split()
    assert ends == ["killed"] * (len(ends) - 1) + ["0"]  # killed at every step, and then through
    assert len(ends) > 4
    for home in homes[: len(ends)]:
        assert_all_is_well(home, is_image=is_image, is_taken=is_taken)


def assert_all_is_well(home: Path, *, is_image: bool, is_taken: bool) -> None:
    """One row, one name, the bytes whole, and nothing left to do or to sweep away."""
    store = Store(Database(f"sqlite:///{home / 'pigeonhole.db'}"))
    (row,) = store.stream(ResultFilter())
    assert row.path
    target = Path(row.path)
    assert target.read_bytes() == BYTES
    ours = [target.name] if is_image else [target.name, f"{target.name}.reason.json"]
    theirs = ["a.jpg"] if is_taken else []
    assert names(home / "kept" / "cat") == sorted([*ours, *theirs]), home
    assert (target.name == "a.jpg") is not is_taken
    assert names(home / "inbox") == []
    assert store.owners() == []
    store.close()
