"""`pigeonhole retry`: quarantined files go back into the inbox, as new deliveries."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from core.names import written
from core.settings import Settings
from pigeonhole.results import open_existing
from pigeonhole.talk import counted, say
from storage import retry as back
from storage.retry import RetryError


def run(names: Sequence[Path], *, take_all: bool) -> int:
    """Bring back what is named, or all; prints where each file is now. 1 if one could not be."""
    settings = Settings.read()
    failed = 0
    with closing(open_existing(settings)) as store:
        wanted = list(back.quarantined(settings.home)) if take_all else list(names)
        for name in wanted:
            try:
                print(written(str(back.retry(settings, store, _found(settings.home, name)))))  # noqa: T201
            except (RetryError, OSError) as error:
                say(str(error))
                failed += 1
    say(f"{counted(len(wanted) - failed, 'file')} back in the inbox.")
    return 1 if failed else 0


def _found(home: Path, name: Path) -> Path:
    """A file of the quarantine: as a path, as its row has it, or by its name alone."""
    quarantine = home / "quarantine"
    typed = name.parent.resolve() / name.name  # links and `..` may lead to it; it is none itself
    if typed.is_relative_to(quarantine.resolve()):
        typed = quarantine / typed.relative_to(quarantine.resolve())
    places = (typed, home / name, quarantine / name)
    inside = (place for place in places if place.is_relative_to(quarantine))
    return next((place for place in inside if place.is_file()), places[0])
