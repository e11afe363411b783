"""An application in this process, and a real one in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright
from starlette.testclient import TestClient

from api.app import create_app
from api.parts import Parts
from core.settings import Settings

MAX_BODY_BYTES = 300_000
CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

_SERVE = """
import sys
from api.server import serve
from core.errors import PigeonholeError
from core.settings import Settings
try:
    sys.exit(serve(Settings.read()))
except PigeonholeError as error:
    sys.exit(f"refused: {error}")
"""


def make_home(folder: Path, bundle: Path) -> Path:
    shutil.copytree(bundle, folder / "models" / "current")
    return folder


@pytest.fixture
def home(tmp_path: Path, rgb_bundle: Path) -> Path:
    return make_home(tmp_path / "home", rgb_bundle)


@pytest.fixture
def make_settings(home: Path) -> Callable[..., Settings]:
    def make(**changes: object) -> Settings:
        known = {"workers": 2, "max_body_bytes": MAX_BODY_BYTES, "max_pixels": 1_000_000}
        return Settings(_env_file=None, home=home, **known | changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def client(make_settings: Callable[..., Settings]) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings())) as client:
        yield client


def parts(client: TestClient) -> Parts:
    found: Parts = client.app.state.parts  # type: ignore[attr-defined]
    return found


@pytest.fixture
def upload(client: TestClient, paint: Callable[..., bytes]) -> Callable[..., dict[str, Any]]:
    """Upload a painted image and give its result."""

    def upload(color: str = "red", name: str = "image.png", **how: object) -> dict[str, Any]:
        answer = client.post("/v1/predict", files={"file": (name, paint(color, **how))})
        assert answer.status_code == 201, answer.text
        result: dict[str, Any] = answer.json()
        return result

    return upload


@dataclass
class Server:
    """`log` reads what the process says, line by line, as JSON."""

    url: str
    port: int
    process: "subprocess.Popen[str]"


@contextmanager
def serving(home: Path, **variables: str) -> Iterator[Server]:
    """A process that serves on a free port; at the end SIGTERM must end it well."""
    with start(home, **variables) as process:
        said: list[str] = []
        drain = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        running = listening(process)
        drain.start()  # a pipe that nobody reads stops the process when it is full
        try:
            yield running
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)
            drain.join()
        assert process.returncode == 0, said


def start(home: Path, program: str = _SERVE, **variables: str) -> "subprocess.Popen[str]":
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("PIGEONHOLE_")
    }
    environment |= {
        "PIGEONHOLE_HOME": str(home),
        "PIGEONHOLE_PORT": "0",
        "PIGEONHOLE_LOG_FORMAT": "json",
        "PIGEONHOLE_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "PIGEONHOLE_WORKERS": "2",
        **variables,
    }
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=home,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def listening(process: "subprocess.Popen[str]") -> Server:
    """The server, once it listens."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if '"listening"' in line:
            url = json.loads(line)["url"]
            return Server(url, int(url.rpartition(":")[2]), process)
    raise AssertionError(f"the server ended: {said}")


@pytest.fixture(scope="module")
def server(rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = make_home(tmp_path_factory.mktemp("served") / "home", rgb_bundle)
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"NOT TESTED: anything in a browser. {CHROMIUM} is absent; install chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def forgiven() -> list[str]:
    """Parts of complaints that a test expects of the browser, as of an upload that is refused."""
    return []


@pytest.fixture
def page(browser: Browser, forgiven: list[str]) -> Iterator[Page]:
    """A page that must not leave this machine, nor complain."""
    asked: list[str] = []
    complaints: list[str] = []

    def failed(request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # who leaves a page ends its requests
            complaints.append(f"{request.url}: {request.failure}")

    page = browser.new_page(locale="en-GB", timezone_id="UTC")
    page.set_default_timeout(60_000)
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", failed)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
    )
    yield page
    page.close()
    hosts = {urlsplit(url).hostname for url in asked if urlsplit(url).scheme != "data"}
    assert hosts <= {"127.0.0.1"}
    assert [each for each in complaints if not any(part in each for part in forgiven)] == []
