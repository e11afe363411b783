"""`pigeonhole backup` and `pigeonhole restore`: the database and the models, as one folder."""

import json
import os
import shutil
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from core.errors import PigeonholeError, StoreError
from core.settings import Settings
from pigeonhole import addresses
from pigeonhole.results import database_file
from pigeonhole.talk import counted, say
from storage import backup
from storage.store import Store

_DATABASE, _MODELS, _ABOUT = "pigeonhole.db", "models", "backup.json"


class BackupError(PigeonholeError):
    """There is nothing to back up, or this is no backup."""

    code = "bad_backup"


def save(folder: Path) -> int:
    """Write FOLDER/pigeonhole-TIME; everything may go on running."""
    settings = Settings.read()
    database = _sqlite_file(settings)
    if not database.exists():
        raise BackupError(f"{database} does not exist: there is nothing to back up yet.")
    now = datetime.now(UTC)
    target = folder.absolute() / f"pigeonhole-{now:%Y-%m-%dT%H-%M-%S.%fZ}"
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".backup-", dir=folder))
    try:
        rows = backup.copy(database, part / _DATABASE)
        models = settings.home / _MODELS
        if models.is_dir():
            shutil.copytree(models, part / _MODELS, symlinks=True)
        about = {"made_at": now.isoformat(), "pigeonhole": version("pigeonhole"), "results": rows}
        (part / _ABOUT).write_text(json.dumps(about, indent=2) + "\n", "utf-8")
        os.sync()
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    say(f"{counted(rows, 'result')} and the models are in")
    print(target)  # noqa: T201 - data goes to stdout
    return 0


def restore(folder: Path) -> int:
    """Put a backup in place of what is there, which is kept beside it."""
    settings = Settings.read()
    database = _sqlite_file(settings)
    if not (folder / _DATABASE).is_file():
        raise BackupError(
            f"{folder} is no backup: it has no {_DATABASE}. Name the folder pigeonhole-TIME that "
            "`pigeonhole backup` printed."
        )
    _refuse_while_running(settings)
    rows = backup.check(folder / _DATABASE)
    suffix = f".before-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%fZ}"
    database.parent.mkdir(parents=True, exist_ok=True)
    backup.replace(database, folder / _DATABASE, database.with_name(database.name + suffix))
    _restore_models(folder / _MODELS, settings.home / _MODELS, suffix)
    Store.open(settings.database_url).close()  # an older schema comes forward now, not tonight
    say(
        f"{counted(rows, 'result')} restored. What was there before ends in {suffix}; "
        "delete it when all is well."
    )
    return 0


def _sqlite_file(settings: Settings) -> Path:
    file = database_file(settings)
    if file is None:
        raise StoreError(
            "PIGEONHOLE_DATABASE_URL is no SQLite file. Use pg_dump and pg_restore; "
            "see docs/operate.md."
        )
    return file


def _refuse_while_running(settings: Settings) -> None:
    for name, url in (("watcher", addresses.watcher(settings)), ("API", addresses.api(settings))):
        if addresses.ask(url).state in ("ready", "unready"):
            raise BackupError(f"The {name} runs ({url}). Stop it first, then restore.")


def _restore_models(source: Path, target: Path, suffix: str) -> None:
    """The starter serves where a backup has no models; then those that are there are put aside."""
    part = target.with_name(f".{target.name}.restored")
    shutil.rmtree(part, ignore_errors=True)
    if source.is_dir():
        shutil.copytree(source, part, symlinks=True)
    if target.exists():
        target.rename(target.with_name(target.name + suffix))
    if part.exists():
        part.rename(target)
