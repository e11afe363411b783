from collections.abc import Iterator

import pytest

from monitoring.exporter import Exporter
from monitoring.healthcheck import main
from monitoring.metrics import Metrics


@pytest.fixture
def exporter() -> Iterator[str]:
    ready = {"disk": lambda: "3 bytes free; make room", "database": lambda: None}
    with Exporter("127.0.0.1", 0, Metrics(), live={}, ready=ready) as exporter:
        yield "http://{}:{}".format(*exporter.address)


def test_what_is_well_is_zero(exporter: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{exporter}/livez"]) == 0
    assert capsys.readouterr().out == "ok\n"


def test_what_is_unwell_is_one_and_says_why(
    exporter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"{exporter}/readyz"]) == 1
    assert capsys.readouterr().out == "answers 503: disk: 3 bytes free; make room\n"


def test_what_is_not_there_is_one(unused_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"http://127.0.0.1:{unused_port}/livez"]) == 1
    assert "refused" in capsys.readouterr().out


def test_a_proxy_is_never_asked(exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    assert main([f"{exporter}/livez"]) == 0


@pytest.mark.parametrize("arguments", [[], ["localhost"], ["http://a", "http://b"]])
def test_a_wrong_call_is_two(arguments: list[str]) -> None:
    assert main(arguments) == 2
