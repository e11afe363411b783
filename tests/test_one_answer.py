"""One image, four doors, one answer: the same label and the same scores, whoever asks."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from core.bundle import STARTER, Bundle
from core.engine import Engine
from core.settings import Settings
from core.types import Prediction
from storage.results import ResultFilter
from storage.store import Store

Answers = dict[str, tuple[str, dict[str, float]]]  # file name -> label and scores


@pytest.fixture(scope="module")
def images(repository: Path) -> dict[str, bytes]:
    """The 500 test images of the demonstration data, by a flat name."""
    with zipfile.ZipFile(repository / "data" / "fashion5.zip") as archive:
        return {
            name.removeprefix("test/").replace("/", "-"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("test/") and name.endswith(".png")
        }


@pytest.fixture(scope="module")
def expected(images: dict[str, bytes]) -> Answers:
    """What the engine says in this process."""
    with Engine(Bundle.load(STARTER), 2, 10**8) as engine:
        outcomes = engine.classify(images.values())
    answers: Answers = {}
    for name, outcome in zip(images, outcomes, strict=True):
        assert isinstance(outcome, Prediction)
        scores = {item.label: item.score for item in outcome.scores}
        answers[name] = (outcome.label, scores)
    return answers


def pigeonhole(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pigeonhole", *arguments],
        env={**os.environ, "PIGEONHOLE_HOME": str(home), "PIGEONHOLE_SETTLE_S": "0.1"},
        capture_output=True,
        text=True,
        check=False,
    )


def assert_equal(answers: Answers, expected: Answers) -> None:
    assert answers.keys() == expected.keys()
    for name, (label, scores) in answers.items():
        assert label == expected[name][0], name
        assert scores == pytest.approx(expected[name][1], abs=1e-5), name


def test_the_command_line_gives_the_answer_of_the_engine(
    tmp_path: Path, images: dict[str, bytes], expected: Answers
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in images.items():
        (folder / name).write_bytes(data)
    done = pigeonhole(tmp_path / "home", "classify", str(folder), "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert_equal(
        {
            row["filename"]: (row["label"], {s["label"]: s["score"] for s in row["scores"]})
            for row in rows
        },
        expected,
    )


def test_the_inbox_gives_the_answer_of_the_engine(
    tmp_path: Path, images: dict[str, bytes], expected: Answers
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name, data in images.items():
        (inbox / name).write_bytes(data)
    done = pigeonhole(tmp_path, "watch", "--once")
    assert done.returncode == 0, done.stderr
    store = Store.open(f"sqlite:///{tmp_path / 'pigeonhole.db'}")
    answers = {
        row.filename: (row.label or "", {item.label: item.score for item in row.scores})
        for row in store.stream(ResultFilter())
    }
    store.close()
    assert_equal(answers, expected)


def test_an_upload_gives_the_answer_of_the_engine(
    tmp_path: Path, images: dict[str, bytes], expected: Answers
) -> None:
    answers: Answers = {}
    with TestClient(create_app(Settings.read(home=tmp_path))) as client:
        for name, data in images.items():
            response = client.post(
                "/v1/predict", files={"file": (name, io.BytesIO(data), "image/png")}
            )
            assert response.status_code == 201, response.text
            row = response.json()
            answers[name] = (row["label"], {s["label"]: s["score"] for s in row["scores"]})
    assert_equal(answers, expected)
