"""What surrounds every request: counting, headers, HEAD, and the last resort. Pure ASGI.

Plain functions around `receive` and `send`: Starlette's `BaseHTTPMiddleware` would put a task and
a queue between the route and the network.
"""

import re
import time
from dataclasses import dataclass
from http import HTTPMethod

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.parts import Parts
from api.problems import answer, code_of
from core.settings import LOOPBACK, Settings

log = structlog.get_logger("api")

METHODS = frozenset(HTTPMethod)
STREAMS = ("/v1/events",)  # how long somebody listens says nothing of how fast we are
QUIET_ROUTES = ("/livez", "/readyz", "/metrics")
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(slots=True)
class _Seen:
    status: int = 500  # what a client sees that gets no answer
    received_bytes: int = 0
    sent_bytes: int = 0


class Observed:
    """Counts requests by method, route template and status, and writes the access log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        seen = _Seen()

        async def receive_counted() -> Message:
            message = await receive()
            seen.received_bytes += len(message.get("body", b""))
            return message

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
            seen.sent_bytes += len(message.get("body", b""))
            await send(message)

        started = time.perf_counter()
        inside = dict(scope)  # `HeadAsGet` changes the method; the server must not see that
        try:
            await self.app(inside, receive_counted, send_counted)
        finally:
            _count(scope, _route(scope, inside), seen, time.perf_counter() - started)


class KnownHost:
    """On loopback, refuses names that are not ours.

    Else a web page could let its own name lead to this machine (DNS rebinding) and, where no key is
    asked for, read and write everything. Elsewhere there is always a key.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        names = {name.strip().lower() for name in settings.allowed_hosts.split(",")}
        self._names = {*LOOPBACK, "[::1]", *names} - {""}
        self._is_asked = settings.is_loopback and "*" not in names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and self._is_asked:
            host = Headers(scope=scope).get("host", "localhost").lower()
            if re.sub(r":\d*$", "", host) not in self._names:
                await answer(scope["path"], "unknown_host")(scope, receive, send)
                return
        await self.app(scope, receive, send)


class Hardened:
    """Adds the security headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""

        async def send_hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self.app(scope, receive, send_hardened)


class HeadAsGet:
    """HEAD is GET without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope["method"] = "GET"
        scope["is_head"] = True  # for streams, which would not end
        await self.app(scope, receive, send_head)


class LastResort:
    """Makes problems of what no handler sees: bugs, and Starlette's plain text."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = is_replaced = False

        async def send_problem(message: Message) -> None:
            nonlocal has_started, is_replaced
            has_started = True
            if _is_plain_error(message):
                is_replaced = True
                code = code_of(message["status"])
                kept = Headers(raw=message["headers"]).get("content-range")
                headers = {"Content-Range": kept} if kept else {}
                await answer(scope["path"], code, headers=headers)(scope, receive, send)
            elif not is_replaced:
                await send(message)

        try:
            await self.app(scope, receive, send_problem)
        except Exception:
            log.exception("internal_error", path=scope["path"])
            _parts(scope).metrics.error("internal_error")
            if has_started:
                raise  # the client has half an answer: let the server break the connection
            await answer(scope["path"], "internal_error")(scope, receive, send)


def _is_plain_error(message: Message) -> bool:
    """Starlette's own answers to a body that is too long, or a Range that cannot be met."""
    if message["type"] != "http.response.start" or message["status"] < 400:
        return False
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/plain")


def _count(scope: Scope, route: str, seen: _Seen, seconds: float) -> None:
    method = scope["method"] if scope["method"] in METHODS else "other"
    http = _parts(scope).http
    http.requests.labels(method, route, str(seen.status)).inc()
    if route not in STREAMS:
        http.duration.labels(method, route).observe(seconds)
    http.received.inc(seen.received_bytes)
    http.sent.inc(seen.sent_bytes)
    if route not in QUIET_ROUTES or seen.status >= 400:
        log.info(
            "request",
            method=method,
            path=scope["path"],
            status=seen.status,
            duration_ms=round(seconds * 1000, 1),
        )


def _route(outside: Scope, inside: Scope) -> str:
    """The template, as `/v1/results/{id}`; what a client chose to ask for is not among them."""
    mounted = inside.get("root_path", "").removeprefix(outside.get("root_path", ""))
    if mounted:
        return f"{mounted}/{{path}}"
    return getattr(inside.get("route"), "path", None) or "unmatched"


def _parts(scope: Scope) -> Parts:
    parts: Parts = scope["app"].state.parts
    return parts
