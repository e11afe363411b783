"""`pigeonhole up`: watcher and API under one supervisor, with one log."""

import itertools
from collections.abc import Iterator

import structlog

from core.settings import Settings
from monitoring import logs
from pigeonhole import addresses
from pigeonhole.supervisor import Child, Supervisor
from pigeonhole.talk import say

log = structlog.get_logger(__name__)


def run() -> int:
    """Run both until a signal; 1 when one of them cannot be started."""
    settings = Settings.read()
    supervisor = prepare(settings)
    return supervisor.run(stay(supervisor, settings))


def prepare(settings: Settings) -> Supervisor:
    """Logs and children, not started yet; raises `SettingsError` when a port is taken."""
    logs.configure(settings.log_format, "up")
    addresses.check_ports(settings)
    return Supervisor(
        [
            Child("watcher", "watch", lambda: _answers(addresses.watcher(settings))),
            Child("api", "serve", lambda: _answers(addresses.api(settings))),
        ]
    )


def stay(supervisor: Supervisor, settings: Settings) -> Iterator[None]:
    """A task without an end, which says where everything is once both answer."""
    while not supervisor.is_ready:
        yield
    _announce(settings)
    yield from itertools.repeat(None)


def _announce(settings: Settings) -> None:
    api, watcher = addresses.api(settings), addresses.watcher(settings)
    if settings.log_format == "json":
        log.info("ready", page=api, docs=f"{api}/docs", inbox=str(settings.inbox))
        return
    say(
        f"\nPigeonhole is ready.\n"
        f"  inbox    {settings.inbox}\n"
        f"  page     {api}/\n"
        f"  docs     {api}/docs\n"
        f"  metrics  {api}/metrics and {watcher}/metrics\n"
        f"Drop images into the inbox. Ctrl-C ends it.\n"
    )


def _answers(url: str) -> bool:
    """Whether it is up; with port 0 we cannot know, and its log says where it is."""
    return url.endswith(":0") or addresses.ask(url).state in ("ready", "unready")
