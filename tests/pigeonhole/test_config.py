"""`pigeonhole config`: every setting and where it came from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings

Call = Callable[..., Any]


def test_every_setting_has_value_and_origin(
    run: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.parent / ".env").write_text("PIGEONHOLE_BATCH_SIZE=7\nPIGEONHOLE_AFTER=keep\n")
    monkeypatch.setenv("PIGEONHOLE_AFTER", "delete")
    found = run("config", "--json").json
    assert list(found) == [f"PIGEONHOLE_{name.upper()}" for name in Settings.model_fields]
    shown = {name: (item["value"], item["origin"]) for name, item in found.items()}
    assert shown["PIGEONHOLE_HOME"] == (str(home), "environment")
    assert shown["PIGEONHOLE_AFTER"] == ("delete", "environment")
    assert shown["PIGEONHOLE_BATCH_SIZE"] == ("7", ".env")
    assert shown["PIGEONHOLE_PORT"] == ("8000", "default")
    assert all(item["meaning"] for item in found.values())


@pytest.mark.usefixtures("home")
def test_secrets_are_never_printed(run: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIGEONHOLE_API_KEY", "swordfish")
    monkeypatch.setenv("PIGEONHOLE_DATABASE_URL", "postgresql://me:swordfish@db/pigeonhole")
    for arguments in (["config"], ["config", "--json"]):
        done = run(*arguments)
        assert done.code == 0
        assert "swordfish" not in done.text + done.err
        assert "me:***@db" in done.text


@pytest.mark.usefixtures("home")
def test_the_table_names_every_setting(run: Call) -> None:
    text = run("config").text
    assert all(f"PIGEONHOLE_{name.upper()} " in text for name in Settings.model_fields)


def test_a_hostile_folder_name_is_spelled_out(
    run: Call, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIGEONHOLE_INBOX", f"{home}/\x1b]0;evil\x07\udcff")
    for arguments in (
        ["config"],
        ["config", "--json"],
        ["status"],
        ["status", "--json"],
        ["doctor"],
    ):
        done = run(*arguments)
        assert {character for character in done.text if not character.isprintable()} == {"\n"}
