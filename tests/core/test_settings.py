from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from core.errors import SettingsError
from core.settings import Settings, sources


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, so no `.env` but the one that a test writes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def setenv(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"PIGEONHOLE_{name}", str(value))


def test_the_defaults_are_those_of_the_product_page(folder: Path) -> None:
    settings = Settings.read()

    assert settings.home == folder / "var"
    assert settings.inbox == folder / "var" / "inbox"
    assert settings.database_url == f"sqlite:///{folder / 'var' / 'pigeonhole.db'}"
    assert settings.after == "sort"
    assert (settings.host, settings.port, settings.watcher_metrics_port) == (
        "127.0.0.1",
        8000,
        9108,
    )
    assert settings.api_key is None
    assert (settings.settle_s, settings.reconcile_s) == (1.0, 15.0)
    assert settings.batch_size == 32
    assert settings.workers >= 1
    assert settings.max_body_bytes == 20 * 1024 * 1024
    assert settings.max_pixels == 100_000_000
    assert settings.min_confidence == 0.5
    assert settings.log_format == "console"


def test_inbox_and_database_follow_home_unless_they_are_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setenv(monkeypatch, HOME="elsewhere")
    moved = Settings.read()
    setenv(monkeypatch, INBOX="drop", DATABASE_URL="sqlite:///x.db")
    set_apart = Settings.read()

    assert moved.inbox == folder / "elsewhere" / "inbox"
    assert moved.database_url == f"sqlite:///{folder / 'elsewhere' / 'pigeonhole.db'}"
    assert set_apart.inbox == folder / "drop"
    assert set_apart.database_url == "sqlite:///x.db"


def test_a_tilde_is_the_home_of_the_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "me"))
    setenv(monkeypatch, HOME="~/pigeons", INBOX="~/drop")

    settings = Settings.read()

    assert settings.home == folder / "me" / "pigeons"
    assert settings.inbox == folder / "me" / "drop"


def test_arguments_go_before_the_environment_and_that_before_the_env_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text(
        "PIGEONHOLE_PORT=1\nPIGEONHOLE_BATCH_SIZE=1\nPIGEONHOLE_WORKERS=1\n"
    )
    setenv(monkeypatch, PORT=2, BATCH_SIZE=2)

    settings = Settings.read(port=3)

    assert (settings.port, settings.batch_size, settings.workers) == (3, 2, 1)


def test_a_variable_that_is_empty_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, PORT="", API_KEY="", API_KEY_FILE="", INBOX="")

    assert Settings.read().port == 8000
    assert Settings.read().api_key is None


def test_body_sizes_may_be_written_with_their_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, MAX_BODY_BYTES="5MB")
    assert Settings.read().max_body_bytes == 5_000_000

    setenv(monkeypatch, MAX_BODY_BYTES="1MiB")
    assert Settings.read().max_body_bytes == 1_048_576


def test_settings_are_frozen() -> None:
    settings = Settings.read()

    with pytest.raises(ValidationError, match="frozen"):
        settings.__setattr__("port", 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "x"),
        ("PORT", 65_536),
        ("AFTER", "burn"),
        ("SETTLE_S", -1),
        ("RECONCILE_S", 0),
        ("BATCH_SIZE", 0),
        ("WORKERS", 0),
        ("MAX_BODY_BYTES", "much"),
        ("MAX_PIXELS", 0),
        ("MIN_CONFIDENCE", 1.5),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    setenv(monkeypatch, **{name: value})

    with pytest.raises(SettingsError) as refusal:
        Settings.read()

    assert str(refusal.value).startswith(f"PIGEONHOLE_{name}: ")
    assert str(refusal.value).endswith("See docs/settings.md.")


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, PORT="x", AFTER="burn")

    with pytest.raises(SettingsError, match=r"(?s)PIGEONHOLE_AFTER.*PIGEONHOLE_PORT"):
        Settings.read()


def test_a_key_may_lie_in_a_file_as_containers_keep_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "key").write_text("s3cret\n")
    setenv(monkeypatch, API_KEY_FILE=folder / "key")

    assert Settings.read().api_key == SecretStr("s3cret")
    setenv(monkeypatch, API_KEY="the variable itself goes first")
    assert Settings.read().api_key == SecretStr("the variable itself goes first")


