"""A real HTTP server for webhooks, which fails, hangs and dribbles when it is told to."""

import threading
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Received(NamedTuple):
    headers: Message
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Receiver:
    """A real HTTP server; `behave` says what to do with the next requests, then it answers 204."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.behave: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.hang = threading.Event()
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    outer.received.append(Received(self.headers, body))
                    act = outer.behave.pop(0) if outer.behave else answering(204)
                act(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook?from=me"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def hanging(self, _: BaseHTTPRequestHandler) -> None:
        self.hang.wait(60)

    def dribbling(self, request: BaseHTTPRequestHandler) -> None:
        """A status line that never ends, one byte at a time."""
        while not self.hang.wait(0.02):
            try:
                request.wfile.write(b"H")
            except OSError:
                return

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def answering(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer
