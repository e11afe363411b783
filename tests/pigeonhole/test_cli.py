"""The front door as a whole: help, errors, and that the documents tell the truth."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from core.settings import Settings
from pigeonhole.cli import app
from storage import export

Call = Callable[..., Any]


def commands(command: Any, path: str = "pigeonhole") -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    """Every command that does something, by what one types for it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, child in below.items():
        yield from commands(child, f"{path} {name}")


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_all_commands_of_the_contract_are_there() -> None:
    assert set(COMMANDS) >= {
        f"pigeonhole {name}"
        for name in (
            *("up", "watch", "serve", "classify", "results", "status", "config", "doctor", "demo"),
            "models show",
        )
    }


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_explains_itself(run: Call, path: str) -> None:
    done = run(*path.split()[1:], "--help")
    assert done.code == 0
    assert done.text.startswith(f"Usage: {path} ")


def test_the_list_of_commands_cuts_no_sentence_short(run: Call) -> None:
    done = run("--help")
    assert done.code == 0
    assert "..." not in done.text.partition("Commands:")[2]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_and_option_is_in_the_document(repository: Path, path: str) -> None:
    text = (repository / "docs" / "cli.md").read_text("utf-8")
    found = re.search(rf"^## `{path}( [^`]*)?`\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert found, f"no chapter for {path}"
    for parameter in COMMANDS[path].params:
        for name in (*parameter.opts, *parameter.secondary_opts):
            assert name == "--help" or not name.startswith("-") or f"`{name}`" in found[2], name


def test_the_document_has_no_option_that_is_not_there(repository: Path) -> None:
    text = (repository / "docs" / "cli.md").read_text("utf-8")
    options = {
        name
        for command in COMMANDS.values()
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    assert set(re.findall(r"`(--[a-z-]+)`", text)) <= {*options, "--help"}


def test_the_columns_of_exports_are_in_the_document(repository: Path) -> None:
    text = " ".join((repository / "docs" / "cli.md").read_text("utf-8").split())
    header = next(export.export([], "csv")).decode().strip().split(",")
    assert ", ".join(f"`{name}`" for name in header) in text


def test_every_setting_and_its_default_is_in_the_document(repository: Path) -> None:
    text = (repository / "docs" / "settings.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `PIGEONHOLE_([A-Z_]+)` \| (.*?) \|", text, re.MULTILINE))
    assert [name.lower() for name in rows] == list(Settings.model_fields)
    told = {name.lower(): shown.strip("`") for name, shown in rows.items()}
    computed = {
        "home": "./var",
        "inbox": "HOME`/inbox",
        "database_url": "sqlite:///`HOME`/pigeonhole.db",
        "api_key": "none",
        "workers": "number of cores",
        "allowed_hosts": "none",
        "cors_origins": "none",
        "webhook_url": "none",
        "webhook_secret": "none",
        "ignore": "none",
        "done_suffix": "none",
        "max_body_bytes": "20MiB",
        "min_free_bytes": "100MiB",
    }
    for name, field in Settings.model_fields.items():
        assert told[name] == computed.get(name, str(field.default)), name
    settings = Settings()
    assert settings.home == Path("var").absolute()
    assert settings.inbox == settings.home / "inbox"
    assert settings.database_url == f"sqlite:///{settings.home}/pigeonhole.db"
    assert settings.api_key is None
    assert settings.workers == os.cpu_count()
    assert settings.max_body_bytes == 20 * 1024**2


def test_help_loads_nothing_heavy() -> None:
    """Help in under half a second: these cost a second and more."""
    program = (
        "import sys\n"
        "from pigeonhole.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'numpy', 'onnxruntime', 'sqlalchemy', 'pydantic', 'fastapi', 'pyarrow', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b"[]\n"


def test_the_module_can_be_run() -> None:
    command = [sys.executable, "-m", "pigeonhole", "--help"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.startswith(b"Usage: pigeonhole ")


@pytest.mark.parametrize("wrong", ["", "models", "fly", "status --yes", "watch now", "results --q"])
def test_wrong_usage_ends_with_2_and_shows_the_way(run: Call, wrong: str) -> None:
    done = run(*wrong.split())
    assert (done.code, done.out) == (2, b"")
    assert "--help" in done.err


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    "command", ["status", "config", "doctor", "results", "watch", "up", "demo"]
)
def test_a_wrong_setting_is_named_and_ends_with_1(
    run: Call, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("PIGEONHOLE_BATCH_SIZE", "many")
    done = run(command)
    assert (done.code, done.out) == (1, b"")
    assert done.err.startswith("Error: PIGEONHOLE_BATCH_SIZE: ")
    assert "docs/settings.md" in done.err


def test_a_broken_model_is_an_error_without_a_traceback(run: Call, home: Path) -> None:
    (home / "models" / "current" / "labels.txt").unlink()
    done = run("classify", str(home))
    assert done.code == 1
    assert "labels.txt is missing" in done.err
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("home")
def test_a_wrong_database_url_is_an_error_without_a_traceback(
    run: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIGEONHOLE_DATABASE_URL", "not a url")
    for command in ("results", "status"):
        done = run(command)
        assert done.code == 1
        assert "PIGEONHOLE_DATABASE_URL" in done.err
        assert "Traceback" not in done.err


@pytest.mark.usefixtures("home")
def test_a_latin_terminal_crashes_nothing(hostile_files: Path) -> None:
    command = [sys.executable, "-m", "pigeonhole", "classify", "--format", "table"]
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*command, str(hostile_files)], capture_output=True, check=True, env=environ
    )
    assert b"markup" in done.stdout
