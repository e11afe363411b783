"""POST /v1/results/{id}/retry."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from core.types import Failure, ImageRef
from storage.results import Result
from storage.store import Finished
from tests.api.conftest import parts

NAMES = ("broken.jpg", "=cmd|' C calc'!A0.png", "<img src=x onerror=alert(1)>.png")


@pytest.fixture
def quarantine(client: TestClient, home: Path) -> Callable[[str], Result]:
    """`quarantine("a.jpg")`: a file in quarantine, its reason, and its row."""

    def quarantine(name: str) -> Result:
        folder = home / "quarantine"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"damaged")
        (folder / f"{name}.reason.json").write_text("{}")
        now = datetime.now(UTC)
        failure = Failure("unreadable_image", "Damaged.")
        image = ImageRef("0" * 64, name, 7)
        (row,) = parts(client).store.record(
            [Finished(image, failure, now, 1.0, path=f"quarantine/{name}")],
            source="watcher",
            model=parts(client).bundle.ref,
            min_confidence=0.5,
            now=now,
        )
        assert row is not None
        return row

    return quarantine


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_in_the_inbox_again_and_the_row_is_history(
    client: TestClient, home: Path, quarantine: Callable[[str], Result], name: str
) -> None:
    row = quarantine(name)

    answer = client.post(f"/v1/results/{row.id}/retry")

    assert answer.status_code == 200
    assert answer.json() == {"path": str(home / "inbox" / name)}
    assert (home / "inbox" / name).read_bytes() == b"damaged"
    assert list((home / "quarantine").iterdir()) == []
    assert client.get(f"/v1/results/{row.id}").json()["path"] is None


def test_what_was_tried_again_or_is_not_there_is_refused(
    client: TestClient,
    home: Path,
    quarantine: Callable[[str], Result],
    upload: Callable[..., dict[str, Any]],
) -> None:
    again, gone = quarantine("again.jpg"), quarantine("gone.jpg")
    (home / "quarantine" / "gone.jpg").unlink()
    client.post(f"/v1/results/{again.id}/retry")

    for identifier in (again.id, gone.id, upload("red")["id"]):
        answer = client.post(f"/v1/results/{identifier}/retry")
        assert (answer.status_code, answer.json()["code"]) == (409, "cannot_retry")
    answer = client.post("/v1/results/nothing/retry")
    assert (answer.status_code, answer.json()["code"]) == (404, "result_not_found")


def test_a_row_that_names_another_file_moves_nothing(
    client: TestClient, home: Path, quarantine: Callable[[str], Result]
) -> None:
    row = quarantine("../pigeonhole.db")

    assert client.post(f"/v1/results/{row.id}/retry").status_code == 409
    assert (home / "pigeonhole.db").exists()
