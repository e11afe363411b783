"""The API as a process: one listening socket, our logs, a quiet end."""

import asyncio
import errno
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import structlog
import uvicorn

from api.app import create_app
from api.events import Events
from core.errors import SettingsError
from core.heap import keep_what_is_loaded
from core.settings import Settings
from monitoring import logs
from storage import keys
from storage.store import Store

log = structlog.get_logger("api")

SHUTDOWN_S = 8  # below the ten seconds that Docker waits before it kills


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises `SettingsError` when the address cannot be used, and whatever keeps the database or the
    model from opening.
    """
    logs.configure(settings.log_format, "api")
    _refuse_an_open_door(settings)
    with _listen(settings.host, settings.port) as listening:
        asyncio.run(_serve(settings, listening))
    return 0


def _refuse_an_open_door(settings: Settings) -> None:
    if not settings.is_loopback and not settings.api_key and not _has_keys(settings):
        raise SettingsError(
            f"PIGEONHOLE_HOST is {settings.host}: others could read and write your data. "
            "Set PIGEONHOLE_API_KEY, make a key with `pigeonhole keys add`, or set PIGEONHOLE_HOST "
            "to 127.0.0.1."
        )


def _has_keys(settings: Settings) -> bool:
    with closing(Store.open(settings.database_url)) as store:
        return bool(keys.every(store.database))


def _listen(host: str, port: int) -> socket.socket:
    """Bound before anything opens: a taken port is said at once, and in our words."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        return _bound(socket.socket(family, kind, protocol), address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} is in use; set PIGEONHOLE_PORT"
        elif error.errno == errno.EACCES:
            message = f"port {port} is not allowed to us; set PIGEONHOLE_PORT above 1023"
        else:
            message = f"PIGEONHOLE_HOST: cannot listen on {host} ({error.strerror or error})"
        raise SettingsError(message) from None


def _bound(listening: socket.socket, address: tuple[Any, ...]) -> socket.socket:
    """Listening on `address`, or closed.

    Not `socket.create_server`: that leaves the protocol open, and asyncio turns Nagle's algorithm
    off only where it reads TCP; every answer then waits 40 ms for an acknowledgement.
    """
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


async def _serve(settings: Settings, listening: socket.socket) -> None:
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        lifespan="off",  # run here, so that what goes wrong in it reaches our caller
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    async with app.router.lifespan_context(app):
        keep_what_is_loaded()
        host, port = listening.getsockname()[:2]
        log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
        with _signals_only_stop_the_server():
            await _Server(config, app.state.parts.events).serve(sockets=[listening])
    log.info("stopped")


class _Server(uvicorn.Server):
    """uvicorn, which waits for every answer to end, told to those that do not end by themselves."""

    def __init__(self, config: uvicorn.Config, events: Events) -> None:
        super().__init__(config)
        self._events = events

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then wait for the rest."""
        self._events.close()
        await super().shutdown(sockets)


@contextmanager
def _signals_only_stop_the_server() -> Iterator[None]:
    """uvicorn sends itself the signal again when it is done, which would end us before we close."""
    before = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
