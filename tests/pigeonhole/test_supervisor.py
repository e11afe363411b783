"""When to start again, and when to give up; times are numbers here."""

import subprocess
import sys

from pigeonhole.supervisor import Patience


def test_a_child_that_had_answered_is_started_again_soon() -> None:
    patience = Patience.new()
    assert [patience.ended(float(n), has_answered=True) for n in range(20)] == [0.5] * 20


def test_the_wait_of_one_that_never_answers_doubles_up_to_half_a_minute() -> None:
    patience = Patience.new()
    waits_s = [patience.ended(1000.0 * n, has_answered=False) for n in range(1, 10)]
    assert waits_s == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_five_false_starts_within_a_minute_are_enough() -> None:
    patience = Patience.new()
    waits_s = [patience.ended(float(n), has_answered=False) for n in range(5)]
    assert waits_s == [0.5, 1.0, 2.0, 4.0, None]


def test_false_starts_over_a_longer_time_are_not() -> None:
    patience = Patience.new()
    waits_s = [patience.ended(20.0 * n, has_answered=False) for n in range(12)]
    assert None not in waits_s


def test_being_killed_from_outside_is_no_false_start() -> None:
    patience = Patience.new()
    waits_s = [patience.ended(float(n), has_answered=False, was_killed=True) for n in range(9)]
    assert None not in waits_s


def test_an_answer_in_between_starts_the_count_anew() -> None:
    patience = Patience.new()
    for _ in range(4):
        patience.ended(1.0, has_answered=False)
    assert patience.ended(2.0, has_answered=True) == 0.5
    assert patience.ended(3.0, has_answered=False) == 1.0


def test_a_child_that_never_starts_is_given_up_with_its_reason() -> None:
    program = (
        "import itertools, sys\n"
        "from pigeonhole.supervisor import Child, Supervisor\n"
        "hopeless = Child('hopeless', 'no-such-command', lambda: False)\n"
        "sys.exit(Supervisor([hopeless]).run(itertools.repeat(None)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count(b"No such command 'no-such-command'") == 5
    assert done.stdout.count(b"starting it again") == 4  # its log is not configured here
    assert b"given up" in done.stdout
