"""What the README promises is there."""

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from core.settings import PREFIX, Settings
from pigeonhole.cli import app

LIMIT_LINES = 140


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text("utf-8")


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def test_it_is_short(readme: str) -> None:
    assert len(readme.splitlines()) <= LIMIT_LINES


def test_every_target_it_names_is_in_the_makefile(readme: str, repository: Path) -> None:
    makefile = (repository / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE))
    assert {"run", "test", "train", "check", "bench"} <= named
    assert named <= targets


def test_every_command_it_names_exists(readme: str) -> None:
    command = get_command(app)
    commands: set[str] = set(getattr(command, "commands", {}))
    named = set(re.findall(r"(?:bin/|`)pigeonhole ([a-z]+)", readme))
    assert {"up", "watch", "results", "status", "classify", "doctor"} <= named
    assert named <= commands


def test_every_setting_it_names_exists(readme: str) -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]+)", readme))
    assert named
    assert named <= {name.upper() for name in Settings.model_fields}


def test_every_page_it_links_to_exists(readme: str, repository: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", readme)
    assert links
    for link in links:
        assert (repository / link).exists(), link


def test_make_run_once_ends_well_with_every_sample_classified(
    repository: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        ["make", "run", "ONCE=1"],
        cwd=repository,
        env={
            **os.environ,
            "PIGEONHOLE_HOME": str(tmp_path / "home"),
            "PIGEONHOLE_PORT": free_port(),
            "PIGEONHOLE_WATCHER_METRICS_PORT": free_port(),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    labels = {"bag", "dress", "sneaker", "t-shirt", "trouser"}
    assert labels <= set(re.findall(r"[a-z-]+", done.stdout))
    assert "127.0.0.1" in done.stdout + done.stderr
    assert not list((tmp_path / "home" / "inbox").iterdir())
