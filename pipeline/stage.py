"""How every stage starts and how it fails: one line on stderr that says what to do, exit code 1."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from core.errors import PigeonholeError
from pipeline import params
from pipeline.params import Params

# Progress and talk; stdout is for data.
console = Console(stderr=True, highlight=False, soft_wrap=True)


class StageError(PigeonholeError):
    """A stage cannot give the result that it promises, so the pipeline stops here."""

    code = "pipeline"


def run(stage: Callable[[Params], object]) -> None:
    """Run one stage on the params.yaml of the working folder, as `python -m pipeline.NAME` does."""
    with told():
        stage(params.read())


@contextmanager
def told() -> Iterator[None]:
    """An error that a user can act on becomes its message and exit code 1, without a traceback."""
    try:
        yield
    except PigeonholeError as error:
        console.print(f"error: {error}", style="red", markup=False)
        sys.exit(1)


def shown(name: str) -> str:
    """A stranger's text for a terminal: what is not printable is spelled out, never obeyed."""
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def counted(count: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def fresh_folder(folder: Path) -> Path:
    """An empty folder. What was there is unlinked, not written to: DVC links it to its cache."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def fresh_file(path: Path) -> Path:
    """A path to write to, in a folder that exists; what was there is unlinked, as above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path
