"""Bundles come in whole, one pointer says which serves; what is killed leaves no half."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core.bundle import STARTER, Bundle, locate, read_manifest
from core.errors import BundleError
from core.registry import Registry

DRIVER = Path(__file__).parent / "drivers" / "move_pointer.py"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Registry:
    return Registry(home)


def promoted(registry: Registry, folder: Path) -> str:
    version = registry.install(folder).version
    return registry.promote(version, "a test").version


def serving(registry: Registry) -> str:
    """The name of what serves; the bundle is loaded, as serving would."""
    return Bundle.load(locate(registry.home)).ref.name


def test_looking_makes_nothing(registry: Registry, tmp_path: Path) -> None:
    assert registry.installed() == []
    assert registry.history() == []
    assert registry.previous() is None
    assert registry.serving() == read_manifest(STARTER)
    assert list(tmp_path.iterdir()) == []


def test_an_installed_bundle_is_a_read_only_copy_and_does_not_serve(
    registry: Registry, rgb_bundle: Path
) -> None:
    manifest = registry.install(rgb_bundle)
    (item,) = registry.installed()
    assert item.folder == registry.home / "models" / "bundles" / manifest.version
    assert item.manifest == manifest == read_manifest(rgb_bundle)
    for file in item.folder.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o444
        assert file.read_bytes() == (rgb_bundle / file.name).read_bytes()
    assert registry.serving().version == read_manifest(STARTER).version


def test_links_into_a_cache_become_files_of_our_own(
    registry: Registry, rgb_bundle: Path, tmp_path: Path
) -> None:
    candidate = tmp_path / "candidate"
    candidate.mkdir()
    for file in rgb_bundle.iterdir():
        (candidate / file.name).symlink_to(file)
    registry.install(candidate)
    (item,) = registry.installed()
    assert not any(file.is_symlink() for file in item.folder.iterdir())


def test_a_version_that_is_there_is_not_copied_again(registry: Registry, rgb_bundle: Path) -> None:
    registry.install(rgb_bundle)
    (before,) = registry.installed()
    inode = (before.folder / "model.onnx").stat().st_ino
    registry.install(rgb_bundle)
    (after,) = registry.installed()
    assert (after.folder / "model.onnx").stat().st_ino == inode


def test_a_version_that_was_damaged_on_disk_is_mended_by_installing_it_again(
    registry: Registry, rgb_bundle: Path
) -> None:
    promoted(registry, rgb_bundle)
    file = locate(registry.home).resolve() / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(b"rust")
    (damaged,) = [item for item in registry.installed() if isinstance(item.manifest, str)]
    assert "model.onnx is not the file" in str(damaged.manifest)
    registry.install(rgb_bundle)
    assert serving(registry) == "rgb"


def test_half_a_bundle_is_refused_and_leaves_nothing(
    registry: Registry, rgb_bundle: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(rgb_bundle, half)
    (half / "labels.txt").unlink()
    with pytest.raises(BundleError, match=r"labels\.txt is missing"):
        registry.install(half)
    assert registry.installed() == []


def test_the_pointer_is_a_relative_link_so_that_home_can_be_moved(
    registry: Registry, rgb_bundle: Path
) -> None:
    version = promoted(registry, rgb_bundle)
    pointer = registry.home / "models" / "current"
    assert pointer.readlink() == Path(f"bundles/{version}")
    moved = registry.home.rename(registry.home.with_name("elsewhere"))
    assert Registry(moved).serving().version == version


def test_a_bundle_that_does_not_run_is_never_promoted(
    registry: Registry, rgb_bundle: Path, broken_bundle: Path
) -> None:
    promoted(registry, rgb_bundle)
    version = registry.install(broken_bundle).version
    with pytest.raises(BundleError, match="4 labels, but the model answers"):
        registry.promote(version, "hope")
    assert serving(registry) == "rgb"
    assert len(registry.history()) == 1


def test_each_rollback_goes_one_model_further_back_to_the_starter(
    registry: Registry, rgb_bundle: Path, french_bundle: Path
) -> None:
    rgb, french = promoted(registry, rgb_bundle), promoted(registry, french_bundle)
    assert registry.rollback("bad").version == rgb
    assert registry.rollback("bad too").version == read_manifest(STARTER).version
    with pytest.raises(BundleError, match="nothing to go back to"):
        registry.rollback("and now?")
    assert [(move.action, move.after, move.why) for move in registry.history()] == [
        ("promote", rgb, "a test"),
        ("promote", french, "a test"),
        ("rollback", rgb, "bad"),
        ("rollback", read_manifest(STARTER).version, "bad too"),
    ]


def test_a_rollback_never_returns_to_what_was_rolled_back(
    registry: Registry, rgb_bundle: Path, french_bundle: Path
) -> None:
    promoted(registry, rgb_bundle)
    promoted(registry, french_bundle)
    registry.rollback("french is bad")
    promoted(registry, STARTER)
    assert registry.rollback("the starter is worse").name == "rgb"


def test_promoting_what_serves_changes_nothing(registry: Registry, rgb_bundle: Path) -> None:
    promoted(registry, rgb_bundle)
    promoted(registry, rgb_bundle)
    assert len(registry.history()) == 1


def test_a_folder_that_was_put_in_place_by_hand_is_kept_as_a_bundle(
    registry: Registry, rgb_bundle: Path, french_bundle: Path
) -> None:
    shutil.copytree(rgb_bundle, registry.home / "models" / "current")
    promoted(registry, french_bundle)
    assert serving(registry) == "french"
    assert registry.rollback("by hand was better").name == "rgb"


def test_a_pointer_that_was_moved_by_hand_is_what_a_rollback_starts_from(
    registry: Registry, rgb_bundle: Path, french_bundle: Path
) -> None:
    rgb = promoted(registry, rgb_bundle)
    french = registry.install(french_bundle).version
    pointer = registry.home / "models" / "current"
    pointer.unlink()
    pointer.symlink_to(f"bundles/{french}")
    assert registry.previous() == rgb
    assert registry.rollback("undo").version == rgb


def test_a_damaged_model_that_serves_can_be_left_behind(
    registry: Registry, rgb_bundle: Path, french_bundle: Path
) -> None:
    promoted(registry, french_bundle)
    promoted(registry, rgb_bundle)
    (locate(registry.home).resolve() / "labels.txt").unlink()
    assert registry.rollback("damaged").name == "french"
    (locate(registry.home).resolve() / "labels.txt").unlink()
    promoted(registry, STARTER)
    assert serving(registry) == read_manifest(STARTER).name


def test_a_line_of_the_history_that_was_cut_short_spoils_no_other(
    registry: Registry, rgb_bundle: Path, french_bundle: Path
) -> None:
    promoted(registry, rgb_bundle)
    with (registry.home / "models" / "history.jsonl").open("ab") as file:
        file.write(b'{"when": "2026-11-2')
    promoted(registry, french_bundle)
    assert [move.after for move in registry.history()] == [
        read_manifest(rgb_bundle).version,
        read_manifest(french_bundle).version,
    ]


def test_a_version_is_found_by_its_beginning(registry: Registry, rgb_bundle: Path) -> None:
    version = registry.install(rgb_bundle).version
    assert registry.find(version).name == version
    assert registry.find(version[:4]).name == version
    assert registry.find(read_manifest(STARTER).version) == STARTER
    for nonsense in ("", "zzz"):
        with pytest.raises(BundleError, match="no model of version"):
            registry.find(nonsense)


def driven(action: str, bundle: Path, homes: list[Path]) -> list[str]:
    """How the attempt in each home ended: killed one step later each time, the last in peace."""
    done = subprocess.run(
        [sys.executable, str(DRIVER), action, str(bundle), *map(str, homes)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    ends = done.stdout.split()
    assert ends[-1] == "0"
    assert len(ends) > 4
    assert set(ends[:-1]) == {"killed"}
    return ends


@pytest.mark.parametrize("action", ["promote", "rollback"])
def test_killed_between_any_two_steps_the_old_or_the_new_model_serves(
    action: str, tmp_path: Path, rgb_bundle: Path, french_bundle: Path
) -> None:
    template = Registry(tmp_path / "template")
    promoted(template, rgb_bundle)
    before, after = "rgb", "french"
    if action == "rollback":
        promoted(template, french_bundle)
        before, after = after, before
    homes = [tmp_path / f"home-{number}" for number in range(60)]
    for home in homes:
        shutil.copytree(template.home, home, symlinks=True)
    ends = driven(action, french_bundle, homes)
    served = [serving(Registry(home)) for home in homes[: len(ends)]]
    assert set(served) == {before, after}
    assert served == sorted(served, key=(before, after).index)  # one moment, no way back

    for home, name in zip(homes, served, strict=False):
        registry = Registry(home)
        if name == before:  # what was stopped can be done again, ...
            if action == "promote":
                promoted(registry, french_bundle)
            else:
                registry.rollback("again")
        assert serving(registry) == after
        back = registry.rollback("and back").name  # ... and the way back is known
        assert back == ("rgb" if action == "promote" else read_manifest(STARTER).name)
        assert not list((home / "models" / "bundles").glob(".*"))


def test_killed_while_a_folder_by_hand_gives_way_nothing_is_lost(
    tmp_path: Path, rgb_bundle: Path, french_bundle: Path
) -> None:
    """A folder cannot be swapped for a link in one step: between two, the starter may serve."""
    homes = [tmp_path / f"home-{number}" for number in range(80)]
    for home in homes:
        shutil.copytree(rgb_bundle, home / "models" / "current")
    ends = driven("promote", french_bundle, homes)
    for home in homes[: len(ends)]:
        registry = Registry(home)
        assert serving(registry) in ("rgb", "french", read_manifest(STARTER).name)
        registry.install(rgb_bundle)  # whatever is done next clears up
        assert serving(registry) in ("rgb", "french")
        promoted(registry, french_bundle)
        assert registry.rollback("and back").name == "rgb"


def test_promotions_at_once_stand_in_line(
    registry: Registry, rgb_bundle: Path, french_bundle: Path
) -> None:
    code = (
        "import sys, pathlib; from core.registry import Registry\n"
        "registry = Registry(pathlib.Path(sys.argv[1]))\n"
        "for folder in sys.argv[2:] * 5:\n"
        "    registry.promote(registry.install(pathlib.Path(folder)).version, 'a race')\n"
    )
    command = [sys.executable, "-c", code, str(registry.home), str(rgb_bundle), str(french_bundle)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    racers = [subprocess.Popen(command, env=environ) for _ in range(3)]
    assert [racer.wait(timeout=100) for racer in racers] == [0, 0, 0]
    moves = registry.history()
    assert [move.before for move in moves[1:]] == [move.after for move in moves[:-1]]
    assert registry.serving().version == moves[-1].after
    assert len(registry.installed()) == 3  # the starter, which served first, is kept too
