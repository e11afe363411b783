"""`pigeonhole demo`: everything at once, on sample images; what `make run` calls."""

import itertools
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from core.errors import PigeonholeError
from core.settings import Settings
from pigeonhole.supervisor import Supervisor
from pigeonhole.talk import say
from pigeonhole.up import prepare, stay

SAMPLES = Path(__file__).resolve().parent.parent / "data" / "fashion5.zip"
MOST = 10
PATIENCE_S = 60.0

_ENTRY = re.compile(r"(?:.*/)?test/(?P<label>[^/]+)/[^/]+\.png")


class SamplesError(PigeonholeError):
    """The sample images are not there."""

    code = "no_samples"


def run(*, once: bool) -> int:
    """Start, drop, show; with `once` end then: 0 if every sample was classified, else 1."""
    settings = Settings.read()
    samples = _samples()
    supervisor = prepare(settings)
    missing = set(samples)
    steps = _steps(settings, supervisor, samples, missing)
    if not once:
        return supervisor.run(itertools.chain(steps, stay(supervisor, settings)))
    code = supervisor.run(steps)
    if missing:
        return 1
    say(f"Everything is in {settings.home}; `pigeonhole up` starts it again.")
    return code


def _steps(
    settings: Settings, supervisor: Supervisor, samples: dict[str, bytes], missing: set[str]
) -> Iterator[None]:
    """The first step is taken when both processes are starting, so what is slow waits for it."""
    deadline_s = time.monotonic() + PATIENCE_S
    yield
    from pigeonhole.tryout import Tryout  # noqa: PLC0415

    tryout = Tryout(settings, supervisor, samples, deadline_s)
    yield from tryout.steps()
    missing &= tryout.missing


def _samples() -> dict[str, bytes]:
    """Up to `MOST` images of the test split, taken in turn from the classes; new names each run."""
    tag = secrets.token_hex(4)
    try:
        with ZipFile(SAMPLES) as archive:
            chosen = _in_turn(archive.namelist())
            return {
                f"{label}-{number}-{tag}.png": archive.read(entry)
                for number, (label, entry) in enumerate(chosen, start=1)
            }
    except (OSError, BadZipFile) as error:
        raise SamplesError(
            f"{SAMPLES}: {error}. The demo needs a checkout of the repository; without one, start "
            "`pigeonhole up` and drop images of your own."
        ) from None


def _in_turn(entries: list[str]) -> list[tuple[str, str]]:
    by_label: dict[str, list[str]] = defaultdict(list)
    for entry in sorted(entries):
        if match := _ENTRY.fullmatch(entry):
            by_label[match["label"]].append(entry)
    turns = itertools.zip_longest(*by_label.values())
    labelled = (
        (label, entry) for turn in turns for label, entry in zip(by_label, turn, strict=True)
    )
    return list(itertools.islice(((label, entry) for label, entry in labelled if entry), MOST))
