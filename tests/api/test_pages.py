"""The page as HTML, without a browser: what is in it, who may see it, what it refuses."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from starlette.testclient import TestClient

from api import keyring
from api.app import create_app
from core.settings import Settings
from core.types import Failure, ImageInfo, ImageRef, LabelScore, Prediction
from monitoring.quality import MIN_IMAGES
from storage import keys
from storage.store import Finished
from tests.api.conftest import parts

Upload = Callable[..., dict[str, Any]]

KEY = "correct horse — battery"
HOSTILE = (
    "<img src=x onerror=alert(1)>.png",
    "=cmd|' C calc'!A0.png",
    '" autofocus onfocus=alert(1) x=".png',
    "{{ 7 * 7 }}{% raw %}.png",
    "'><script>alert(1)</script>.png",
    "javascript:alert(1).png",
)
VIEWS = ("/", "/review", "/quarantine", "/parts/rows", "/parts/pulse", "/parts/side")


class Tags(HTMLParser):
    """Everything that a browser would take for an element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def record(client: TestClient, name: str, label: str | None, confidence: float = 1.0) -> str:
    """A row as the watcher writes it: forms would spell some names in another way."""
    ref = parts(client).bundle.ref
    scores = (LabelScore(label or "", confidence),)
    info = ImageInfo(8, 8, "PNG")
    outcome = (
        Prediction(label, confidence, scores, ref, info)
        if label
        else Failure("unreadable_image", f"Damaged: {name}")
    )
    now = datetime.now(UTC)
    image = ImageRef("0" * 64, name, 1)
    (row,) = parts(client).store.record(
        [Finished(image, outcome, now, 1.0)],
        source="watcher",
        model=ref,
        min_confidence=0.5,
        now=now,
    )
    assert row is not None
    return row.id


@pytest.fixture
def locked(make_settings: Callable[..., Settings]) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(api_key=KEY)), follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_wherever_it_is_shown(client: TestClient, name: str) -> None:
    unsure = record(client, name, label=name, confidence=0.4)
    bad = record(client, name, label=None)

    for path in ("/", "/review", "/quarantine", f"/results/{unsure}", f"/results/{bad}"):
        html = client.get(path)
        assert html.status_code == 200
        page = Tags(html.text)
        assert name in "\n".join(page.text), path
        assert not [tag for tag in page.tags if tag[1].get("src") == "x"]
        for tag, attributes in page.tags:
            assert not [each for each in attributes if each.startswith("on")], (path, tag)
            assert tag != "script" or str(attributes["src"]).startswith("/static/page/")


def test_the_pages_have_nothing_inline_and_nothing_from_elsewhere(
    client: TestClient, upload: Upload
) -> None:
    result = upload((100, 100, 99))

    for path in (*VIEWS, "/login", f"/results/{result['id']}", "/results/nothing"):
        page = Tags(client.get(path).text)
        for tag, attributes in page.tags:
            assert tag not in ("style", "base", "iframe", "object"), path
            assert "style" not in attributes, (path, tag)
            for address in (attributes.get("src"), attributes.get("href")):
                assert address is None or re.match(r"/(?!/)|#", address), (path, address)


def test_everything_that_a_page_links_to_is_there(client: TestClient, upload: Upload) -> None:
    result = upload("red")
    addresses = set()
    for path in (*VIEWS, f"/results/{result['id']}"):
        for _, attributes in Tags(client.get(path).text).tags:
            addresses |= {attributes.get("src"), attributes.get("href")}

    addresses = {
        address
        for address in addresses
        if address and address.startswith("/") and "/export" not in address
    }
    assert len(addresses) > 15
    for address in addresses:
        assert client.get(str(address)).status_code == 200, address


def test_filters_are_those_of_rest(client: TestClient, upload: Upload) -> None:
    upload("red", name="rose.png")
    upload("blue", name="sea.png")

    html = client.get("/?label=blue&min_confidence=0.5&q=").text

    assert "sea.png" in html
    assert "rose.png" not in html
    assert 'data-query="?label=blue&amp;min_confidence=0.5"' in html
    assert "/v1/results/export?label=blue&amp;min_confidence=0.5&amp;format=csv" in html


def test_a_filter_that_cannot_be_used_is_said_and_left_out(
    client: TestClient, upload: Upload
) -> None:
    upload("red", name="rose.png")

    answer = client.get("/?since=yesterday&min_confidence=7&unknown=1")

    assert answer.status_code == 200
    assert "since: must be a time such as" in answer.text
    assert "min_confidence: Input should be less than or equal to 1" in answer.text
    assert "rose.png" in answer.text


def test_without_results_it_says_where_to_put_images(client: TestClient, home: object) -> None:
    html = client.get("/").text

    assert f"{home}/inbox" in html
    assert "Every hole is empty" in html
    assert "Nothing waits for you" in client.get("/review").text
    assert "Nothing is in quarantine" in client.get("/quarantine").text


@pytest.mark.parametrize("identifier", ["nothing", "01a20589-9e8e-7000-ba5e-e5c1c573684f", "%00"])
def test_a_result_that_is_not_there_is_said_as_a_page(client: TestClient, identifier: str) -> None:
    answer = client.get(f"/results/{identifier}")

    assert answer.status_code == 404
    assert "No such result" in answer.text


