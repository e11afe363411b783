"""Telling a webhook of every result, in the form of Standard Webhooks (docs/webhooks.md).

Watcher and API each run one `Deliverer`; the outbox sees to it that an event is with one of them at
a time. Nothing here is in the way of the work: a receiver that hangs costs a thread of ours, one
that is down costs a look now and then.
"""

import base64
import hashlib
import hmac
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import structlog
from sqlalchemy.exc import DBAPIError

from core.settings import SECRET_PREFIX, Settings
from monitoring.metrics import Metrics, WebhookMetrics
from storage.database import Database
from storage.outbox import Event, Outbox

log = structlog.get_logger(__name__)

AT_ONCE = 8  # requests under way; while the receiver fails, one
LEASE_S = 60.0  # longer than any request may take
ANSWER_S = 10.0  # for each step of a request
LIMIT_S = 20.0  # for a whole request, however busily the receiver dribbles
# Nine attempts over nearly three days. A receiver may say Retry-After instead.
RETRY_S = (5, 60, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 18 * 3600, 24 * 3600)
_LONGEST_RETRY_S = 24 * 3600
_LOOK_S = 1.0  # between looks into an empty outbox
_LONGEST_PAUSE_S = 60.0  # between tries of a receiver that is down
_READ_BYTES = 4096  # of an answer nobody will read


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: no `error` means that the receiver has it."""

    error: str | None = None
    retry_s: float | None = None


class Webhook:
    """One address and the secrets to sign with; two while one takes the place of the other."""

    def __init__(self, url: str, secrets: Sequence[str]) -> None:
        self._url = urlsplit(url)
        self._keys = [base64.b64decode(each.removeprefix(SECRET_PREFIX)) for each in secrets]
        self._open: set[http.client.HTTPConnection] = set()

    @classmethod
    def of(cls, settings: Settings) -> "Webhook":
        """The webhook of these settings; there must be one."""
        return cls(settings.webhook_url, settings.webhook_secrets)

    def post(self, message_id: str, body: bytes) -> Answer:
        """Send one message; never raises for what the other side does. No redirect is followed."""
        connection = self._connection()
        self._open.add(connection)
        try:
            connection.request("POST", self._target(), body, self._headers(message_id, body))
            response = connection.getresponse()
            response.read(_READ_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            return Answer(f"{type(error).__name__}: {error}" if str(error) else "no answer in time")
        finally:
            self._open.discard(connection)
            connection.close()
        if 200 <= response.status < 300:
            return Answer()
        return Answer(f"HTTP {response.status} {response.reason}", _retry_after_s(response))

    def abort(self) -> None:
        """End the requests that are under way."""
        for connection in list(self._open):
            sock: socket.socket | None = connection.sock
            if sock is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _connection(self) -> http.client.HTTPConnection:
        kind = (
            http.client.HTTPSConnection
            if self._url.scheme == "https"
            else http.client.HTTPConnection
        )
        return kind(self._url.hostname or "", self._url.port, timeout=ANSWER_S)

    def _target(self) -> str:
        return (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")

    def _headers(self, message_id: str, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        signed = b".".join((message_id.encode(), timestamp.encode(), body))
        signatures = (
            base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
            for key in self._keys
        )
        return {
            "Content-Type": "application/json",
            "User-Agent": "Pigeonhole",
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
        }


class Deliverer:
    """Takes what is due out of the outbox and tells it, on threads of its own, until closed."""

    def __init__(self, webhook: Webhook, outbox: Outbox, metrics: WebhookMetrics) -> None:
        self._webhook = webhook
        self._outbox = outbox
        self._metrics = metrics
        self._failures = 0
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(AT_ONCE, "webhook")
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop at once: what is under way is cut off, and comes again when its lease ends."""
        self._closing.set()
        self._webhook.abort()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown()

    def round(self) -> int:
        """Tell what is due; returns how many events were taken."""
        now = datetime.now(UTC)
        events = self._outbox.take(now, LEASE_S, 1 if self._failures else AT_ONCE)
        answers = self._post(events)
        if self._closing.is_set():
            return len(events)
        told = [event for event, answer in zip(events, answers, strict=True) if not answer.error]
        if told:
            self._outbox.delivered(told)
            self._metrics.told("delivered", len(told))
        for event, answer in zip(events, answers, strict=True):
            if answer.error:
                self._postpone(event, answer.error, answer.retry_s)
        if events:
            self._remember(len(events) - len(told))
        return len(events)

    def finish(self) -> None:
        """Tell everything that is due, while the receiver takes it."""
        while self.round() and not self._failures:
            pass

    def _run(self) -> None:
        pause_s = 0.0
        while not self._closing.wait(pause_s):
            try:
                taken = self.round()
            except DBAPIError as error:
                log.warning("cannot read the outbox; trying again", reason=str(error.orig))
                pause_s = _LONGEST_PAUSE_S
                continue
            if self._failures:
                pause_s = min(2.0**self._failures, _LONGEST_PAUSE_S)
            else:
                pause_s = 0.0 if taken else _LOOK_S

    def _post(self, events: Sequence[Event]) -> list[Answer]:
        sent = [self._pool.submit(self._webhook.post, message_id(e), body_of(e)) for e in events]
        if wait(sent, LIMIT_S).not_done:
            self._webhook.abort()
        return [future.result() for future in sent]

    def _postpone(self, event: Event, error: str, retry_s: float | None) -> None:
        if event.attempts > len(RETRY_S):
            self._outbox.postpone(event, None, error)
            self._metrics.told("given_up", 1)
            log.error(
                "webhook given up",
                result=event.result.id,
                attempts=event.attempts,
                reason=error,
                remedy="mend the receiver, then `pigeonhole webhooks retry`",
            )
            return
        delay_s = retry_s or RETRY_S[event.attempts - 1]
        self._outbox.postpone(event, datetime.now(UTC) + timedelta(seconds=delay_s), error)
        self._metrics.told("failed", 1)
        log.warning("webhook failed", result=event.result.id, reason=error, again_in_s=delay_s)

    def _remember(self, failed: int) -> None:
        """A receiver that fails is asked ever less often, with one event at a time."""
        if self._failures and not failed:
            log.info("webhook takes results again")
        self._failures = min(self._failures + 1, 10) if failed else 0


