import os
import subprocess
import sys
from pathlib import Path

from storage.store import Store


def migrate(home: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "storage.migrations"],
        env={**os.environ, "PIGEONHOLE_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_migrates_an_empty_home_and_ends(tmp_path: Path) -> None:
    for _ in range(2):
        answer = migrate(tmp_path / "home")
        assert (answer.returncode, answer.stderr) == (0, "")

    store = Store.open(f"sqlite:///{tmp_path}/home/pigeonhole.db")
    assert store.count() == 0
    store.close()


def test_says_what_to_do_when_the_database_cannot_be_had(tmp_path: Path) -> None:
    answer = migrate(tmp_path, PIGEONHOLE_DATABASE_URL="mysql://x")

    assert answer.returncode == 1
    assert "PIGEONHOLE_DATABASE_URL" in answer.stderr
    assert "Traceback" not in answer.stderr
