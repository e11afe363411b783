"""The sample images of one demo, from the inbox to their rows."""

import time
from collections.abc import Iterator
from contextlib import closing

from core.settings import Settings
from pigeonhole.supervisor import Supervisor
from pigeonhole.talk import counted, say
from pigeonhole.terminal import cell, plain_table, print_table, result_cells
from storage.results import Result, ResultFilter
from storage.store import Store


class Tryout:
    """Samples on their way; `missing` are the names that are not classified (yet)."""

    def __init__(
        self,
        settings: Settings,
        supervisor: Supervisor,
        samples: dict[str, bytes],
        deadline_s: float,
    ) -> None:
        self._settings = settings
        self._supervisor = supervisor
        self._samples = samples
        self._deadline_s = deadline_s
        self.missing = set(samples)

    def steps(self) -> Iterator[None]:
        """Yields wherever there is something to wait for."""
        while not self._supervisor.is_ready:
            if self._is_late():
                say("Not ready in time. The log above says why.")
                return
            yield
        started_s = time.monotonic()
        self._drop()
        rows: dict[str, Result] = {}
        while len(rows) < len(self._samples) and not self._is_late():
            yield
            rows = self._rows()
        classified = {name for name, row in rows.items() if row.status == "classified"}
        self.missing -= classified
        self._show(rows, time.monotonic() - started_s)

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline_s

    def _drop(self) -> None:
        """Each under a hidden name first, so that nobody reads half of it."""
        inbox = self._settings.inbox
        for name, data in self._samples.items():
            part = inbox / f".{name}.part"
            part.write_bytes(data)
            part.rename(inbox / name)

    def _rows(self) -> dict[str, Result]:
        tag = next(iter(self._samples)).rpartition("-")[2]
        with closing(Store.open(self._settings.database_url)) as store:
            found = store.stream(ResultFilter(source="watcher", q=tag))
            return {row.filename: row for row in found if row.filename in self._samples}

    def _show(self, rows: dict[str, Result], took_s: float) -> None:
        table = plain_table("sample", "label", "confidence", "")
        for name in self._samples:
            table.add_row(cell(name), *(result_cells(rows[name]) if name in rows else ["(no row)"]))
        print_table(table)
        if self.missing:
            say(f"{counted(len(self.missing), 'sample')} not classified: see the log above.")
        else:
            say(f"{len(rows)} samples classified, {took_s:.1f} s after they were dropped.")
