"""`pigeonhole models`: which there are, which serves, and another in its place."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from core import bundle
from core.bundle import STARTER, read_manifest
from core.recipe import Recipe
from core.registry import Registry

Call = Callable[..., Any]


@pytest.fixture
def served(home: Path) -> str:
    """The version of the model in HOME."""
    return read_manifest(home / "models" / "current").version


@pytest.fixture
def french(french_bundle: Path) -> str:
    return read_manifest(french_bundle).version


# --- show ----------------------------------------------------------------------------------------


def test_the_serving_model_is_shown(run: Call, home: Path) -> None:
    manifest = read_manifest(home / "models" / "current")
    found = run("models", "show", "--json").json
    assert set(found) == {"name", "version", "labels", "recipe", "metrics", "lineage"}
    assert found.items() <= json.loads(json.dumps(manifest.to_dict())).items()


def test_the_starter_is_found_by_its_version(run: Call, home: Path) -> None:
    starter = read_manifest(STARTER)
    assert run("models", "show", starter.version, "--json").json["name"] == starter.name
    assert home.exists()


def test_the_starter_serves_where_nothing_was_promoted(
    run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("models", "show", "--json").json["version"] == read_manifest(STARTER).version
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("home")
def test_people_can_read_it(run: Call) -> None:
    text = run("models", "show").text
    assert "rgb" in text
    assert "3: red, green, blue" in text
    assert "metrics.test_accuracy" in text
    assert "recipe.size_px" in text
    assert "lineage.made_by" in text


def test_the_way_from_the_zip_to_the_bundle_is_one_line(run: Call) -> None:
    manifest = read_manifest(STARTER)
    text = run("models", "show", manifest.version).text
    (line,) = [line for line in text.splitlines() if line.startswith("came from")]
    lineage = manifest.lineage
    assert line.split(maxsplit=2)[2].startswith(f"zip sha256 {lineage['zip_sha256']} -> DVC md5 ")
    assert line.endswith(f" -> bundle {manifest.version}")
    assert f"-> git {lineage['git_revision']} ->" in line


def test_an_unknown_version_names_those_that_exist(run: Call, served: str) -> None:
    done = run("models", "show", "\x1b[31m")
    assert done.code == 1
    assert "\\x1b[31m" in done.err
    assert read_manifest(STARTER).version in done.err
    assert served in done.err


# --- list ----------------------------------------------------------------------------------------


def test_the_list_says_which_model_serves(
    run: Call, home: Path, served: str, french: str, french_bundle: Path
) -> None:
    Registry(home).install(french_bundle)
    found = run("models", "list", "--json").json
    starter = read_manifest(STARTER)
    assert {item["version"]: item["current"] for item in found} == {
        served: True,
        french: False,
        starter.version: False,
    }
    text = run("models", "list").text
    (line,) = [line for line in text.splitlines() if "serves" in line]
    assert served in line
    assert "1.000" in line
    (line,) = [line for line in text.splitlines() if starter.version in line]
    assert "with the program" in line


def test_a_damaged_model_is_listed_as_such(run: Call, home: Path, french_bundle: Path) -> None:
    registry = Registry(home)
    registry.install(french_bundle)
    (item,) = registry.installed()
    (item.folder / "labels.txt").unlink()
    assert "labels.txt is missing" in run("models", "list").text
    assert "labels.txt is missing" in run("models", "list", "--json").json[0]["error"]


# --- promote and rollback ------------------------------------------------------------------------


def current(home: Path) -> str:
    return Registry(home).serving().name


def test_a_folder_is_promoted_and_taken_back(run: Call, home: Path, french_bundle: Path) -> None:
    done = run("models", "promote", str(french_bundle))
    assert done.code == 0, done.err
    assert current(home) == "french"
    assert "Not judged" in done.err
    assert "Promoted french" in done.err
    assert "`pigeonhole models rollback` takes it back" in done.err
    done = run("models", "rollback")
    assert "rgb" in done.err
    assert current(home) == "rgb"
    assert run("models", "rollback").code == 1


def test_a_version_of_the_list_is_promoted_by_its_beginning(
    run: Call, home: Path, french: str, french_bundle: Path
) -> None:
    Registry(home).install(french_bundle)
    assert run("models", "promote", french[:6]).code == 0
    assert current(home) == "french"
    starter = read_manifest(STARTER)
    assert run("models", "promote", starter.version).code == 0
    assert current(home) == starter.name


def test_what_serves_already_is_left_alone(run: Call, home: Path, served: str) -> None:
    done = run("models", "promote", served)
    assert (done.code, "serves already" in done.err) == (0, True)
    assert Registry(home).history() == []


def test_a_model_that_does_not_run_is_not_promoted(
    run: Call, home: Path, broken_bundle: Path
) -> None:
    done = run("models", "promote", str(broken_bundle), "--force")
    assert done.code == 1
    assert "4 labels, but the model answers" in done.err
    assert current(home) == "rgb"


@pytest.mark.usefixtures("home")
def test_a_folder_that_is_no_bundle_is_said(run: Call, tmp_path: Path) -> None:
    for name in (tmp_path, tmp_path / "nothing"):
        done = run("models", "promote", str(name))
        assert done.code == 1
        assert "bundle.json is missing" in done.err


@pytest.mark.usefixtures("home")
def test_with_no_candidate_it_asks_which(
    run: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    done = run("models", "promote")
    assert done.code == 1
    assert "Which model?" in done.err
    assert "pigeonhole train" in done.err


@pytest.fixture
def worse(
    home: Path, tmp_path: Path, rgb_model: bytes, repository: Path, paint: Callable[..., bytes]
) -> Path:
    """A checkout with test images, and a candidate that takes red for green."""
    assert home.parent == tmp_path
    colors = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
    for label, color in colors.items():
        folder = tmp_path / "data/images/test" / label
        folder.mkdir(parents=True)
        for number in range(8):
            (folder / f"{number}.png").write_bytes(paint(color, (20 + number, 20)))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(repository / name, tmp_path)
    candidate = tmp_path / "models" / "candidate"
    bundle.write(
        candidate,
        name="worse",
        weights=rgb_model,
        labels=["green", "red", "blue"],
        recipe=Recipe(size_px=8, mean=(0, 0, 0), std=(1, 1, 1)),
    )
    return candidate


@pytest.mark.usefixtures("worse")
def test_what_the_gate_refuses_is_not_promoted_unless_forced(
    run: Call, home: Path, tmp_path: Path
) -> None:
    done = run("models", "promote")
    assert done.code == 1
    assert "Refused: its accuracy" in done.err
    assert "--force promotes it anyway" in done.err
    assert current(home) == "rgb"
    assert "# The gate: refused" in (tmp_path / "reports/gate.md").read_text()
    assert run("models", "promote", "--force").code == 0
    assert current(home) == "worse"
    assert [move.why for move in Registry(home).history()] == ["forced, the gate was not asked"]


@pytest.mark.usefixtures("worse")
def test_what_the_gate_passes_is_promoted_with_its_sentence(run: Call, home: Path) -> None:
    run("models", "promote", "--force")
    better = Registry(home).previous()
    done = run("models", "promote", str(better))
    assert done.code == 0, done.err
    assert current(home) == "rgb"
    assert Registry(home).history()[-1].why.startswith("Passed: 100.0% of 24 test images right")


# --- import --------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """(N, 3, 8, 8) float32 to the mean of each channel: what most classifiers look like."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)],
        "theirs",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 3])],
    )
    opsets = [onnx.helper.make_opsetid("", 13)]
    path = tmp_path / "theirs.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    (tmp_path / "words.txt").write_text("rouge\nvert\nbleu\n")
    return path


