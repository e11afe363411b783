"""Who holds a claim, and are they alive?"""

import subprocess
import sys

from watcher import owner


def test_this_process_is_alive() -> None:
    assert not owner.is_dead(owner.this_process())


def test_a_process_that_was_killed_is_dead_even_before_it_is_reaped() -> None:
    code = "from watcher import owner; print(owner.this_process(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert not owner.is_dead(name)
        process.kill()
        while not owner.is_dead(name):  # a zombie until `wait`; pytest's timeout bounds this
            pass
        process.wait()
        assert owner.is_dead(name)


def test_the_same_number_with_another_start_is_another_process() -> None:
    host, boot, pid, _ = owner.this_process().split("|")
    assert owner.is_dead("|".join((host, boot, pid, "12345")))


def test_everybody_from_before_a_reboot_is_dead() -> None:
    host, _, pid, started = owner.this_process().split("|")
    assert owner.is_dead("|".join((host, "another boot", pid, started)))


def test_of_another_host_we_cannot_know() -> None:
    assert not owner.is_dead("another-host|boot|1|2")


def test_a_name_that_is_not_ours_holds_nothing() -> None:
    assert owner.is_dead("nonsense")
