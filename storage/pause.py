"""Work stops while the file HOME/paused is there: for every watcher of this HOME, over restarts."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path

from storage import files

NAME = "paused"


def pause(home: Path) -> bool:
    """Stop after the batch at hand; False if it was stopped already. Raises `OSError`."""
    home.mkdir(parents=True, exist_ok=True)
    try:
        (home / NAME).touch(exist_ok=False)
    except FileExistsError:
        return False
    files.sync_folders([home])
    return True


def resume(home: Path) -> bool:
    """Go on; False if nothing was stopped. Raises `OSError`."""
    try:
        (home / NAME).unlink()
    except FileNotFoundError:
        return False
    files.sync_folders([home])
    return True


def paused_since(home: Path) -> datetime | None:
    """Since when work is stopped, or None."""
    with contextlib.suppress(OSError):
        return datetime.fromtimestamp((home / NAME).stat().st_mtime, UTC)
    return None