def test_a_model_of_ones_own_is_brought_promoted_and_asked(
    run: Call, home: Path, foreign: Path, tmp_path: Path, paint: Callable[..., bytes]
) -> None:
    words = ("--labels", str(tmp_path / "words.txt"), "--size", "8", "--name", "mine")
    done = run("models", "import", str(foreign), *words, "--mean", "0,0,0", "--std", "1,1,1")
    assert done.code == 0, done.err
    assert "Imported mine" in done.err
    assert current(home) == "rgb"  # it waits to be promoted, ...
    (command,) = [line for line in done.err.splitlines() if "models promote" in line]
    assert run(*command.split()[1:]).code == 0  # ... and this is how
    (tmp_path / "a.png").write_bytes(paint("lime"))
    assert run("classify", str(tmp_path / "a.png")).lines[0]["label"] == "vert"


@pytest.mark.timeout(600)
def test_a_thousand_classes_need_no_training(
    run: Call, home: Path, tmp_path: Path, paint: Callable[..., bytes]
) -> None:
    done = run("models", "import", "imagenet")
    assert done.code == 0, done.err
    (found,) = Registry(home).installed()
    manifest = found.manifest
    assert isinstance(manifest, bundle.Manifest)
    assert (manifest.name, len(manifest.labels)) == ("imagenet", 1000)
    assert f"pigeonhole models promote {manifest.version}" in done.err
    assert run("models", "promote", manifest.version).code == 0
    (tmp_path / "a.png").write_bytes(paint("lime", (300, 250)))
    assert run("classify", str(tmp_path / "a.png")).lines[0]["label"] in manifest.labels


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--size", "8"), 2, "needs --labels FILE and --size"),
        (("--labels", "words.txt", "--size", "8", "--mean", "1,2"), 2, "write three numbers"),
        (("--labels", "words.txt", "--size", "9"), 1, "takes 8 x 8 pixels; give that as --size"),
        (("--labels", "missing.txt", "--size", "8"), 1, "one label a line"),
    ],
)
def test_what_cannot_be_imported_is_said(
    run: Call, home: Path, foreign: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = run("models", "import", foreign.name, *words)
    assert (done.code, said in done.err) == (code, True), done.err
    assert Registry(home).installed() == []


@pytest.mark.usefixtures("home")
def test_without_onnx_it_says_what_to_install(
    run: Call, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pigeonhole.models.find_spec", lambda _: None)
    done = run("models", "import", foreign.name, "--labels", "words.txt", "--size", "8")
    assert done.code == 1
    assert "pip install onnx" in done.err
