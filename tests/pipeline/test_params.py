"""params.yaml says everything and nothing else, or is refused in words."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline import params
from pipeline.params import ParamsError


@pytest.fixture
def edited(repository: Path, tmp_path: Path) -> Path:
    """A copy of params.yaml to be altered."""
    return Path(shutil.copy(repository / "params.yaml", tmp_path))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_the_committed_file_is_read_as_it_is_written(repository: Path) -> None:
    written = yaml.safe_load((repository / "params.yaml").read_text())
    assert params.to_dict(params.read(repository / "params.yaml")) == written


def test_the_sections_are_frozen(repository: Path) -> None:
    section = params.read(repository / "params.yaml").train
    with pytest.raises(dataclasses.FrozenInstanceError):
        section.seed = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "nothing\n  seed: 7",
            "nothing\n  seed: 7\n  sead: 7",
            "params.yaml: train.sead: Unexpected keyword argument",
        ),
        ("nothing\n  seed: 7", "nothing", "params.yaml: train.seed: Field required"),
        (
            "nothing\n  seed: 7",
            "nothing\n  seed: many",
            "params.yaml: train.seed: Input should be a valid integer",
        ),
        (
            "nothing\n  seed: 7",
            "nothing\n  seed: 7.5",
            "train.seed: Input should be a valid integer",
        ),
        ("crop: none\n", "crop: round\n", "preprocess.recipes.small.crop: Input should be 'none'"),
        (
            "patience: 15",
            "patience: 0",
            "train.fit.patience: Input should be greater than or equal to 1",
        ),
        ("filters: [16, 32], kernel_px: 3", "filters: [16], kernel_px: 3", "cnn1.cnn.filters.1"),
        ("train:", "trian:", "params.yaml: train: Field required"),
        ("unzip:", "unzip: [", "cannot be read"),
    ],
)
def test_a_mistake_is_refused_by_its_name(edited: Path, old: str, new: str, message: str) -> None:
    replace(edited, old, new)
    with pytest.raises(ParamsError) as caught:
        params.read(edited)
    assert message in str(caught.value)


def test_every_mistake_is_named_at_once(edited: Path) -> None:
    replace(edited, "nothing\n  seed: 7", "nothing")
    replace(edited, "patience: 15", "patience: -1")
    with pytest.raises(ParamsError) as caught:
        params.read(edited)
    assert len(str(caught.value).splitlines()) == 2


def test_numbers_are_read_as_dvc_writes_them(edited: Path) -> None:
    replace(edited, "tolerance: 0.005", "tolerance: 1e-05")
    assert params.read(edited).select.tolerance == 0.00001


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="top of the repository"):
        params.read(tmp_path / "params.yaml")
