"""GET /v1/results/{id}/image, and the uploads that are kept for it."""

import hashlib
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response
from PIL import Image
from starlette.testclient import TestClient

from api.app import create_app
from core.settings import Settings
from core.types import Failure, ImageRef, ModelRef, Stamp
from storage.store import Finished
from tests.api.conftest import parts

Upload = Callable[..., dict[str, Any]]
Paint = Callable[..., bytes]


def image(
    client: TestClient, result: dict[str, Any], size: str = "full", **headers: str
) -> Response:
    return client.get(f"/v1/results/{result['id']}/image?size={size}", headers=headers)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_an_upload_is_kept_and_comes_back_as_it_was(
    client: TestClient, upload: Upload, paint: Paint, home: Path
) -> None:
    data = paint("red", (40, 30), "JPEG")

    result = upload("red", "Überraschung.jpg", size=(40, 30), file_format="JPEG")

    assert (home / result["path"]).read_bytes() == data
    assert result["path"].startswith(f"uploads/{datetime.now(UTC):%Y-%m}")
    assert result["path"].endswith(".jpg")
    answer = image(client, result)
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Content-Disposition"].startswith("inline; filename*=")
    assert client.get(f"/v1/results/{result['id']}/image").content == data
    assert files_below(home / "uploads") == [home / result["path"]]


def test_what_is_refused_or_not_to_be_stored_leaves_no_file(
    client: TestClient, paint: Paint, home: Path
) -> None:
    client.post("/v1/predict?store=false", files={"file": ("a.png", paint("red"))})
    client.post("/v1/predict", files={"file": ("a.png", b"no image", "image/png")})

    assert files_below(home / "uploads") == []


def test_a_thumbnail_is_small_upright_and_made_once(
    client: TestClient, paint: Paint, home: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = paint("blue", (800, 400), "JPEG", exif=exif)
    result = client.post("/v1/predict", files={"file": ("a.jpg", data)}).json()

    answer = image(client, result, "thumb")

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(answer.content)).size == (128, 256)
    (kept,) = files_below(home / "thumbnails")
    assert kept.read_bytes() == answer.content
    made_at = kept.stat().st_mtime_ns
    assert image(client, result, "thumb").content == answer.content
    assert kept.stat().st_mtime_ns == made_at
    kept.write_bytes(answer.content[:100])  # as a power cut may leave it
    assert image(client, result, "thumb").content == answer.content


def test_a_thumbnail_outlives_its_file(client: TestClient, upload: Upload, home: Path) -> None:
    seen, unseen = upload("red"), upload("blue")
    thumbnail = image(client, seen, "thumb").content
    for result in (seen, unseen):
        (home / result["path"]).unlink()

    assert image(client, seen, "thumb").content == thumbnail
    for answer in (image(client, seen), image(client, unseen), image(client, unseen, "thumb")):
        assert (answer.status_code, answer.json()["code"]) == (404, "image_not_found")


@pytest.mark.parametrize("size", ["thumb", "full"])
def test_who_has_the_picture_gets_it_no_second_time(
    client: TestClient, upload: Upload, size: str
) -> None:
    result = upload("red")
    first = image(client, result, size)

    again = image(client, result, size, **{"If-None-Match": f'"x", W/{first.headers["ETag"]}'})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert image(client, result, size, **{"If-None-Match": '"x"'}).status_code == 200
    assert client.head(f"/v1/results/{result['id']}/image?size={size}").status_code == 200


def test_a_part_of_the_file_can_be_asked_for(
    client: TestClient, upload: Upload, home: Path
) -> None:
    result = upload("red")
    data = (home / result["path"]).read_bytes()
    tag = image(client, result).headers["ETag"]

    part = image(client, result, Range="bytes=2-5")
    changed = image(client, result, Range="bytes=2-5", **{"If-Range": '"other"'})
    same = image(client, result, Range="bytes=-3", **{"If-Range": tag})
    beyond = image(client, result, Range=f"bytes={len(data)}-")

    assert (part.status_code, part.content) == (206, data[2:6])
    assert part.headers["Content-Range"] == f"bytes 2-5/{len(data)}"
    assert (changed.status_code, changed.content) == (200, data)
    assert (same.status_code, same.content) == (206, data[-3:])
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range_not_satisfiable")
    assert beyond.headers["Content-Range"] == f"bytes */{len(data)}"


