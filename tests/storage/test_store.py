"""The verbs of the queue: who holds what, for how long, and what becomes of it."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.exc import DataError

from core.types import (
    Delivery,
    Failure,
    ImageInfo,
    ImageRef,
    InputStatistics,
    ModelRef,
    Prediction,
    Stamp,
)
from storage.inbox import Found
from storage.results import Result, ResultFilter
from storage.store import Finished, Store
from tests.deliveries import kept

LEASE_S = 60.0

AtOnce = Callable[..., list[tuple[int, str, str]]]
Files = list[tuple[str, Stamp]]
Stamps = Callable[[int], Files]
Record = Callable[..., list[Result]]
RecordHeld = Callable[..., list[Result | None]]
Images = Callable[..., Finished]
Claim = Callable[..., list[Delivery]]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, url: str) -> str:
    """All of this holds on both kinds of database."""
    if request.param == "sqlite":
        return url
    return str(request.getfixturevalue("empty_in_postgresql"))


# --- claims ----------------------------------------------------------------------------------


def test_a_claim_gives_each_file_as_it_was_listed_in_the_order_of_the_listing(
    claim: Claim, stamps: Stamps, now: datetime
) -> None:
    files = stamps(5)[::-1]

    claims = claim(files)

    assert [(each.path, each.stamp) for each in claims] == files
    assert {each.attempts for each in claims} == {1}
    assert {each.received_at for each in claims} == {now}
    assert len({each.id for each in claims}) == 5


def test_to_claim_nothing_gives_nothing(claim: Claim) -> None:
    assert claim([]) == []


def test_what_one_holds_nobody_else_gets_nor_the_same_one_again(
    claim: Claim, stamps: Stamps
) -> None:
    claim(stamps(2))

    assert claim(stamps(2), "you") == []
    assert claim(stamps(2), "me") == []


def test_a_file_that_is_listed_twice_is_claimed_once(claim: Claim, stamps: Stamps) -> None:
    files = stamps(2)

    assert [each.path for each in claim([*files, *files])] == ["00000.jpg", "00001.jpg"]


def test_new_files_are_claimed_beside_those_that_others_hold(claim: Claim, stamps: Stamps) -> None:
    claim(stamps(3)[::2])

    assert [each.path for each in claim(stamps(4), "you")] == ["00001.jpg", "00003.jpg"]


@pytest.mark.parametrize(
    "changed",
    [
        Stamp(65, 1000, 10, 20),
        Stamp(64, 1, 10, 20),
        Stamp(64, 1000, 11, 20),
        Stamp(64, 1000, 10, 9),
    ],
)
def test_another_file_of_the_same_name_is_another_delivery(
    changed: Stamp, claim: Claim, stamps: Stamps
) -> None:
    (before,) = claim(stamps(1))

    (after,) = claim([(before.path, changed)], "you")

    assert (after.stamp, after.attempts) == (changed, 1)


def test_five_thousand_files_can_be_claimed_recorded_and_finished_at_once(
    claim: Claim, stamps: Stamps, put_away: Callable[..., list[Result]], store: Store
) -> None:
    claims = claim(stamps(5000))

    assert [each.path for each in claims] == [path for path, _ in stamps(5000)]
    store.release(claims)
    again = claim(stamps(5000))
    assert len(again) == 5000
    assert len(put_away(again)) == 5000
    assert store.waiting() == []


@pytest.mark.parametrize("number", [0, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_inode_and_device_numbers_may_use_all_64_bits(
    number: int, claim: Claim, store: Store
) -> None:
    stamp = Stamp(number, number, 2**40, -1)  # and a file may be older than 1970

    (taken,) = claim([("a.jpg", stamp)])

    assert taken.stamp == stamp
    assert claim([("a.jpg", stamp)], "you", LEASE_S)[0].stamp == stamp
    asked: Files = []
    store.absent(lambda *file: bool(asked.append(file)), datetime(9000, 1, 1, tzinfo=UTC))
    assert asked == [("a.jpg", stamp)]


@pytest.mark.parametrize(
    "name",
    [
        b"bad\xff\xfe.jpg",
        b"line\nbreak.jpg",
        b"x" * 251 + b".jpg",
        "é".encode() * 125 + b".jpg",
        b"-rf",
        b"a/b/" * 500 + b"c.jpg",
        b"'; DROP TABLE results; --",
        "e\u0301.jpg".encode(),
    ],
)
def test_every_name_that_a_file_system_knows_is_kept_byte_for_byte(
    name: bytes, claim: Claim, store: Store, put_away: Callable[..., list[Result]]
) -> None:
    path, stamp = os.fsdecode(name), Stamp(1, 2, 3, 4)

    (taken,) = claim([(path, stamp)])
    assert os.fsencode(taken.path) == name
    assert [os.fsencode(each.path) for each in store.waiting()] == [name]

    put_away([taken], keep=True)
    assert [os.fsencode(path) for path in kept(store)] == [name]
    assert list(store.without_kept([Found(path, stamp=stamp)])) == []


def test_two_spellings_of_one_letter_are_two_files(claim: Claim) -> None:
    stamp = Stamp(1, 2, 3, 4)

    assert len(claim([("\u00e9.jpg", stamp), ("e\u0301.jpg", stamp)])) == 2


def test_eight_threads_never_get_the_same_file(claim: Claim, stamps: Stamps) -> None:
    files = stamps(400)
    begin = threading.Barrier(8)

    def take(number: int) -> list[str]:
        begin.wait()
        order = files[50 * number :] + files[: 50 * number]
        parts = [order[start : start + 20] for start in range(0, 400, 20)]
        return [each.path for part in parts for each in claim(part, f"thread {number}")]

    with ThreadPoolExecutor(8) as pool:
        taken = [path for paths in pool.map(take, range(8)) for path in paths]

    assert sorted(taken) == [path for path, _ in files]


def test_three_processes_never_get_the_same_file(url: str, at_once: AtOnce) -> None:
    answers = at_once("claim.py", *((url, f"process {number}", 600) for number in range(3)))

    assert [(code, err) for code, _, err in answers] == [(0, "")] * 3
    taken = [path for _, out, _ in answers for path in out.splitlines()]
    assert sorted(taken) == sorted(f"{index}.jpg" for index in range(600))


# --- leases ----------------------------------------------------------------------------------


def test_a_lease_holds_to_its_last_moment_and_then_the_file_is_taken_over(
    claim: Claim, stamps: Stamps
) -> None:
    (mine,) = claim(stamps(1))

    assert claim(stamps(1), "you", LEASE_S - 0.001) == []
    (yours,) = claim(stamps(1), "you", LEASE_S)
    assert (yours.id, yours.attempts) == (mine.id, 2)
    assert yours.received_at == mine.received_at  # it has waited since then


def test_what_is_taken_over_is_held_as_well(claim: Claim, stamps: Stamps) -> None:
    claim(stamps(1))
    claim(stamps(1), "you", LEASE_S)

    assert claim(stamps(1), "me", 2 * LEASE_S - 1) == []
    assert claim(stamps(1), "me", 2 * LEASE_S)[0].attempts == 3


def test_a_result_of_an_owner_who_lost_the_claim_gives_no_row(
    claim: Claim,
    stamps: Stamps,
    record: Record,
    record_held: RecordHeld,
    finished: Images,
    store: Store,
) -> None:
    (mine,) = claim(stamps(1))
    (yours,) = claim(stamps(1), "you", LEASE_S)

    assert record_held(finished("late.jpg", delivery=mine)) == [None]
    assert store.count() == 0
    (row,) = record(finished("taken over.jpg", delivery=yours))
    assert row.filename == "taken over.jpg"
    assert record_held(finished("late.jpg", delivery=mine)) == [None]
    assert store.count() == 1


def test_a_late_result_does_not_spoil_its_neighbours(
    claim: Claim, stamps: Stamps, record_held: RecordHeld, finished: Images
) -> None:
    mine = claim(stamps(3))
    claim(stamps(3)[1:2], "you", LEASE_S)

    rows = record_held(
        *(finished(each.path, delivery=each) for each in mine), finished("upload.jpg")
    )

    assert [row.filename if row else None for row in rows] == [
        "00000.jpg",
        None,
        "00002.jpg",
        "upload.jpg",
    ]


def test_a_delivery_never_gets_a_second_row(
    claim: Claim, stamps: Stamps, record_held: RecordHeld, finished: Images, store: Store
) -> None:
    (mine,) = claim(stamps(1))
    record_held(finished(delivery=mine))

    assert record_held(finished(delivery=mine)) == [None]
    store.finish([(mine.id, None)])
    assert record_held(finished(delivery=mine)) == [None]
    assert store.count() == 1


@pytest.mark.parametrize("verb", ["release", "forget", "postpone"])
def test_who_has_lost_a_claim_cannot_touch_it(
    verb: str,
    claim: Claim,
    stamps: Stamps,
    store: Store,
    now: datetime,
    failure: Failure,
    record: Record,
    finished: Images,
) -> None:
    (mine,) = claim(stamps(1))
    (yours,) = claim(stamps(1), "you", LEASE_S)

    if verb == "postpone":
        store.postpone(mine, now, failure)
    else:
        getattr(store, verb)([mine])

    assert claim(stamps(1), "third", LEASE_S + 1) == []
    record(finished(delivery=yours))


def test_a_released_claim_is_free_at_once_and_the_attempt_does_not_count(
    claim: Claim, stamps: Stamps, store: Store
) -> None:
    store.release(claim(stamps(2)))

    assert [each.attempts for each in claim(stamps(2), "you")] == [1, 1]


def test_a_forgotten_file_is_new_when_it_comes_again(
    claim: Claim, stamps: Stamps, store: Store
) -> None:
    before = claim(stamps(2))
    store.forget(before)

    assert store.waiting() == []
    after = claim(stamps(2), "you")
    assert not {each.id for each in before} & {each.id for each in after}


def test_a_postponed_file_waits_until_its_time_with_its_reason_and_counts_on(
    claim: Claim, stamps: Stamps, store: Store, now: datetime, failure: Failure
) -> None:
    (mine,) = claim(stamps(1))
    store.postpone(mine, now + timedelta(seconds=8), failure)

    (waiting,) = store.waiting()
    assert (waiting.path, waiting.state, waiting.attempts) == ("00000.jpg", "waiting", 1)
    assert (waiting.until, waiting.error) == (now + timedelta(seconds=8), "The file is damaged.")
    assert claim(stamps(1), "me", 7.999) == []
    assert claim(stamps(1), "me", 8)[0].attempts == 2


def test_owners_are_those_who_hold_a_claim_or_a_file_to_put_away(
    claim: Claim,
    stamps: Stamps,
    store: Store,
    record: Record,
    finished: Images,
    put_away: Callable[..., list[Result]],
    now: datetime,
    failure: Failure,
) -> None:
    files = stamps(5)
    claim(files[:1], "holds")
    record(finished(delivery=claim(files[1:2], "puts away")[0]))
    put_away(claim(files[2:3], "is done"))
    put_away(claim(files[3:4], "keeps"), keep=True)
    store.postpone(claim(files[4:5], "waits")[0], now, failure)

    assert sorted(store.owners()) == ["holds", "puts away"]


def test_the_leases_of_the_dead_end_and_nobody_elses(
    claim: Claim, stamps: Stamps, store: Store, record: Record, finished: Images
) -> None:
    files = stamps(4)
    claim(files[:1], "dead")
    claim(files[1:2], "alive")
    record(finished(delivery=claim(files[2:3], "dead")[0]))
    record(finished(delivery=claim(files[3:4], "alive")[0]))

    store.end_leases(["dead"])

    assert [each.path for each in claim(files, "heir")] == ["00000.jpg"]
    now = claim([("x", Stamp(1, 1, 1, 1))])[0].received_at
    assert [each.delivery.path for each in store.take_unfinished("heir", now, LEASE_S)] == [
        "00002.jpg"
    ]


# --- putting away ----------------------------------------------------------------------------


def test_what_the_dead_have_left_is_put_away_by_one_heir(
    claim: Claim, stamps: Stamps, store: Store, record: Record, finished: Images, now: datetime
) -> None:
    (mine,) = claim(stamps(1))
    (row,) = record(finished(delivery=mine))
    later = now + timedelta(seconds=LEASE_S)

    assert store.take_unfinished("heir", later - timedelta(seconds=1), LEASE_S) == []
    (filing,) = store.take_unfinished("heir", later, LEASE_S)
    assert (filing.delivery, filing.result) == (mine, row)
    assert store.take_unfinished("another", later, LEASE_S) == []
    assert store.owners() == ["heir"]


def test_a_filing_that_failed_comes_again_when_it_is_due(
    claim: Claim, stamps: Stamps, store: Store, record: Record, finished: Images, now: datetime
) -> None:
    (mine,) = claim(stamps(1))
    record(finished(delivery=mine))
    due = now + timedelta(seconds=30)
    store.postpone_filing([mine], due)

    assert store.take_unfinished("me", due - timedelta(seconds=1), LEASE_S) == []
    assert len(store.take_unfinished("me", due, LEASE_S)) == 1


def test_only_a_recorded_file_can_be_left_for_later(
    claim: Claim, stamps: Stamps, store: Store, now: datetime
) -> None:
    (mine,) = claim(stamps(1))
    store.postpone_filing([mine], now - timedelta(seconds=1))

    assert claim(stamps(1), "you") == []


def test_a_finished_delivery_is_gone_and_its_row_says_where_the_file_is(
    claim: Claim, stamps: Stamps, store: Store, put_away: Callable[..., list[Result]]
) -> None:
    rows = put_away(claim(stamps(2)))

    found = [store.result(row.id) for row in rows]
    assert [row and row.path for row in found] == ["sorted/00000.jpg", "sorted/00001.jpg"]
    assert (store.owners(), kept(store), store.waiting()) == ([], [], [])
    assert len(claim(stamps(2))) == 2  # the same file once more is a new delivery


def test_who_finishes_late_does_not_change_where_the_file_is(
    claim: Claim, stamps: Stamps, store: Store, put_away: Callable[..., list[Result]]
) -> None:
    (mine,) = claim(stamps(1))
    (row,) = put_away([mine])

    store.finish([(mine.id, None)])

    found = store.result(row.id)
    assert found
    assert found.path == "sorted/00000.jpg"


def test_a_delivery_without_a_row_cannot_be_finished(
    claim: Claim, stamps: Stamps, store: Store
) -> None:
    (mine,) = claim(stamps(1))

    store.finish([(mine.id, "sorted/x.jpg")])

    assert [each.path for each in store.waiting()] == ["00000.jpg"]


def test_a_kept_file_is_remembered_and_never_claimed_again(
    claim: Claim, stamps: Stamps, store: Store, put_away: Callable[..., list[Result]]
) -> None:
    put_away(claim(stamps(2)), keep=True)

    assert kept(store) == [path for path, _ in stamps(2)]
    assert claim(stamps(2), "me", 10 * LEASE_S) == []


def test_a_listing_without_kept_files_has_all_others_in_their_order(
    claim: Claim, stamps: Stamps, store: Store, put_away: Callable[..., list[Result]]
) -> None:
    """More than are asked for at once; kept, kept but changed since, only claimed, never seen."""
    found = [Found(path, stamp=stamp) for path, stamp in stamps(1200)]
    assert list(store.without_kept(found)) == found, "nothing is kept yet"
    put_away(claim(stamps(1200)[:700]), keep=True)
    claim(stamps(1200)[700:800])
    found[5] = found[5]._replace(stamp=replace(stamps(6)[5][1], mtime_ns=21))
    found[6] = found[6]._replace(stamp=replace(stamps(7)[6][1], device=65))  # mounted anew
    found.insert(3, Found("x.part", "ignored", "*.part"))

    left = list(store.without_kept(iter(found)))

    assert left == [found[3], found[6], *found[701:]]


def test_absent_files_are_dropped_unless_somebody_holds_them(
    claim: Claim,
    stamps: Stamps,
    store: Store,
    put_away: Callable[..., list[Result]],
    record: Record,
    finished: Images,
    now: datetime,
    failure: Failure,
) -> None:
    files = stamps(8)
    put_away(claim(files[:2]), keep=True)
    claim(files[2:3], "holds", 30)
    claim(files[3:4], "held")
    record(finished(delivery=claim(files[4:5], "puts away")[0]))
    store.postpone(claim(files[5:6])[0], now + timedelta(seconds=90), failure)
    store.postpone(claim(files[6:7])[0], now + timedelta(seconds=50), failure)
    store.release(claim(files[7:8]))

    def is_gone(path: str, stamp: Stamp) -> bool:
        return (path, stamp) != files[0]

    later = now + timedelta(seconds=LEASE_S)
    absent = store.absent(is_gone, later)
    assert store.drop(absent, later) == len(absent) == 4

    assert kept(store) == [files[0][0]]
    assert [each.path for each in store.waiting()] == [files[number][0] for number in (2, 4, 5)]
    assert store.owners() == ["holds", "puts away"]
    assert store.absent(is_gone, later) == []


def test_a_file_that_somebody_takes_meanwhile_is_not_dropped(
    claim: Claim, stamps: Stamps, store: Store, now: datetime
) -> None:
    """Between the look and the drop it was put back, or moved there anew."""
    store.release(claim(stamps(1)))
    absent = store.absent(lambda *_: True, now)
    assert len(absent) == 1
    claim(stamps(1), "you")

    assert store.drop(absent, now) == 0


# --- rows ------------------------------------------------------------------------------------


def test_a_row_says_everything_that_was_known(
    record: Record, finished: Images, store: Store, now: datetime
) -> None:
    (row,) = record(finished("dog.jpg", sha="1"))

    assert store.result(row.id) == row
    assert row.to_dict() == {
        "id": row.id,
        "filename": "dog.jpg",
        "source": "upload",
        "status": "classified",
        "label": "cat",
        "confidence": 0.9,
        "scores": [{"label": "cat", "score": 0.9}, {"label": "other", "score": 1 - 0.9}],
        "needs_review": False,
        "corrected_label": None,
        "reviewed_at": None,
        "error": None,
        "sha256": "1".rjust(64, "0"),
        "bytes": 1000,
        "width": 640,
        "height": 480,
        "format": "JPEG",
        "path": None,
        "duplicate_of": None,
        "model": {"name": "rgb", "version": "1"},
        "received_at": "2026-03-01T12:00:00.000Z",
        "classified_at": "2026-03-01T12:00:00.000Z",
        "latency_ms": 12.346,
    }
    assert row.received_at == row.classified_at == now


def test_a_failure_is_a_row_too(record: Record, finished: Images, failure: Failure) -> None:
    (row,) = record(finished(outcome=failure), model=ModelRef("rgb", "2"))

    assert row.status == "quarantined"
    assert row.to_dict()["error"] == {"code": "unreadable_image", "detail": "The file is damaged."}
    assert (row.label, row.confidence, row.scores, row.needs_review) == (None, None, (), False)
    assert row.model == ModelRef("rgb", "2")  # what was loaded


@pytest.mark.parametrize(("confidence", "needs"), [(0.4999, True), (0.5, False)])
def test_an_unsure_answer_needs_review(
    confidence: float,
    needs: bool,
    record: Record,
    finished: Images,
    predict: Callable[..., Prediction],
) -> None:
    (row,) = record(finished(outcome=predict("cat", confidence)))

    assert row.needs_review is needs


def test_a_batch_is_recorded_whole_or_not_at_all(
    claim: Claim,
    stamps: Stamps,
    record: Record,
    finished: Images,
    store: Store,
) -> None:
    one, two = claim(stamps(2))
    good, bad = finished(delivery=one), finished(delivery=two)
    bad = replace(bad, image=ImageRef("1", "no database counts so far.jpg", 2**70))

    with pytest.raises((OverflowError, DataError)):  # of SQLite's driver, of PostgreSQL
        record(good, bad)

    assert store.count() == 0
    assert {each.state for each in store.waiting()} == {"claimed"}
    record(finished(delivery=one), finished(delivery=two))


def test_a_strange_name_does_not_spoil_its_batch(
    record: Record, finished: Images, store: Store
) -> None:
    odd = Failure("unreadable_image", "broken at \udcff and \0")

    record(finished("a\udcff\0\n.jpg", sha="1", outcome=odd), finished("good.jpg"))

    names = [row.filename for row in store.stream(ResultFilter(), order="asc")]
    assert names == ["a\\xff\\x00\n.jpg", "good.jpg"]


def test_to_record_nothing_is_no_error(record: Record) -> None:
    assert record() == []


def test_the_same_bytes_name_their_first_row_within_a_batch_and_across(
    record: Record, finished: Images, failure: Failure
) -> None:
    first, again, other = record(
        finished("a.jpg", sha="1"), finished("b.jpg", sha="1"), finished("c.jpg", sha="2")
    )
    later, last, failed = record(
        finished("d.jpg", sha="1"),
        finished("e.jpg", sha="3"),
        finished("f.jpg", sha="2", outcome=failure),
    )

    assert [row.duplicate_of for row in (first, other, last)] == [None] * 3
    assert again.duplicate_of == later.duplicate_of == first.id
    assert failed.duplicate_of == other.id


def test_what_could_not_be_recorded_is_nobodys_original(
    claim: Claim, stamps: Stamps, record_held: RecordHeld, finished: Images
) -> None:
    (mine,) = claim(stamps(1))
    claim(stamps(1), "you", LEASE_S)

    late, row = record_held(
        finished("late.jpg", sha="1", delivery=mine), finished("b.jpg", sha="1")
    )

    assert late is None
    assert row
    assert row.duplicate_of is None


def test_known_is_what_this_very_model_has_said(
    store: Store,
    record: Record,
    finished: Images,
    predict: Callable[..., Prediction],
    failure: Failure,
) -> None:
    model, newer, namesake = ModelRef("rgb", "1"), ModelRef("rgb", "2"), ModelRef("cmyk", "1")
    record(
        finished(sha="1", outcome=predict("cat", 0.9, model)),
        finished(sha="2", outcome=predict("dog", 0.8, newer)),
        finished(sha="3", outcome=failure),
        finished(sha="4", outcome=predict("cow", 0.7, namesake)),
        finished(sha="1", outcome=predict("elk", 0.6, newer)),
        model=newer,
    )
    hashes = [name.rjust(64, "0") for name in "12345"]

    assert store.known(hashes, model) == {hashes[0]: predict("cat", 0.9, model)}
    assert store.known(hashes, newer) == {
        hashes[0]: predict("elk", 0.6, newer),
        hashes[1]: predict("dog", 0.8, newer),
    }
    assert store.known(hashes[1:], model) == {}
    assert store.known([], model) == {}


def test_what_the_model_was_shown_is_known_of_a_duplicate_too(
    store: Store, record: Record, finished: Images, predict: Callable[..., Prediction]
) -> None:
    shown = InputStatistics(0.1, 0.2, 0.3, megapixels=0.02)
    outcome = replace(predict(), image=ImageInfo(200, 100, "PNG", shown))
    record(finished(sha="1", outcome=outcome))

    (known,) = store.known(["1".rjust(64, "0")], outcome.model).values()

    assert known.image.statistics == shown


def test_known_answers_for_many_hashes_at_once(
    store: Store, record: Record, finished: Images
) -> None:
    record(*(finished(str(number), sha=str(number)) for number in range(1200)))

    known = store.known(
        (str(number).rjust(64, "0") for number in range(2000)), ModelRef("rgb", "1")
    )

    assert len(known) == 1200


def test_an_unknown_id_is_no_row(store: Store) -> None:
    assert store.result("nobody") is None


def test_ping_answers_while_the_database_does_and_raises_when_it_is_closed(store: Store) -> None:
    store.ping()
