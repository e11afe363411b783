"""The watcher's own small door: /metrics, /livez and /readyz, on a thread of their own."""

import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from socketserver import ThreadingMixIn
from typing import Any, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from core.errors import SettingsError
from monitoring.health import Check, Report, examine
from monitoring.metrics import CONTENT_TYPE, Metrics


class _Quiet(WSGIRequestHandler):
    timeout = 30  # seconds; who connects and says nothing must not hold a thread for ever

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - the base class's
        """Scrapes are not news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Somebody hung up in the middle of a line; nor is that."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class Exporter:
    """Serves until closed. `port` 0 takes a free one; `address` says which.

    Raises `SettingsError` when the port cannot be had.
    """

    def __init__(
        self,
        host: str,
        port: int,
        metrics: Metrics,
        *,
        live: Mapping[str, Check],
        ready: Mapping[str, Check],
        notes: Mapping[str, Check] | None = None,
    ) -> None:
        pages: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/metrics": lambda: (200, CONTENT_TYPE, metrics.exposition()),
            "/livez": lambda: _health(examine(live)),
            "/readyz": lambda: _health(examine(ready, notes)),
        }

        def application(
            environ: dict[str, Any], start: Callable[[str, list[tuple[str, str]]], object]
        ) -> Iterable[bytes]:
            page = pages.get(environ["PATH_INFO"], _not_found)
            status, content_type, body = page()
            headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
            start(f"{status} {_REASONS[status]}", headers)
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

        kind = _Server6 if ":" in host else _Server
        try:
            self._server = make_server(host, port, application, kind, handler_class=_Quiet)
        except OSError as error:
            raise SettingsError(
                f"PIGEONHOLE_WATCHER_METRICS_PORT: cannot listen on {host}, port {port}: "
                f"{error.strerror}. Choose another port (0 takes a free one), or stop what uses it."
            ) from error
        self.address = (str(self._server.server_address[0]), int(self._server.server_address[1]))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


_REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


def _health(report: Report) -> tuple[int, str, bytes]:
    return report.status, "application/json", json.dumps(report.to_dict()).encode()


def _not_found() -> tuple[int, str, bytes]:
    return 404, "text/plain; charset=utf-8", b"/metrics, /livez and /readyz are here\n"
