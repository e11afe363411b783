"""The watcher's own door, through real sockets on the loopback."""

import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse

import pytest

from core.errors import PigeonholeError, SettingsError
from monitoring.exporter import Exporter
from monitoring.health import Check
from monitoring.metrics import Metrics

LOOPBACK = "127.0.0.1"


@pytest.fixture
def checks() -> dict[str, Check]:
    """What /readyz asks; a test may change it while the door is open."""
    return {"inbox": lambda: None}


@pytest.fixture
def exporter(metrics: Metrics, checks: dict[str, Check]) -> Iterator[Exporter]:
    with Exporter(LOOPBACK, 0, metrics, live={"loop": lambda: None}, ready=checks) as exporter:
        yield exporter


@pytest.fixture
def ask(exporter: Exporter) -> Callable[..., tuple[HTTPResponse, bytes]]:
    def ask(path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
        with closing(HTTPConnection(*exporter.address, timeout=10)) as connection:
            connection.request(method, path)
            response = connection.getresponse()
            return response, response.read()

    return ask


Ask = Callable[..., tuple[HTTPResponse, bytes]]


def is_free(port: int) -> bool:
    with closing(socket.socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def test_metrics_are_shown_as_they_are_now(ask: Ask, metrics: Metrics) -> None:
    metrics.batch(3)

    response, body = ask("/metrics")

    assert response.status == 200
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"pigeonhole_batch_images_count 1.0\n" in body
    metrics.batch(3)
    assert b"pigeonhole_batch_images_count 2.0\n" in ask("/metrics?name[]=anything")[1]


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health_is_json(path: str, ask: Ask) -> None:
    response, body = ask(path)

    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert json.loads(body)["status"] == "ok"


def test_readyz_is_503_with_the_cause_until_it_is_gone(ask: Ask, checks: dict[str, Check]) -> None:
    checks["disk"] = lambda: "10 bytes free; make room"

    response, body = ask("/readyz")

    assert (response.status, response.reason) == (503, "Service Unavailable")
    assert json.loads(body) == {
        "status": "unavailable",
        "checks": {"inbox": "ok", "disk": "10 bytes free; make room"},
    }
    assert ask("/livez")[0].status == 200
    checks["disk"] = lambda: None
    assert ask("/readyz")[0].status == 200


def test_a_check_that_raises_is_answered_too(ask: Ask, checks: dict[str, Check]) -> None:
    def broken() -> str:
        raise OSError("the disk is on fire")

    checks["disk"] = broken

    response, body = ask("/readyz")

    assert response.status == 503
    assert json.loads(body)["checks"]["disk"] == "OSError: the disk is on fire"


@pytest.mark.parametrize("path", ["/", "/metrics/", "/Metrics", "/../etc/passwd", "/%00", "//"])
def test_anything_else_is_404_and_says_what_is_here(path: str, ask: Ask) -> None:
    response, body = ask(path)

    assert response.status == 404
    assert body == b"/metrics, /livez and /readyz are here\n"


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/nothing"])
def test_head_gives_the_headers_of_get_alone(path: str, ask: Ask) -> None:
    (got, body), (headed, nothing) = ask(path), ask(path, "HEAD")

    assert headed.status == got.status
    assert headed.headers["Content-Type"] == got.headers["Content-Type"]
    assert headed.headers["Content-Length"] == str(len(body))
    assert nothing == b""


def test_many_scrape_at_once_while_the_work_goes_on(ask: Ask, metrics: Metrics) -> None:
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            metrics.batch(1)
            metrics.watcher_mode("native")

    with ThreadPoolExecutor(9) as pool:
        working = pool.submit(work)
        answers = list(pool.map(ask, ["/metrics", "/readyz"] * 40))
        done.set()
        working.result()

    assert {response.status for response, _ in answers} == {200}
    assert all(len(body) == int(response.headers["Content-Length"]) for response, body in answers)


def test_one_who_says_nothing_keeps_nobody_waiting(exporter: Exporter, ask: Ask) -> None:
    with closing(socket.create_connection(exporter.address)) as silent:
        silent.sendall(b"GET /met")

        assert ask("/livez")[0].status == 200


def test_who_hangs_up_is_no_news(
    exporter: Exporter, ask: Ask, capfd: pytest.CaptureFixture[str]
) -> None:
    for said in (b"", b"GET /metrics HTTP/1.1\r\n", b"\x16\x03\x01\x00\xff nonsense\r\n\r\n"):
        with closing(socket.create_connection(exporter.address)) as rude:
            rude.sendall(said)
            # Reset instead of a polite end: the server meets an error in the middle of its line.
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert ask("/livez")[0].status == 200
    exporter.close()
    assert capfd.readouterr() == ("", "")


def test_scrapes_leave_no_line_in_the_log(ask: Ask, capfd: pytest.CaptureFixture[str]) -> None:
    ask("/metrics")
    ask("/nothing")

    assert capfd.readouterr() == ("", "")


def test_the_address_says_which_free_port_was_taken(exporter: Exporter) -> None:
    host, port = exporter.address

    assert host == LOOPBACK
    assert port > 0
    assert not is_free(port)


def test_closing_frees_the_port_at_once_and_twice_is_no_error(
    exporter: Exporter, ask: Ask, metrics: Metrics
) -> None:
    ask("/metrics")
    _, port = exporter.address

    exporter.close()
    exporter.close()

    assert is_free(port)
    with Exporter(LOOPBACK, port, metrics, live={}, ready={}) as again:
        assert again.address == (LOOPBACK, port)


def test_a_port_that_is_taken_is_a_clear_error(exporter: Exporter, metrics: Metrics) -> None:
    _, port = exporter.address

    with pytest.raises(SettingsError) as caught:
        Exporter(LOOPBACK, port, metrics, live={}, ready={})

    assert isinstance(caught.value, PigeonholeError)
    assert re.fullmatch(
        rf"PIGEONHOLE_WATCHER_METRICS_PORT: cannot listen on 127\.0\.0\.1, port {port}: "
        r"Address already in use\. Choose another port .*",
        str(caught.value),
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])  # the first is nobody's: RFC 5737
def test_an_address_that_is_not_ours_is_a_clear_error(host: str, metrics: Metrics) -> None:
    with pytest.raises(SettingsError, match=f"cannot listen on {host}"):
        Exporter(host, 0, metrics, live={}, ready={})


def test_ipv6_works_as_well(metrics: Metrics) -> None:
    try:
        with closing(socket.socket(socket.AF_INET6)) as listening:
            listening.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"NOT TESTED: IPv6; {error}")

    with (
        Exporter("::1", 0, metrics, live={}, ready={}) as exporter,
        closing(HTTPConnection(*exporter.address, timeout=10)) as connection,
    ):
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
