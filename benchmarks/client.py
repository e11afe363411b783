"""A load client that costs little beside a server on the same cores: one thread, raw HTTP/1.1.

Every request carries bytes that no other has (a number behind the end of the JPEG), so that no
server can answer from memory.
"""

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

_BOUNDARY = b"7d1f0a5cpigeonhole"


@dataclass
class Load:
    """What a load of some seconds brought."""

    latencies_s: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0

    @property
    def per_s(self) -> float:
        """Good answers per second."""
        return len(self.latencies_s) / self.seconds


def forms(path: str, photos: Sequence[bytes]) -> Iterator[bytes]:
    """Requests with a multipart form and its field `file`, without end."""
    head = (
        b"--" + _BOUNDARY + b'\r\nContent-Disposition: form-data; name="file"; '
        b'filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    for photo in _different(photos):
        body = head + photo + b"\r\n--" + _BOUNDARY + b"--\r\n"
        yield _request(path, b"multipart/form-data; boundary=" + _BOUNDARY, body)


def inference_requests(path: str, photos: Sequence[bytes]) -> Iterator[bytes]:
    """Requests of the Open Inference Protocol, the photo as base64, without end."""
    for photo in _different(photos):
        image = {
            "name": "images",
            "shape": [1, 1],
            "datatype": "BYTES",
            "parameters": {"content_type": "base64"},
            "data": [base64.b64encode(photo).decode()],
        }
        yield _request(path, b"application/json", json.dumps({"inputs": [image]}).encode())


def load(port: int, requests: Iterator[bytes], clients: int, seconds: float) -> Load:
    """`clients` connections that each send the next request when the last is answered."""
    return asyncio.run(_load(port, requests, clients, seconds))


async def _load(port: int, requests: Iterator[bytes], clients: int, seconds: float) -> Load:
    found = Load()
    started_s = time.perf_counter()
    end_s = started_s + seconds
    loop = asyncio.get_running_loop()
    ended = [loop.create_future() for _ in range(clients)]
    for future in ended:
        await loop.create_connection(
            lambda future=future: _Client(requests, end_s, found, future), "127.0.0.1", port
        )
    await asyncio.wait(ended, timeout=seconds + 60)
    found.seconds = time.perf_counter() - started_s
    return found


class _Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(
        self, requests: Iterator[bytes], end_s: float, found: Load, ended: asyncio.Future[None]
    ) -> None:
        self._requests = requests
        self._end_s = end_s
        self._found = found
        self._ended = ended
        self._answer = b""
        self._sent_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._send()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or not _is_whole(head.lower(), body):
            return
        now_s = time.perf_counter()
        if head[9:10] == b"2":
            self._found.latencies_s.append(now_s - self._sent_s)
        else:
            self._found.errors += 1
        self._answer = b""
        if now_s < self._end_s:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or time.perf_counter() < self._end_s:
            self._found.errors += 1
        if not self._ended.done():
            self._ended.set_result(None)

    def _send(self) -> None:
        request = next(self._requests)
        self._sent_s = time.perf_counter()
        self._transport.write(request)


def _is_whole(head: bytes, body: bytes) -> bool:
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length or 0)


def _different(photos: Sequence[bytes]) -> Iterator[bytes]:
    """The photos in turn, each time with other bytes behind the image's end."""
    for number in itertools.count():
        yield photos[number % len(photos)] + b"%016d" % (time.monotonic_ns() + number)


def _request(path: str, content_type: bytes, body: bytes) -> bytes:
    return (
        b"POST " + path.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: " + content_type
        + b"\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )  # fmt: skip


Requests = Callable[[str, Sequence[bytes]], Iterator[bytes]]
