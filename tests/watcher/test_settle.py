"""When may a file be read? Hand-written stamps and times; nobody sleeps."""

from core.types import Stamp
from watcher.settle import EMPTY_PATIENCE, settle

GROWING = Stamp(1, 7, 100, 1_000)
GROWN = Stamp(1, 7, 200, 2_000)


def test_a_file_is_ready_when_it_stood_still_for_the_settle_time() -> None:
    first = settle({}, {"a.jpg": GROWN}, now_s=10.0, settle_s=1.0)
    assert (first.ready, first.next_s) == ((), 11.0)
    early = settle(first.seen, {"a.jpg": GROWN}, now_s=10.9, settle_s=1.0)
    assert early.ready == ()
    assert settle(early.seen, {"a.jpg": GROWN}, now_s=11.0, settle_s=1.0).ready == ("a.jpg",)


def test_a_file_that_grows_starts_over_but_keeps_its_first_sighting() -> None:
    first = settle({}, {"a.jpg": GROWING}, now_s=10.0, settle_s=1.0)
    later = settle(first.seen, {"a.jpg": GROWN}, now_s=10.9, settle_s=1.0)
    assert later.ready == ()
    assert later.next_s == 11.9
    assert later.seen["a.jpg"].first_s == 10.0


def test_a_file_that_was_renamed_in_is_ready_at_once() -> None:
    settled = settle({}, {"a.jpg": GROWN}, 10.0, 1.0, arrived=frozenset({"a.jpg"}))
    assert settled.ready == ("a.jpg",)


def test_an_empty_file_is_given_ten_times_longer() -> None:
    empty = Stamp(1, 7, 0, 1_000)
    first = settle({}, {"a.jpg": empty}, 10.0, 1.0, arrived=frozenset({"a.jpg"}))
    assert first.ready == ()
    assert first.next_s == 10.0 + EMPTY_PATIENCE
    assert settle(first.seen, {"a.jpg": empty}, 20.0, 1.0).ready == ("a.jpg",)


def test_old_and_future_times_of_files_make_no_difference() -> None:
    listing = {"old.jpg": Stamp(1, 1, 5, 0), "future.jpg": Stamp(1, 2, 5, 10**19)}
    first = settle({}, listing, now_s=10.0, settle_s=1.0)
    assert first.ready == ()
    assert settle(first.seen, listing, now_s=11.0, settle_s=1.0).ready == ("old.jpg", "future.jpg")


def test_the_oldest_change_comes_first_and_names_break_ties() -> None:
    listing = {
        "c.jpg": Stamp(1, 1, 5, 30),
        "b.jpg": Stamp(1, 2, 5, 20),
        "a.jpg": Stamp(1, 3, 5, 30),
    }
    assert settle({}, listing, now_s=1.0, settle_s=0.0).ready == ("b.jpg", "a.jpg", "c.jpg")


def test_a_file_that_went_away_is_forgotten() -> None:
    first = settle({}, {"a.jpg": GROWN}, now_s=10.0, settle_s=1.0)
    assert settle(first.seen, {}, now_s=10.5, settle_s=1.0).seen == {}


def test_a_new_file_under_an_old_name_starts_over() -> None:
    first = settle({}, {"a.jpg": GROWN}, now_s=10.0, settle_s=1.0)
    other = Stamp(1, 8, GROWN.size_bytes, GROWN.mtime_ns)
    assert settle(first.seen, {"a.jpg": other}, now_s=11.5, settle_s=1.0).ready == ()