@contextmanager
def telling(
    settings: Settings, database: Database, metrics: Metrics, *, until_told: bool = False
) -> Iterator[None]:
    """Deliver while the block runs; nothing happens where no webhook is set.

    `until_told`: for a process that ends by itself; at its end it tells what is still due.
    """
    if not settings.webhook_url:
        yield
        return
    outbox = Outbox(database)
    counters = WebhookMetrics(metrics.registry, outbox.backlog)
    deliverer = Deliverer(Webhook.of(settings), outbox, counters)
    if not until_told:
        deliverer.start()
    try:
        yield
        if until_told:
            deliverer.finish()
    finally:
        deliverer.close()


def message_id(event: Event) -> str:
    """The same at every attempt: receivers know by it what they have already."""
    return f"msg_{event.result.id}"


def body_of(event: Event) -> bytes:
    """The message as Standard Webhooks has it: type, timestamp, and the result as data."""
    return message("result.created", event.created_at, event.result.to_dict())


def message(kind: str, timestamp: datetime, data: object) -> bytes:
    """The body of one message; ASCII, whatever file names hold."""
    moment = timestamp.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": kind, "timestamp": moment, "data": data}).encode("ascii")


def _retry_after_s(response: http.client.HTTPResponse) -> float | None:
    """What a busy receiver asks for, where it gives seconds."""
    value = response.headers.get("Retry-After", "")
    if response.status in (429, 503) and value.isascii() and value.isdecimal():
        return min(max(float(value), 1.0), _LONGEST_RETRY_S)
    return None
