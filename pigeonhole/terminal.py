"""What people see: stdout for data, stderr for talk; colours and bars only on a terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from pigeonhole.escape import printable
from storage.export import to_json
from storage.results import Result

_WIDTH_ELSEWHERE = 120  # columns of results, where there is no terminal to ask
_UNBROKEN = 1_000_000  # columns of everything else there: `grep` looks at whole lines
_ROWS_AT_ONCE = 20


def console(stream: IO[str], width_elsewhere: int = _WIDTH_ELSEWHERE) -> Console:
    """A console that takes text as it is: no markup, no emoji codes, no guesses at colours."""
    on_terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=on_terminal,
        width=None if on_terminal else width_elsewhere,
        markup=False,
        emoji=False,
        highlight=False,
    )


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    print(to_json(value, indent=2))  # noqa: T201


def print_table(table: Table) -> None:
    """A table on stdout."""
    screen = console(sys.stdout, _UNBROKEN)
    print(_printed(screen, table), end="")  # noqa: T201


def _printed(screen: Console, table: Table) -> str:
    """As the screen shows it, without the blanks that fill up the lines."""
    with screen.capture() as captured:
        screen.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def plain_table(*headings: str) -> Table:
    """A table without lines; long cells go on in the next line."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def cell(text: object, style: str = "") -> Text:
    """One cell of strangers' text."""
    return Text(printable(text), style=style)


def result_tables(
    rows: Iterable[Result], name: Callable[[Result], str], *, with_times: bool = False
) -> Iterator[bytes]:
    """Results as a table, a few rows at a time; the widths depend on the terminal alone."""
    screen = console(sys.stdout)
    remaining = iter(rows)
    is_first = True
    while chunk := list(islice(remaining, _ROWS_AT_ONCE)):
        table = _result_table(with_times=with_times)
        table.show_header = is_first
        for row in chunk:
            times = [cell(f"{row.classified_at:%Y-%m-%d %H:%M:%SZ}")] if with_times else []
            table.add_row(*times, cell(name(row)), *result_cells(row))
        yield _printed(screen, table).encode("utf-8", "backslashreplace")
        is_first = False


def _result_table(*, with_times: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=True)
    if with_times:
        table.add_column("classified", width=20)
    table.add_column("file", ratio=4, overflow="fold")
    table.add_column("label", ratio=2, overflow="fold")
    table.add_column("confidence", width=10, justify="right")
    table.add_column("", ratio=4, overflow="fold")
    return table


def result_cells(row: Result) -> tuple[Text, Text, Text]:
    """Label, confidence, and what else there is to say."""
    return _label(row), _confidence(row), _note(row)


def _label(row: Result) -> Text:
    if row.corrected_label is not None:
        return cell(f"{row.corrected_label} (was {row.label})")
    return cell(row.label or "")


def _confidence(row: Result) -> Text:
    if row.confidence is None:
        return Text("")
    return Text(f"{row.confidence:.3f}", style="yellow" if row.needs_review else "green")


def _note(row: Result) -> Text:
    if row.error:
        return cell(f"{row.error.code}: {row.error.detail}", "red")
    notes = ["needs review"] if row.needs_review else []
    notes += ["seen before"] if row.duplicate_of else []
    return Text(", ".join(notes), style="dim")


class Bar:
    """A progress bar on stderr, or nothing where stderr is no terminal."""

    def __init__(self, count: Callable[[], int]) -> None:
        screen = console(sys.stderr)
        self.is_shown = screen.is_terminal and not screen.is_dumb_terminal
        self._progress = Progress(
            TextColumn("classifying"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=screen,
            transient=True,
            disable=not self.is_shown,
        )
        self._task = self._progress.add_task("", total=count() if self.is_shown else None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, images: int) -> None:
        """So many more are done."""
        self._progress.advance(self._task, images)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar off the screen while something else is printed."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()
