import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from core.ids import uuid7


def test_an_id_is_a_uuid_of_version_7() -> None:
    made = uuid7()

    assert made.version == 7
    assert made.variant == uuid.RFC_4122


def test_an_id_begins_with_the_milliseconds_at_which_it_was_made() -> None:
    before_ms = time.time_ns() // 1_000_000

    stamp_ms = uuid7().int >> 80

    # The counter of other tests may have run ahead of the clock by some milliseconds.
    assert before_ms <= stamp_ms <= before_ms + 10_000


def test_ids_sort_by_the_order_in_which_they_were_made() -> None:
    made = [str(uuid7()) for _ in range(20_000)]  # more than the 4,096 of one millisecond

    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_threads_never_get_the_same_id_and_each_sees_its_own_in_order() -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: [uuid7() for _ in range(2_000)], range(8)))

    # Version, variant and random bits aside: the stamp alone is never used twice.
    stamps = [made.int >> 64 for run in runs for made in run]
    assert len(set(stamps)) == len(stamps)
    assert all(run == sorted(run) for run in runs)