def test_the_env_file_may_name_the_key_file_too(folder: Path) -> None:
    (folder / "key").write_text("s3cret\n")
    (folder / ".env").write_text("PIGEONHOLE_API_KEY_FILE=key\n")

    assert Settings.read().api_key == SecretStr("s3cret")


@pytest.mark.parametrize("content", ["", " \n"])
def test_an_empty_key_file_is_refused_instead_of_opening_the_door(
    folder: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (folder / "key").write_text(content)
    setenv(monkeypatch, API_KEY_FILE=folder / "key")

    with pytest.raises(SettingsError, match=r"^PIGEONHOLE_API_KEY_FILE: .* is empty"):
        Settings.read()


def test_a_missing_key_file_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, API_KEY_FILE="not-here")

    with pytest.raises(SettingsError, match=r"PIGEONHOLE_API_KEY_FILE: .*not-here"):
        Settings.read()


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_this_machine_alone(host: str, is_loopback: bool) -> None:
    assert Settings.read(host=host).is_loopback is is_loopback


def test_every_setting_says_where_it_came_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_text("pigeonhole_workers=3\nPIGEONHOLE_PORT=1\n")
    setenv(monkeypatch, PORT=2)
    monkeypatch.setenv("pigeonhole_batch_size", "5")

    told = {source.variable: source for source in sources(Settings.read())}

    assert set(told) == {f"PIGEONHOLE_{name.upper()}" for name in Settings.model_fields}
    assert told["PIGEONHOLE_PORT"][1:3] == ("2", "environment")
    assert told["PIGEONHOLE_BATCH_SIZE"][1:3] == ("5", "environment")
    assert told["PIGEONHOLE_WORKERS"][1:3] == ("3", ".env")
    assert told["PIGEONHOLE_AFTER"][1:3] == ("sort", "default")
    assert told["PIGEONHOLE_HOME"].value == str(folder / "var")
    assert all(source.meaning for source in told.values())


def test_secrets_are_never_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "key").write_text("s3cret")
    setenv(monkeypatch, API_KEY_FILE=folder / "key")
    setenv(monkeypatch, DATABASE_URL="postgresql+psycopg://pigeon:s3cret@db:5432/pigeonhole")
    settings = Settings.read()

    told = {source.variable: source for source in sources(settings)}

    assert "s3cret" not in repr(told)
    assert told["PIGEONHOLE_API_KEY"].origin == "environment"
    assert told["PIGEONHOLE_DATABASE_URL"].value == (
        "postgresql+psycopg://pigeon:***@db:5432/pigeonhole"
    )
    assert "s3cret@" in settings.database_url


SECRET = "whsec_" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"


@pytest.mark.parametrize(
    "url", ["example.org", "ftp://a/b", "https://", "https://u:p@a/", "http://a:x/"]
)
def test_a_webhook_needs_an_address_that_can_be_told(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setenv(monkeypatch, WEBHOOK_URL=url, WEBHOOK_SECRET=SECRET)
    with pytest.raises(SettingsError, match="PIGEONHOLE_WEBHOOK_URL"):
        Settings.read()


@pytest.mark.parametrize("secret", ["", "abc", "whsec_", "whsec_c2hvcnQ=", f"{SECRET} abc"])
def test_a_webhook_is_never_told_unsigned(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    setenv(monkeypatch, WEBHOOK_URL="https://a/", WEBHOOK_SECRET=secret)
    with pytest.raises(SettingsError, match=r"PIGEONHOLE_WEBHOOK_SECRET.*openssl rand"):
        Settings.read()


def test_a_webhook_secret_may_lie_in_a_file_and_be_two(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "secret").write_text(f"{SECRET} {SECRET}\n")
    setenv(monkeypatch, WEBHOOK_URL="https://a/", WEBHOOK_SECRET_FILE=folder / "secret")
    settings = Settings.read()
    assert settings.webhook_secrets == (SECRET, SECRET)
    assert SECRET not in repr(list(sources(settings)))
