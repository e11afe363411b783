"""Where the two processes answer, and whether they do."""

import errno
import json
import socket
from dataclasses import dataclass
from http.client import HTTPException
from typing import Literal
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

from core.errors import SettingsError
from core.settings import Settings

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - where we ask
_OPENER = build_opener(ProxyHandler({}))  # a proxy has no business between us and ourselves
_TIMEOUT_S = 2.0
_LARGEST_ANSWER = 100_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What /readyz said: `complaints` when unready; a stranger is some other program.

    `notes`: what it says besides, though it is ready.
    """

    state: Literal["ready", "unready", "silent", "stranger"]
    complaints: str = ""
    notes: str = ""


def api(settings: Settings) -> str:
    """Where the API answers; port 0 is known to its log alone."""
    return _url(settings.host, settings.port)


def watcher(settings: Settings) -> str:
    """Where the watcher has its metrics and health."""
    return _url(watcher_host(settings), settings.watcher_metrics_port)


def watcher_host(settings: Settings) -> str:
    """Where the watcher listens."""
    return "127.0.0.1" if settings.is_loopback else settings.host


def ask(url: str) -> Answer:
    """Ask /readyz."""
    try:
        with _OPENER.open(f"{url}/readyz", timeout=_TIMEOUT_S) as response:
            return _understood(response.status, response.read(_LARGEST_ANSWER))
    except HTTPError as error:
        with error:
            return _understood(error.code, error.read(_LARGEST_ANSWER))
    except (URLError, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        refused = isinstance(reason, ConnectionRefusedError)
        return Answer("silent" if refused else "stranger", str(reason))
    except HTTPException as error:
        return Answer("stranger", str(error))


def check_ports(settings: Settings) -> None:
    """Raise `SettingsError` when a port that we need is taken."""
    wanted = {
        "PIGEONHOLE_PORT": (settings.host, settings.port),
        "PIGEONHOLE_WATCHER_METRICS_PORT": (watcher_host(settings), settings.watcher_metrics_port),
    }
    for variable, (host, port) in wanted.items():
        complaint = taken(host, port)
        if complaint is not None:
            raise SettingsError(
                f"{complaint}. Is another Pigeonhole running (`pigeonhole status`)? Stop what uses "
                f"the port, or set {variable} to another one."
            )


def taken(host: str, port: int) -> str | None:
    """A complaint when nobody can listen there; None when the port is free."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is in use"
        return f"cannot listen on {host} port {port} ({error.strerror or error})"
    return None


def _url(host: str, port: int) -> str:
    host = _ANYWHERE.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _understood(status: int, body: bytes) -> Answer:
    try:
        report = json.loads(body)
        complaints = [f"{name}: {text}" for name, text in report["checks"].items() if text != "ok"]
        notes = "; ".join(f"{name}: {text}" for name, text in report.get("notes", {}).items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return Answer("stranger", f"answers {status} to /readyz")
    if complaints:
        return Answer("unready", "; ".join(complaints), notes)
    return Answer("ready", notes=notes)
