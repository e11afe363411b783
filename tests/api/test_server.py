"""The API as a process: real sockets, real signals."""

import http.client
import json
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from api.server import _listen as listen
from api.server import serve
from core.errors import SettingsError
from core.settings import Settings
from tests.api.conftest import MAX_BODY_BYTES, Server, make_home, serving, start

Paint = Callable[..., bytes]


def ask(server: Server, path: str, **headers: str) -> tuple[int, dict[str, object]]:
    answer = httpx2.get(server.url + path, headers=headers)
    return answer.status_code, answer.json()


def test_an_upload_over_the_wire_gets_its_label(server: Server, paint: Paint) -> None:
    answer = httpx2.post(f"{server.url}/v1/predict", files={"file": ("a.png", paint("lime"))})

    assert (answer.status_code, answer.json()["label"]) == (201, "green")
    assert "server" not in answer.headers
    assert ask(server, answer.headers["Location"]) == (200, answer.json())


def test_too_long_a_body_is_refused_before_it_is_sent(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.putrequest("POST", "/v1/predict")
    connection.putheader("Content-Type", "multipart/form-data; boundary=b")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()

    answer = connection.getresponse()  # though not one byte of the body was sent

    assert answer.status == 413
    assert answer.getheader("Content-Type") == "application/problem+json"
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert json.load(answer)["code"] == "body_too_large"
    connection.close()


def test_too_long_a_body_in_chunks_is_refused_when_it_gets_too_long(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(MAX_BODY_BYTES // 10_000 + 20):
            yield b"x" * 10_000

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx2.post(f"{server.url}/v1/predict", content=chunks(), headers=headers)

    assert answer.request.headers["Transfer-Encoding"] == "chunked"
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_an_image_may_come_in_chunks(server: Server, paint: Paint) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield from (bytes([byte]) for byte in paint("blue"))
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = httpx2.post(f"{server.url}/v1/predict", content=chunks(), headers=headers)

    assert (answer.status_code, answer.json()["label"]) == (201, "blue")


def test_a_client_that_goes_away_is_no_fault_of_ours(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
    while 'status="400"' not in httpx2.get(f"{server.url}/metrics").text:
        pass

    assert 'errors_total{code="internal_error"} 0.0' in httpx2.get(f"{server.url}/metrics").text


def test_what_is_not_http_ends_only_its_own_connection(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400")

    assert ask(server, "/livez")[0] == 200


def test_two_servers_share_one_database(rgb_bundle: Path, tmp_path: Path, paint: Paint) -> None:
    homes = [make_home(tmp_path / name, rgb_bundle) for name in ("one", "two")]
    database = f"sqlite:///{tmp_path / 'shared.db'}"
    with ExitStack() as stack:
        servers = [
            stack.enter_context(serving(home, PIGEONHOLE_DATABASE_URL=database)) for home in homes
        ]
        threads = stack.enter_context(ThreadPoolExecutor(8))

        def send(number: int) -> str:
            url = servers[number % 2].url
            file = {"file": ("a.png", paint("red", (10 + number % 10, 10)))}
            answer = httpx2.post(f"{url}/v1/predict", files=file, timeout=30)
            assert answer.status_code == 201, answer.text
            return str(answer.json()["id"])

        sent = list(threads.map(send, range(40)))
        both = [httpx2.get(f"{server.url}/v1/results?limit=500").json() for server in servers]

    assert both[0] == both[1]
    assert sorted(item["id"] for item in both[0]["items"]) == sorted(sent)
    assert sum(item["duplicate_of"] is None for item in both[0]["items"]) == 10


def test_sigterm_lets_an_answer_finish_and_keeps_the_database_whole(
    rgb_bundle: Path, tmp_path: Path, paint: Paint
) -> None:
    home = make_home(tmp_path / "home", rgb_bundle)
    with serving(home) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        data = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            + paint("red")
            + b"\r\n--b--\r\n"
        )
        connection.putrequest("POST", "/v1/predict")
        connection.putheader("Content-Type", "multipart/form-data; boundary=b")
        connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data[:50])
        assert ask(server, "/livez")[0] == 200  # so the server has read the first half as well
        server.process.terminate()
        connection.send(data[50:])
        assert connection.getresponse().status == 201
        connection.close()

    rows = sqlite3.connect(home / "pigeonhole.db")
    assert rows.execute("SELECT count(*) FROM results").fetchone() == (1,)
    assert rows.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows.close()


def test_without_a_key_only_loopback_is_bound(make_settings: Callable[..., Settings]) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        with pytest.raises(SettingsError, match="PIGEONHOLE_API_KEY"):
            serve(make_settings(host=host))


def test_with_a_key_others_may_come_in(rgb_bundle: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", rgb_bundle)

    with serving(home, PIGEONHOLE_HOST="0.0.0.0", PIGEONHOLE_API_KEY="secret") as server:
        here = Server(f"http://127.0.0.1:{server.port}", server.port, server.process)
        assert ask(here, "/v1/labels")[0] == 401
        assert ask(here, "/v1/labels", **{"X-API-Key": "secret"})[0] == 200


def test_a_port_that_is_taken_is_named_with_its_setting(
    make_settings: Callable[..., Settings], server: Server
) -> None:
    with pytest.raises(SettingsError, match=f"port {server.port} is in use; set PIGEONHOLE_PORT"):
        serve(make_settings(port=server.port))


def test_answers_do_not_wait_for_acknowledgements() -> None:
    """asyncio turns Nagle's algorithm off for the connections of such a socket alone."""
    with listen("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP
        connection = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
        assert accepted.proto == socket.IPPROTO_TCP
        accepted.close()
        connection.close()


def test_an_address_that_is_not_ours_is_named(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError, match="PIGEONHOLE_HOST: cannot listen on 192"):
        serve(make_settings(host="192.0.2.1", api_key="secret"))


def test_a_broken_model_is_said_in_one_line(rgb_bundle: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", rgb_bundle)
    (home / "models" / "current" / "model.onnx").write_bytes(b"not a model")

    with start(home) as process:
        said = process.communicate(timeout=30)[1]

    assert process.returncode == 1
    assert "model.onnx is not the file that bundle.json names" in said
    assert "Traceback" not in said


def test_requests_are_logged_but_not_those_of_the_watchmen(
    rgb_bundle: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home", rgb_bundle)
    with start(home) as process:
        assert process.stderr is not None
        url = json.loads(process.stderr.readline())["url"]
        for path in ("/livez", "/readyz", "/metrics", "/v1/labels?q=1", "/nothing%0aforged"):
            httpx2.get(url + path)
        process.terminate()
        said = [json.loads(line) for line in process.communicate(timeout=30)[1].splitlines()]

    requests = [line for line in said if line["event"] == "request"]
    assert [(line["path"], line["status"]) for line in requests] == [
        ("/v1/labels", 200),
        ("/nothing\nforged", 404),
    ]
    assert {line["process"] for line in said} == {"api"}
    assert said[-1]["event"] == "stopped"
    assert process.returncode == 0


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_in_the_log_shows_no_variables(log_format: str, repository: Path) -> None:
    code = f"""
import structlog
from monitoring import logs
logs.configure({log_format!r}, "api")
def inside(value):
    raise RuntimeError("a bug")
try:
    inside("".join(["se", "cret"]))
except RuntimeError:
    structlog.get_logger("api").exception("internal_error")
"""

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True
    )

    assert "a bug" in done.stderr
    assert "inside" in done.stderr
    assert "secret" not in done.stderr
