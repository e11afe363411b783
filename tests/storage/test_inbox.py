"""What counts as lying in the inbox."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from core.settings import Settings
from storage.inbox import is_gone, scan, survey
from storage.rules import IGNORED, Rules, is_ignored


def test_files_are_found_in_every_sub_folder_by_their_relative_path(tmp_path: Path) -> None:
    (tmp_path / "trip" / "day 1").mkdir(parents=True)
    (tmp_path / "a.jpg").write_bytes(b"123")
    (tmp_path / "trip" / "day 1" / "b.jpg").write_bytes(b"12345")
    found = scan(tmp_path)
    assert {path: stamp.size_bytes for path, stamp in found.items()} == {
        "a.jpg": 3,
        "trip/day 1/b.jpg": 5,
    }


@pytest.mark.parametrize(
    "name",
    [".hidden.jpg", "~lock.jpg", "a.jpg~", "a.jpg.part", "a.tmp", "x.crdownload", "Thumbs.db"],
)
def test_half_written_and_system_files_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"1")
    assert scan(tmp_path) == {}
    assert is_ignored(name)


def test_folders_of_systems_are_not_entered(tmp_path: Path) -> None:
    for name in ("@eaDir", "__MACOSX", ".stfolder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(b"1")
    assert scan(tmp_path) == {}


def test_links_pipes_and_folders_that_look_like_images_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(b"1")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "link.jpg").symlink_to(tmp_path / "elsewhere" / "a.jpg")
    (inbox / "folder link").symlink_to(tmp_path / "elsewhere")
    (inbox / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    (inbox / "folder.jpg").mkdir()
    os.mkfifo(inbox / "pipe.jpg")
    assert scan(inbox) == {}


def test_a_missing_inbox_is_an_error_not_an_empty_inbox(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        scan(tmp_path / "not mounted")


def test_names_of_every_kind_are_listed(tmp_path: Path) -> None:
    names = ["a\nb.jpg", "-rf.jpg", "\N{GRINNING FACE}.jpg", "e\u0301.jpg", "x" * 251 + ".jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / os.fsdecode(b"bad\xff.jpg")).write_bytes(b"1")
    assert set(scan(tmp_path)) == {*names, os.fsdecode(b"bad\xff.jpg")}


def test_no_pattern_hides_an_ordinary_photo() -> None:
    ordinary = ["IMG_0001.JPG", "photo.jpeg", "scan 1.tiff", "a.b.c.png", "no_extension"]
    assert not any(is_ignored(name) for name in ordinary)
    assert len(set(IGNORED)) == len(IGNORED)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")


def test_a_survey_says_of_everything_why_it_is_not_taken(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "b.part", tmp_path / "@eaDir" / "c.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    found = survey(tmp_path)
    assert set(found.files) == {"a.jpg"}
    assert found.ignored == {"b.part": "*.part", "@eaDir": "@eaDir"}
    assert found.special == ["link.jpg"]
    assert (found.unmarked, found.orphans) == ([], [])


@pytest.mark.parametrize(
    ("pattern", "kept_out"),
    [
        ("*.bak", {"a.bak", "raw/a.bak"}),
        ("raw", {"raw"}),
        ("raw/*.jpg", {"raw/a.jpg", "raw/deep/a.jpg"}),
        ("/raw/a.jpg", {"raw/a.jpg"}),
        ("A.jpg", set()),
        ("[ab].jpg", {"a.jpg", "raw/a.jpg", "raw/deep/a.jpg"}),
    ],
)
def test_own_patterns_keep_out_names_or_whole_paths(
    pattern: str, kept_out: set[str], tmp_path: Path
) -> None:
    names = ["a.jpg", "a.bak", "raw/a.jpg", "raw/a.bak", "raw/deep/a.jpg", "c.part"]
    touch(*(tmp_path / name for name in names))
    rules = Rules.of(Settings(home=tmp_path, ignore=f"nothing, {pattern} ,"))
    found = survey(tmp_path, rules)
    assert found.ignored == {**dict.fromkeys(kept_out, pattern), "c.part": "*.part"}


def test_with_a_done_suffix_only_marked_files_are_taken(tmp_path: Path) -> None:
    names = ["a.jpg", "a.jpg.done", "b.jpg", "trip/c.jpg", "trip/c.jpg.done", "gone.jpg.done"]
    touch(*(tmp_path / name for name in names))
    found = survey(tmp_path, Rules(done_suffix=".done"))
    assert set(found.files) == {"a.jpg", "trip/c.jpg"}
    assert found.unmarked == ["b.jpg"]
    assert found.orphans == ["gone.jpg.done"]


def test_the_done_file_of_a_done_file_makes_no_image_of_it(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg.done", tmp_path / "a.jpg.done.done")
    found = survey(tmp_path, Rules(done_suffix=".done"))
    assert found.files == {}


def test_a_file_is_gone_when_it_was_removed_replaced_or_went_with_its_folder(
    tmp_path: Path,
) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "trip" / "b.jpg")
    found = scan(tmp_path)
    assert not any(is_gone(tmp_path, path, stamp) for path, stamp in found.items())
    assert is_gone(tmp_path, "a.jpg", replace(found["a.jpg"], mtime_ns=1)), "replaced"
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "trip" / "b.jpg").unlink()
    (tmp_path / "trip").rmdir()
    assert all(is_gone(tmp_path, path, stamp) for path, stamp in found.items())
    touch(tmp_path / "trip")  # a file where a folder was
    assert is_gone(tmp_path, "trip/b.jpg", found["trip/b.jpg"])


def test_no_file_is_gone_while_its_disk_is_or_while_nobody_may_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "trip" / "b.jpg")
    ((path, stamp),) = scan(tmp_path).items()
    (tmp_path / path).unlink()
    elsewhere = replace(stamp, device=stamp.device + 1)
    assert not is_gone(tmp_path, path, elsewhere), "its file system may be mounted again"
    touch(tmp_path / path)
    assert not is_gone(tmp_path, path, elsewhere), "what lies in its place is another"

    def refusing(place: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(place))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", refusing)
        assert not is_gone(tmp_path, path, stamp)
    with pytest.raises(FileNotFoundError):
        is_gone(tmp_path / "not mounted", path, stamp)
