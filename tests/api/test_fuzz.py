"""Schemathesis makes up requests from our own document and sends them to a real server.

A short run here; `make fuzz` is the long one.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.conftest import make_home, serving

CASES = int(os.environ.get("PIGEONHOLE_FUZZ_CASES", "3"))  # for each operation
SEED = int(os.environ.get("PIGEONHOLE_FUZZ_SEED", "1"))
KEY = "a key for the fuzzer"


@pytest.mark.timeout(3600)
def test_no_made_up_request_gets_an_answer_that_the_document_does_not_know(
    rgb_bundle: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home", rgb_bundle)
    with serving(home, PIGEONHOLE_API_KEY=KEY) as server:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "--config-file", Path(__file__).with_name("schemathesis.toml"), "run",
                f"{server.url}/openapi.json",
                "--checks", "all",
                "--header", f"X-API-Key: {KEY}",
                "--max-examples", str(CASES),
                "--seed", str(SEED),
                "--exclude-path", "/v1/events",  # it never ends
                "--continue-on-failure",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert server.process.poll() is None

    cases = re.search(r"(\d+) generated", done.stdout)
    print(f"\nseed {SEED}, cases {cases[1] if cases else '?'}")  # noqa: T201 - `make fuzz` reports
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert cases
    assert int(cases[1]) > 20 * CASES


@pytest.fixture(autouse=True)
def _keep_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schemathesis must not meet settings of whoever runs this."""
    for name in ("SCHEMATHESIS_HOOKS", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