def record_file(client: TestClient, home: Path, name: str, data: bytes) -> dict[str, Any]:
    """A quarantined file as the watcher would have left it."""
    (home / "quarantine").mkdir(exist_ok=True)
    (home / "quarantine" / name).write_bytes(data)
    ref = ImageRef(hashlib.sha256(data).hexdigest(), name, len(data))
    failure = Failure("unreadable_image", "Copy it again.")
    now = datetime.now(UTC)
    (row,) = parts(client).store.record(
        [Finished(ref, failure, now, 1.0, path=f"quarantine/{name}")],
        source="watcher",
        model=ModelRef("rgb", "1"),
        min_confidence=0.5,
        now=now,
    )
    assert row
    return row.to_dict()


def test_a_quarantined_file_can_be_saved_but_is_never_shown(client: TestClient, home: Path) -> None:
    page = b"<script>alert(1)</script>"
    result = record_file(client, home, "<img src=x onerror=alert(1)>.html", page)

    answer = image(client, result)

    assert answer.content == page
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert "<" not in answer.headers["Content-Disposition"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    thumbnail = image(client, result, "thumb")
    assert (thumbnail.status_code, thumbnail.json()["code"]) == (404, "no_thumbnail")


def test_another_file_or_a_link_is_not_the_picture(
    client: TestClient, upload: Upload, home: Path, tmp_path: Path
) -> None:
    result = upload("red")
    file = home / result["path"]
    data = file.read_bytes()

    file.write_bytes(data + b"more")
    assert image(client, result).json()["code"] == "image_not_found"
    file.unlink()
    (tmp_path / "elsewhere").write_bytes(data)
    file.symlink_to(tmp_path / "elsewhere")
    assert image(client, result).json()["code"] == "image_not_found"


def test_a_file_that_still_waits_in_the_inbox_is_found_there(
    client: TestClient, paint: Paint, home: Path
) -> None:
    """The row is committed before the watcher puts the file away; names need not be UTF-8."""
    inbox = home / "inbox"
    inbox.mkdir()
    data = paint("red")
    path = inbox / "caf\udce9.png"
    path.write_bytes(data)
    status = path.stat()
    stamp = Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    store, now = parts(client).store, datetime.now(UTC)
    (delivery,) = store.claim([(path.name, stamp)], "me", now, 60)
    ref = ImageRef(hashlib.sha256(data).hexdigest(), "caf\\xe9.png", len(data))
    failure = Failure("unreadable_image", "")
    (row,) = store.record(
        [Finished(ref, failure, now, 1.0, delivery)],
        source="watcher", model=ModelRef("rgb", "1"), min_confidence=0.5, now=now,
    )  # fmt: skip
    assert row

    assert image(client, row.to_dict()).content == data
    (home / "quarantine").mkdir()
    path.rename(home / "quarantine" / path.name)
    store.finish([(delivery.id, "quarantine/caf\udce9.png")])
    assert image(client, row.to_dict()).content == data


@pytest.mark.parametrize("query", ["size=huge", "size=", "siz=full"])
def test_a_size_that_there_is_not_is_refused(
    client: TestClient, upload: Upload, query: str
) -> None:
    answer = client.get(f"/v1/results/{upload('red')['id']}/image?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")


def test_where_nothing_can_be_kept_the_client_is_told(
    make_settings: Callable[..., Settings], home: Path, paint: Paint
) -> None:
    (home / "uploads").write_text("in the way")
    file = {"file": ("a.png", paint("red"))}

    with TestClient(create_app(make_settings())) as client:
        answer = client.post("/v1/predict", files=file)
        unstored = client.post("/v1/predict?store=false", files=file)

        assert (answer.status_code, answer.json()["code"]) == (507, "cannot_store")
        assert unstored.status_code == 200
        assert parts(client).store.count() == 0
