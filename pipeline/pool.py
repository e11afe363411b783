"""One function over many items, in order, by many processes that do not outlive this one.

Or by threads where there are few items: decoding leaves Python's lock to others.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_CHUNK = 16  # items handed to a process at once
_FEW = 64  # items for which a process does not pay: one takes half a second to start

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@contextmanager
def mapped(
    function: Callable[[_Item], _Result], items: Sequence[_Item], workers: int
) -> Iterator[Iterable[_Result]]:
    """The results in the order of the items; `workers`: 0 is one per core."""
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        yield map(function, items)
        return
    if len(items) < _FEW:
        with ThreadPoolExecutor(workers) as threads:
            yield threads.map(function, items)
        return
    # Spawned, not forked: the parent has threads (torch's, the progress bar's).
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        try:
            yield pool.map(function, items, chunksize=_CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever: end it."""

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
