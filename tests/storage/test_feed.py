"""Results by position: nothing between two looks is missed, and nothing comes twice."""

from collections.abc import Callable

from core.types import Failure
from storage import feed
from storage.results import Result, ResultFilter
from storage.store import Finished, Store

Record = Callable[..., list[Result]]
Images = Callable[..., Finished]


def names(entries: list[feed.Entry]) -> list[str]:
    return [entry.result.filename for entry in entries]


def test_an_empty_table_has_no_position_and_no_entries(store: Store) -> None:
    assert feed.newest(store.database) == 0
    assert feed.after(store.database, 0, 10) == []
    assert feed.before(store.database, None, 10) == []
    assert feed.find(store.database, "nobody") is None


def test_steps_forward_meet_every_row_once(store: Store, record: Record, finished: Images) -> None:
    for number in range(7):
        record(finished(f"{number}.jpg"))
    seen: list[feed.Entry] = []

    while found := feed.after(store.database, seen[-1].seq if seen else 0, 3):
        seen += found

    assert names(seen) == [f"{number}.jpg" for number in range(7)]
    assert seen[-1].seq == feed.newest(store.database)


def test_steps_back_from_the_latest_meet_every_row_once(
    store: Store, record: Record, finished: Images
) -> None:
    for number in range(7):
        record(finished(f"{number}.jpg"))
    seen = feed.before(store.database, None, 3)

    while found := feed.before(store.database, seen[-1].seq, 3):
        seen += found

    assert names(seen) == [f"{number}.jpg" for number in reversed(range(7))]


def test_a_filter_holds_in_both_directions(
    store: Store, record: Record, finished: Images, failure: Failure
) -> None:
    record(finished("good.jpg"), finished("bad.jpg", outcome=failure), finished("fine.jpg"))
    bad = ResultFilter(status="quarantined")

    assert names(feed.after(store.database, 0, 9, bad)) == ["bad.jpg"]
    assert names(feed.before(store.database, None, 9, bad)) == ["bad.jpg"]


def test_an_entry_is_found_by_its_id(store: Store, record: Record, finished: Images) -> None:
    record(finished("a.jpg"))
    (result,) = record(finished("b.jpg"))

    entry = feed.find(store.database, result.id)

    assert entry == feed.Entry(feed.newest(store.database), result)
