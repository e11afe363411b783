"""Events that do not come are noticed, and looked after; when they come again, so is that."""

import shutil
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.engine import Engine
from core.settings import Settings
from monitoring.health import examine
from monitoring.metrics import Metrics
from storage.results import Result
from storage.store import Store
from tests import namespace
from watcher import canary, daemon, mounts, waker
from watcher.canary import Canary
from watcher.daemon import Watcher
from watcher.lookout import Lookout
from watcher.mounts import Mount
from watcher.waker import Watchdog

Rows = Callable[[], list[Result]]
Paint = Callable[..., bytes]
Until = Callable[..., None]
Watch = Callable[..., Watcher]

MODE = "pigeonhole_watcher_mode_info"


def mode(metrics: Metrics) -> str:
    """Out of one scrape: two could see it change in between."""
    families = metrics.registry.collect()
    samples = [sample for family in families for sample in family.samples if sample.name == MODE]
    assert len(samples) == 1
    return samples[0].labels["mode"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than people would want."""
    monkeypatch.setattr(daemon, "_SUPERVISE_S", 0.1)
    monkeypatch.setattr(daemon, "_POLL_S", 0.3)
    monkeypatch.setattr(canary, "_EVERY_S", 0.5)
    monkeypatch.setattr(canary, "_AGAIN_S", 0.3)
    monkeypatch.setattr(waker, "_MOUNTS_S", 0.2)


@pytest.mark.guarantee("G4")
@pytest.mark.usefixtures("quick")
def test_events_that_do_not_come_switch_to_polling_and_back_by_themselves(
    watch: Watch, home: Path, metrics: Metrics, rows: Rows, until: Until, paint: Paint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """G4: a mount that sends no events, as NFS does not; no rescan is due for an hour."""
    monkeypatch.setattr(canary, "PATIENCE_S", 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Watchdog, "note", lambda *_: None)
        watcher = watch(reconcile_s=3600, heartbeat_s=0)
        until(lambda: mode(metrics) == "polling", "the silence is noticed", 60)
        assert "sends no file events" in str(watcher.deafness())
        report = examine(watcher.checks(), {"events": watcher.deafness})
        assert report.status == 200, "it works, only later"
        assert "looking every few seconds" in report.to_dict()["notes"]["events"]
        for number in range(20):
            (home / "inbox" / f"{number}.png").write_bytes(paint("blue", (20 + number, 9)))
        until(lambda: len(rows()) == 20, "all files are found", 60)
    until(lambda: mode(metrics) == "native", "the events are heard again", 60)
    assert watcher.deafness() is None


@pytest.mark.guarantee("G4")
def test_when_nobody_can_tell_that_events_do_not_come_the_rescan_finds_every_file(
    watch: Watch, home: Path, metrics: Metrics, rows: Rows, until: Until, paint: Paint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """G4: neither an event nor a canary, as where the inbox may only be read."""
    monkeypatch.setattr(Watchdog, "note", lambda *_: None)
    monkeypatch.setattr(Canary, "step", lambda *_: None)
    watcher = watch(reconcile_s=1, heartbeat_s=0)
    until(lambda: examine(watcher.checks()).is_ok, "it runs", 60)
    (home / "inbox" / "first.png").write_bytes(paint("red"))
    until(lambda: len(rows()) == 1, "it works", 60)
    time.sleep(2)  # then it rests, and only a rescan can find more
    for number in range(20):
        (home / "inbox" / f"{number}.png").write_bytes(paint("blue", (20 + number, 9)))
    until(lambda: len(rows()) == 21, "all files are found", 30)
    assert mode(metrics) == "native"


def test_events_that_come_are_believed(tmp_path: Path, metrics: Metrics, until: Until) -> None:
    lookout = Lookout(tmp_path, metrics)
    try:
        until(lambda: lookout.supervise() or "canary" in _heard(lookout), "the canary is heard")
        assert lookout.mode == "native"
        assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
        assert not lookout.wait(0.3), "and wakes nobody"
    finally:
        lookout.close()


def _heard(lookout: Lookout) -> str:
    bird = lookout._waker._canaries[0]  # noqa: SLF001 - nobody else knows
    return "canary" if bird._next_s else ""  # noqa: SLF001


@pytest.mark.usefixtures("quick")
def test_what_is_mounted_over_a_folder_later_is_watched_too(
    watch: Watch, mount: Callable[..., None], home: Path, rows: Rows, until: Until, paint: Paint
) -> None:  # fmt: skip
    """The watch of the folder below hears nothing of it: no rescan is due for an hour."""
    card = home / "inbox" / "card"
    card.mkdir()
    watcher = watch(reconcile_s=3600, heartbeat_s=0)
    first = watcher._lookout._waker  # noqa: SLF001
    mount("-t", "tmpfs", "none", card)
    until(lambda: watcher._lookout._waker is not first, "it begins anew", 60)  # noqa: SLF001
    (card / "a.png").write_bytes(paint("red"))
    where = ["sorted/red/card/a.png"]
    until(lambda: [row.path for row in rows()] == where, "its files are found", 60)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "virtiofs"])
def test_a_network_mount_at_or_below_the_inbox_is_polled_whatever_the_canary_says(
    tmp_path: Path, kind: str, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    for point in (tmp_path, tmp_path / "below"):
        table = [Mount(Path("/"), "ext4", "a"), Mount(point, kind, "nas:/photos")]
        monkeypatch.setattr(mounts, "_table", lambda table=table: table)
        lookout = Lookout(tmp_path, metrics)
        try:
            assert lookout.mode == "polling"
            assert kind in str(lookout.deafness())
        finally:
            lookout.close()
    assert mode(metrics) == "polling"


def test_the_mount_that_holds_a_path_is_the_innermost_and_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "a"
    inner.mkdir()
    table = [
        Mount(Path("/"), "ext4", "x"),
        Mount(inner, "xfs", "y"),
        Mount(inner, "nfs", "z"),
        Mount(tmp_path / "ab", "cifs", "w"),
    ]
    monkeypatch.setattr(mounts, "_table", lambda: table)
    assert mounts.holding(inner / "not there yet") == table[2]
    assert mounts.below(tmp_path) == table[1:]
    assert mounts.is_mount_point(inner)
    assert not mounts.is_mount_point(tmp_path)


def test_events_that_the_kernel_threw_away_are_noticed(
    tmp_path: Path, metrics: Metrics, until: Until
) -> None:
    """Real overflow: watchdog's thread is kept busy while more happens than its queue can hold."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"the kernel's queue holds {limit} events: filling it takes too long")
    lookout = Lookout(tmp_path, metrics)
    dog = lookout._waker  # noqa: SLF001
    assert isinstance(dog, Watchdog)
    try:
        (group,) = [emitter._inotify for emitter in dog._observer.emitters]  # noqa: SLF001
        with group._lock:  # noqa: SLF001 - as a slow handler would hold it
            for number in range(limit // 2 + 1000):
                (tmp_path / str(number)).touch()  # created and closed
        until(lambda: lookout.supervise() or dog.overflows > 0, "the overflow is noticed", 60)
        assert lookout.wait(60), "and wakes us"
        lookout.supervise()
        counted = metrics.registry.get_sample_value("pigeonhole_watch_overflows_total")
        assert (counted or 0) >= 1
    finally:
        lookout.close()


def _dead(watcher: Watcher) -> bool:
    return examine(watcher.checks()).complaints["events"] is not None


@pytest.mark.guarantee("G15")
def test_when_the_watching_dies_health_says_so_and_it_begins_anew(
    settings: Settings, store: Store, engine: Engine, metrics: Metrics, home: Path, rows: Rows,
    until: Until, paint: Paint, monkeypatch: pytest.MonkeyPatch, watch: Watch,
) -> None:  # fmt: skip
    """G15: an exception in the handler ends watchdog's thread; red at once, then healed."""

    def raising(*_: object) -> None:
        raise RuntimeError("on watchdog's thread")

    dying = Watcher(settings.model_copy(update={"heartbeat_s": 0.0}), store, engine, metrics)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Watchdog, "note", raising)
            (home / "inbox" / "a.png").write_bytes(paint("red"))
            until(lambda: _dead(dying), "/readyz is red", 5)
        assert examine(dying.checks()).status == 503
        dying._supervise()  # noqa: SLF001 - what the loop does every second
        assert not _dead(dying)
    finally:
        dying.close()
    watch(heartbeat_s=0)
    until(lambda: len(rows()) == 1, "nothing was lost", 60)


@pytest.mark.guarantee("G15")
def test_an_inbox_that_is_gone_is_red_and_healed_when_it_is_back(
    watch: Watch, home: Path, rows: Rows, until: Until, paint: Paint
) -> None:
    watcher = watch(heartbeat_s=0)
    until(lambda: examine(watcher.checks()).is_ok, "it is ready", 60)
    shutil.rmtree(home / "inbox")
    until(lambda: examine(watcher.checks()).status == 503, "/readyz is red", 5)
    (home / "inbox").mkdir()
    (home / "inbox" / "a.png").write_bytes(paint("red"))
    until(lambda: len(rows()) == 1, "it goes on", 60)
    until(lambda: examine(watcher.checks()).is_ok, "and is ready", 60)


@pytest.mark.guarantee("G15")
@pytest.mark.parametrize(("watches", "why"), [(0, "max_user_watches"), (3, "cannot be watched")])
def test_when_the_watches_are_exhausted_it_polls(tmp_path: Path, watches: int, why: str) -> None:
    for number in range(6):
        (tmp_path / "inbox" / str(number)).mkdir(parents=True)
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from monitoring.metrics import Metrics
        from watcher import waker
        from watcher.lookout import Lookout
        waker._WATCHES_S = 2.0
        lookout = Lookout(Path(sys.argv[1]), Metrics())
        deadline = time.monotonic() + 60
        while lookout.mode != "polling" and time.monotonic() < deadline:
            lookout.supervise()
            time.sleep(0.1)
        print(lookout.deafness())
        lookout.close()
        """
    )
    done = namespace.run(program, tmp_path / "inbox", max_inotify_watches=watches)
    assert done.returncode == 0, done.stderr
    assert why in done.stdout