def test_the_queue_goes_on_behind_a_tile(client: TestClient) -> None:
    ids = [record(client, "a.png", "red", 0.1 * number) for number in (3, 1, 2, 4, 1)]
    in_order = [ids[1], ids[4], ids[2], ids[0], ids[3]]

    assert re.findall(r'data-id="(.*?)"', client.get("/review").text) == in_order
    rest = client.get(f"/parts/tiles?after={ids[4]}")
    assert re.findall(r'<li [^>]*data-id="(.*?)"', rest.text, re.DOTALL) == in_order[2:]
    assert client.get("/parts/tiles?after=nothing").status_code == 404


def test_rows_go_on_before_and_after(client: TestClient, upload: Upload) -> None:
    for number in range(3):
        upload("red", name=f"{number}.png")
    seqs = re.findall(r'data-seq="(\d+)"', client.get("/parts/rows").text)

    older = client.get(f"/parts/rows?before={seqs[0]}")
    newer = client.get(f"/parts/rows?after={seqs[2]}")

    assert seqs == sorted(seqs, key=int, reverse=True)
    assert re.findall(r'data-seq="(\d+)"', older.text) == seqs[1:]
    assert re.findall(r'data-seq="(\d+)"', newer.text) == seqs[:2]
    assert older.headers["X-Rows"] == newer.headers["X-Rows"] == "all"


def test_how_good_the_answers_are_stands_beside_the_model(client: TestClient) -> None:
    for number in range(MIN_IMAGES):
        record(client, f"{number}.png", "red", 0.9)
    client.get("/parts/side")  # the database is asked once this is answered

    told = Tags(client.get("/parts/side").text).text

    assert "90% (84% to 96%) right, by its own confidence" in told


# --- with a key ----------------------------------------------------------------------------------


def test_without_the_key_pages_lead_to_the_form_and_parts_are_refused(locked: TestClient) -> None:
    for path in ("/", "/review", "/quarantine", "/results/x?q=1"):
        answer = locked.get(path)
        assert answer.status_code == 303, path
        assert answer.headers["Location"].startswith("/login?next=%2F")
    for path in ("/parts/rows", "/parts/pulse", "/parts/side", "/parts/tiles"):
        assert locked.get(path).status_code == 401, path


def sign_in(client: TestClient, key: str = KEY, **fields: str) -> Any:  # noqa: ANN401
    return client.post("/login", data={"key": key, **fields})


def test_the_key_opens_pages_and_rest_until_one_signs_out(
    locked: TestClient, paint: Callable[..., bytes]
) -> None:
    answer = sign_in(locked, next="/review?x=1")

    cookie = answer.headers["Set-Cookie"]
    assert (answer.status_code, answer.headers["Location"]) == (303, "/review?x=1")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Max-Age" not in cookie  # until the browser is closed
    assert "horse" not in cookie
    assert locked.get("/").status_code == 200
    assert locked.get("/v1/results").status_code == 200
    assert locked.post("/v1/predict", files={"file": ("a.png", paint("red"))}).status_code == 201

    locked.post("/logout")

    assert locked.get("/").status_code == 303
    assert locked.get("/v1/results").status_code == 401


def test_a_wrong_key_is_said_and_opens_nothing(locked: TestClient) -> None:
    answer = sign_in(locked, "wrong")

    assert answer.status_code == 401
    assert "This is not a key" in answer.text
    assert "Set-Cookie" not in answer.headers
    assert locked.get("/").status_code == 303


def test_a_wrong_key_in_the_header_is_not_mended_by_a_cookie(locked: TestClient) -> None:
    sign_in(locked)

    assert locked.get("/v1/results", headers={"X-API-Key": "wrong"}).status_code == 401


def test_a_session_ends_with_its_key_and_has_its_scopes(
    locked: TestClient, paint: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "FRESH_S", 0)
    database = parts(locked).store.database
    key = keys.add(database, "reader", ["read"], datetime.now(UTC))
    assert sign_in(locked, key).status_code == 303

    assert locked.get("/").status_code == 200
    refused = locked.post("/v1/predict", files={"file": ("a.png", paint("red"))})
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    keys.revoke(database, "reader")

    assert locked.get("/").status_code == 303


@pytest.mark.parametrize(
    "address",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "x", ""],
)
def test_signing_in_leads_nowhere_else(locked: TestClient, address: str) -> None:
    assert sign_in(locked, next=address).headers["Location"] == "/"


def test_a_form_that_is_too_large_is_not_read(locked: TestClient) -> None:
    assert sign_in(locked, "x" * 10_000).status_code == 413


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_others_cannot_make_a_browser_write(
    client: TestClient, paint: Callable[..., bytes], site: str
) -> None:
    headers = {"Sec-Fetch-Site": site}

    answer = client.post("/v1/predict", files={"file": ("a.png", paint("red"))}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin")
    assert client.post("/login", data={"key": "x"}, headers=headers).status_code == 403
    assert client.get("/v1/results").json()["items"] == []
