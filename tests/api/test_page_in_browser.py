"""The page in a real browser, before a real server and a real watcher."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageOps
from playwright.sync_api import Page, expect
from sqlalchemy import delete

from core.types import Failure, ImageInfo, ImageRef, LabelScore, ModelRef, Prediction
from storage.results import Result, ResultFilter
from storage.schema import metadata
from storage.store import Finished, Store
from tests.api.conftest import Server, make_home, serving

LABELS = ("red", "green", "blue")
VIEWS = ("/", "/review", "/quarantine")
HOSTILE = "<img src=x onerror=alert(1)>.png"
PHONE = {"width": 360, "height": 740}

expect.set_options(timeout=60_000)
pytestmark = pytest.mark.timeout(300)  # servers, a watcher and a browser start here


@pytest.fixture(scope="module")
def home(rgb_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("page") / "home", rgb_bundle)


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    with serving(home) as running:
        yield running


@pytest.fixture(scope="module")
def rows(server: Server, home: Path) -> Iterator[Store]:  # noqa: ARG001 - it migrates
    with closing(Store.open(f"sqlite:///{home / 'pigeonhole.db'}")) as store:
        yield store


@pytest.fixture
def store(rows: Store) -> Store:
    """The database of the server, with no rows in it."""
    with rows.database.write() as connection:
        for table in metadata.tables.values():
            if table.name != "secrets":
                connection.execute(delete(table))
    return rows


@pytest.fixture
def record(store: Store, home: Path, paint: Callable[..., bytes]) -> Callable[..., list[Result]]:
    """`record("a.png", label="red", confidence=0.4)`: rows as the watcher leaves them."""

    def record(
        *names: str,
        label: str | None = "red",
        confidence: float = 0.99,
        picture: bytes | None = None,
    ) -> list[Result]:
        model = ModelRef("rgb", "1")
        folder = home / "sorted"
        folder.mkdir(exist_ok=True)
        finished = []
        now = datetime.now(UTC)
        for name in names:
            data = picture or paint(tuple(os.urandom(3)))
            image = ImageRef(os.urandom(32).hex(), name, len(data))
            rest = [LabelScore(each, (1 - confidence) / 2) for each in LABELS if each != label]
            outcome = (
                Prediction(
                    label,
                    confidence,
                    (LabelScore(label, confidence), *rest),
                    model,
                    ImageInfo(32, 24, "PNG"),
                )
                if label
                else Failure("unreadable_image", "The file is damaged.")
            )
            path = None
            if label:
                path = f"sorted/{image.sha256}.png"
                (home / path).write_bytes(data)
            finished.append(Finished(image, outcome, now, 12.3, path=path))
        found = store.record(finished, source="watcher", model=model, min_confidence=0.5, now=now)
        return [row for row in found if row is not None]

    return record


@pytest.fixture(scope="session")
def gradient() -> Callable[..., bytes]:
    """A picture with something to see in it: darker to one side."""

    def gradient(*, brighter: int = 0, is_mirrored: bool = False) -> bytes:
        image = Image.linear_gradient("L").rotate(90).point(lambda value: value * 0.8 + brighter)
        if is_mirrored:
            image = ImageOps.mirror(image)
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG")
        return file.getvalue()

    return gradient


@pytest.fixture(scope="module")
def inbox(home: Path, server: Server) -> Iterator[Path]:  # noqa: ARG001 - one migrates at a time
    """The inbox of a watcher that works."""
    environment = {
        **{name: value for name, value in os.environ.items() if "PIGEONHOLE_" not in name},
        "PIGEONHOLE_HOME": str(home),
        "PIGEONHOLE_SETTLE_S": "0.1",
        "PIGEONHOLE_WATCHER_METRICS_PORT": "0",
    }
    with (home / "watcher.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pigeonhole", "watch"], env=environment, stderr=log
        )
    (home / "inbox").mkdir(exist_ok=True)
    yield home / "inbox"
    process.terminate()
    process.wait(timeout=60)


def names(page: Page) -> list[str]:
    return page.locator(".row-name").all_text_contents()  # also of what is not drawn yet


# --- live ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_a_file_that_is_dropped_into_the_inbox_arrives_on_the_page(
    page: Page, server: Server, inbox: Path, paint: Callable[..., bytes]
) -> None:
    page.goto(server.url)
    expect(page.locator("#live")).to_have_text("live")
    expect(page.locator("#empty")).to_contain_text(str(inbox))

    part = inbox / ".rose.png.part"
    part.write_bytes(paint("red"))
    part.rename(inbox / "rose.png")

    row = page.locator(".row", has_text="rose.png")
    expect(row.locator(".row-label")).to_have_text("red")
    expect(row.locator(".row-percent")).to_have_text("100 %")
    expect(row.locator("img")).to_have_js_property("naturalWidth", 32)
    expect(page.locator("#empty")).to_be_hidden()
    # The numbers follow within some seconds.
    expect(page.locator(".hole", has_text="red").locator(".hole-count")).to_have_text("1")


@pytest.mark.usefixtures("store")
def test_several_files_are_uploaded_with_their_answers(
    page: Page, server: Server, paint: Callable[..., bytes], forgiven: list[str]
) -> None:
    forgiven.append("status of 4")  # the refusal
    page.goto(server.url)
    files = [
        {"name": "sea.png", "mimeType": "image/png", "buffer": paint("blue")},
        {"name": "grass.png", "mimeType": "image/png", "buffer": paint("lime")},
        {"name": HOSTILE, "mimeType": "image/png", "buffer": b"no image"},
        {"name": "huge.png", "mimeType": "image/png", "buffer": bytes(400_000)},
    ]
    page.get_by_label("Drop images here").set_input_files(files)  # type: ignore[arg-type]

    uploads = page.locator(".upload")
    expect(uploads.filter(has_text="sea.png").locator("a")).to_have_text("blue, 100 %")
    expect(uploads.filter(has_text="grass.png").locator("a")).to_have_text("green, 100 %")
    expect(uploads.filter(has_text=HOSTILE)).to_contain_text("refused")
    expect(uploads.filter(has_text="huge.png")).to_contain_text("Larger than the")
    expect(page.locator(".row", has_text="sea.png")).to_be_visible()
    expect(page.locator(".row", has_text="grass.png")).to_be_visible()


def test_a_dropped_file_is_uploaded_and_the_page_stays(
    page: Page, server: Server, store: Store
) -> None:
    page.goto(server.url)
    page.evaluate(
        """async () => {
            const canvas = new OffscreenCanvas(20, 20);
            const context = canvas.getContext("2d");
            context.fillStyle = "#f00";
            context.fillRect(0, 0, 20, 20);
            const files = new DataTransfer();
            files.items.add(new File([await canvas.convertToBlob()], "dropped.png"));
            const how = { dataTransfer: files, bubbles: true, cancelable: true };
            document.querySelector("h2").dispatchEvent(new DragEvent("dragover", how));
            document.querySelector("h2").dispatchEvent(new DragEvent("drop", how));
        }"""
    )

    expect(page.locator(".row", has_text="dropped.png")).to_be_visible()
    assert [row.label for row in store.stream(ResultFilter())] == ["red"]


def test_filters_are_kept_in_the_address_and_hold_for_what_arrives(
    page: Page, server: Server, record: Callable[..., list[Result]]
) -> None:
    record("rose.png", label="red")
    record("sea.png", label="blue")
    page.goto(server.url)
    expect(page.locator("#live")).to_have_text("live")
    assert names(page) == ["sea.png", "rose.png"]

    page.locator("select[name=label]").select_option("red")

    page.wait_for_url("**/?label=red")
    expect(page.locator("#live")).to_have_text("live")
    assert names(page) == ["rose.png"]
    record("ocean.png", label="blue")
    record("tulip.png", label="red")
    expect(page.locator(".row").first).to_contain_text("tulip.png")
    assert names(page) == ["tulip.png", "rose.png"]

    page.get_by_label("File name").fill("RO")
    page.get_by_label("File name").press("Enter")
    page.wait_for_url("**/?q=RO&label=red")
    assert names(page) == ["rose.png"]

    page.get_by_role("link", name="Clear").click()
    expect(page.locator(".row")).to_have_count(4)


def test_what_is_exported_is_what_is_shown(
    page: Page, server: Server, record: Callable[..., list[Result]]
) -> None:
    record("=1+1.png", label="red")
    record("sea.png", label="blue")
    page.goto(f"{server.url}/?label=red")

    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()

    lines = download.value.path().read_text("utf-8").splitlines()
    assert len(lines) == 2
    assert "'=1+1.png" in lines[1]


def test_rows_go_on_while_one_scrolls_and_none_comes_twice(
    page: Page, server: Server, record: Callable[..., list[Result]]
) -> None:
    record(*(f"{number}.png" for number in range(230)))
    page.goto(server.url)

    deadline = time.monotonic() + 60
    while page.locator("#rows-end").inner_text() != "That is all.":
        assert time.monotonic() < deadline, names(page)[-1]
        page.mouse.wheel(0, 4000)

    assert names(page) == [f"{number}.png" for number in reversed(range(230))]


def test_of_several_moves_of_the_end_that_come_at_once_the_last_counts(
    page: Page, server: Server, record: Callable[..., list[Result]]
) -> None:
    record(*(f"{number}.png" for number in range(120)))
    page.add_init_script(
        """window.IntersectionObserver = class {
            constructor(told) { window.told = (...moves) => told(moves.map(
                (isIntersecting) => ({ isIntersecting }))); }
            observe() {}
            unobserve() {}
        };"""
    )
    page.goto(server.url)
    rows = page.locator(".row-name")

    page.evaluate("told(false, true)")
    expect(rows).to_have_count(70)
    page.evaluate("told(true, false)")
    expect(page.locator("#rows-end")).to_have_text("")
    page.evaluate("told(true); told(false); told(true)")  # while it fetches

    expect(page.locator("#rows-end")).to_have_text("That is all.")
    assert names(page) == [f"{number}.png" for number in reversed(range(120))]


def test_when_more_rows_cannot_be_fetched_a_link_tries_again(
    page: Page, server: Server, record: Callable[..., list[Result]], forgiven: list[str]
) -> None:
    forgiven.append("ERR_CONNECTION_REFUSED")
    record(*(f"{number}.png" for number in range(120)))
    more = "**/parts/rows?*before=*"
    page.route(more, lambda route: route.abort("connectionrefused"))
    page.goto(server.url)
    end = page.locator("#rows-end")
    end.scroll_into_view_if_needed()
    expect(end).to_have_text("The server does not answer. Is it still running? Older results")
    page.unroute(more)

    end.get_by_role("link").click()

    while end.inner_text() != "That is all.":
        page.mouse.wheel(0, 4000)
    assert names(page) == [f"{number}.png" for number in reversed(range(120))]


def test_more_results_at_once_than_the_page_shows_are_reached_by_scrolling(
    page: Page, server: Server, record: Callable[..., list[Result]]
) -> None:
    page.goto(server.url)
    expect(page.locator("#live")).to_have_text("live")

    record(*(f"{number}.png" for number in range(120)))
    expect(page.locator(".row").first).to_contain_text("119.png")

    while page.locator("#rows-end").inner_text() != "That is all.":
        page.mouse.wheel(0, 4000)
    assert names(page) == [f"{number}.png" for number in reversed(range(120))]


def test_who_reads_further_down_is_told_of_new_results_and_not_moved(
    page: Page, server: Server, record: Callable[..., list[Result]]
) -> None:
    record(*(f"{number}.png" for number in range(40)))
    page.goto(server.url)
    expect(page.locator("#live")).to_have_text("live")
    page.locator(".row", has_text="5.png").last.scroll_into_view_if_needed()
    before = page.evaluate("scrollY")

    record("new.png")

    expect(page.locator("#newer")).to_have_text("One new result")
    assert page.evaluate("scrollY") == before
    page.locator("#newer").click()
    expect(page.locator(".row").first).to_contain_text("new.png")


# --- quarantine ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_a_quarantined_file_says_why_and_gets_another_try(
    page: Page, server: Server, inbox: Path, home: Path, paint: Callable[..., bytes]
) -> None:
    (inbox / "half.png").write_bytes(paint("blue", (200, 200))[:80])
    row = page.locator(".bad-row", has_text="half.png")
    deadline = time.monotonic() + 60
    while not row.get_by_role("button").count():  # the row comes first, then the file
        assert time.monotonic() < deadline
        page.goto(f"{server.url}/quarantine")
    expect(row.locator(".tag")).to_have_text("unreadable image")
    (home / "quarantine" / "half.png").write_bytes(paint("blue"))  # put right by hand

    row.get_by_role("button", name="Try again: half.png").click()

    expect(row.get_by_role("button")).to_have_text("In the inbox again")
    page.goto(server.url)
    expect(page.locator(".row", has_text="half.png").first).to_contain_text("blue")


# --- review --------------------------------------------------------------------------------------


def read(store: Store, result: Result) -> tuple[str | None, bool]:
    """What people have said of a result: the label, and whether they have looked."""
    now = store.result(result.id)
    assert now is not None
    return now.corrected_label, now.reviewed_at is not None


def test_reviewing_by_keyboard_corrects_accepts_and_takes_back(
    page: Page, server: Server, store: Store, record: Callable[..., list[Result]]
) -> None:
    (sure,) = record("sure.png", label="blue", confidence=0.45)
    (doubtful,) = record("doubtful.png", label="red", confidence=0.35)
    (last,) = record("last.png", label="green", confidence=0.48)
    page.goto(f"{server.url}/review")
    progress = page.locator("#progress-text")
    expect(progress).to_have_text("0 of 3 reviewed")
    expect(page.locator("#panel")).to_contain_text("doubtful.png")  # the least sure first

    page.keyboard.press("2")
    expect(progress).to_have_text("1 of 3 reviewed")
    assert read(store, doubtful) == ("green", True)

    expect(page.locator("#panel")).to_contain_text("sure.png")
    page.keyboard.press("Enter")
    expect(progress).to_have_text("2 of 3 reviewed")
    assert read(store, sure) == (None, True)

    page.keyboard.press("u")
    expect(progress).to_have_text("1 of 3 reviewed")
    assert read(store, sure) == (None, False)
    page.keyboard.press("u")
    expect(progress).to_have_text("0 of 3 reviewed")
    assert read(store, doubtful) == (None, False)

    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#panel")).to_contain_text("last.png")
    page.keyboard.press("l")
    page.keyboard.type("mauve")
    page.keyboard.press("Enter")
    expect(progress).to_have_text("1 of 3 reviewed")
    assert read(store, last) == ("mauve", True)


def test_a_range_is_accepted_at_once_and_taken_back_at_once(
    page: Page, server: Server, store: Store, record: Callable[..., list[Result]]
) -> None:
    results = [record(f"{number}.png", confidence=0.3 + number / 100)[0] for number in range(5)]
    page.goto(f"{server.url}/review")
    expect(page.locator("#progress-text")).to_have_text("0 of 5 reviewed")

    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#selected")).to_have_text("3 selected")
    page.keyboard.press("Enter")

    expect(page.locator("#progress-text")).to_have_text("3 of 5 reviewed")
    assert [read(store, result)[1] for result in results] == [True, True, True, False, False]
    page.keyboard.press("u")
    expect(page.locator("#progress-text")).to_have_text("0 of 5 reviewed")
    assert not any(read(store, result)[1] for result in results)


def test_pictures_that_are_nearly_the_same_are_answered_together(
    page: Page,
    server: Server,
    store: Store,
    record: Callable[..., list[Result]],
    gradient: Callable[..., bytes],
) -> None:
    one, two = (
        record("burst-1.png", confidence=0.31, picture=gradient())[0],
        record("burst-2.png", confidence=0.35, picture=gradient(brighter=3))[0],
    )
    (other,) = record("other.png", confidence=0.33, picture=gradient(is_mirrored=True))
    page.goto(f"{server.url}/review")

    expect(page.locator(".tile-alike:visible")).to_have_count(2)
    tiles = page.locator(".tile")
    expect(tiles.nth(1)).to_have_attribute("data-id", two.id)  # beside the one that it looks like
    page.keyboard.press("g")
    expect(page.locator("#selected")).to_have_text("2 selected")
    page.keyboard.press("3")

    expect(page.locator("#progress-text")).to_have_text("2 of 3 reviewed")
    assert read(store, one) == read(store, two) == ("blue", True)
    assert read(store, other) == (None, False)


def test_who_was_slower_is_told_so_and_overwrites_nothing(
    page: Page,
    server: Server,
    store: Store,
    record: Callable[..., list[Result]],
    forgiven: list[str],
) -> None:
    forgiven.append("status of 412")
    (result,) = record("a.png", confidence=0.4)
    page.goto(f"{server.url}/review")
    expect(page.locator("#panel")).to_contain_text("a.png")
    answer = page.request.patch(
        f"{server.url}/v1/results/{result.id}",
        data=json.dumps({"corrected_label": "blue"}),
        headers={"Content-Type": "application/json", "If-Match": "*"},
    )
    assert answer.ok

    page.keyboard.press("Enter")

    expect(page.locator("#toast")).to_contain_text("has changed since")
    assert read(store, result) == ("blue", True)


# --- one result ----------------------------------------------------------------------------------


def test_a_result_is_corrected_on_its_own_page_and_its_neighbours_are_a_key_away(
    page: Page, server: Server, store: Store, record: Callable[..., list[Result]]
) -> None:
    record("first.png")
    (result,) = record("middle.png")
    record("blue.png", label="blue")
    record("last.png")
    page.goto(f"{server.url}/results/{result.id}?label=red")
    expect(page.get_by_role("heading", level=1)).to_have_text("middle.png")
    expect(page.locator(".result-picture img")).to_have_js_property("naturalWidth", 32)

    page.get_by_label("No, it is").fill("blue")
    page.get_by_label("No, it is").press("Enter")

    expect(page.locator(".verdict")).to_contain_text("corrected")
    expect(page.locator(".history")).to_contain_text("corrected to blue")
    assert read(store, result) == ("blue", True)
    page.get_by_role("button", name="Take back").click()
    expect(page.locator(".history time[data-done]")).to_have_count(2)  # the script has run
    assert read(store, result) == (None, False)

    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("heading", level=1)).to_have_text("last.png")  # blue does not match
    expect(page.locator(".history time[data-done]").first).to_be_attached()  # the script has run
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", level=1)).to_have_text("middle.png")


# --- for everybody -------------------------------------------------------------------------------


@pytest.fixture
def all_kinds(record: Callable[..., list[Result]]) -> list[str]:
    """Every view, with something in it: long, hostile and doubtful."""
    (first,) = record("a-very-long-name-" * 12 + ".png", confidence=0.4)
    (second,) = record(HOSTILE, label="an-unbroken-label-" * 5, confidence=0.3)
    (bad,) = record(HOSTILE, label=None)
    return [*VIEWS, *(f"/results/{result.id}" for result in (first, second, bad))]


def assert_nothing_serious(page: Page, where: str) -> None:
    """What axe-core finds, in light and in dark."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        serious = [
            (each["id"], node["html"], node["failureSummary"])
            for each in Axe().run(page).response["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
        assert serious == [], (where, scheme)


def test_axe_finds_nothing_serious(
    page: Page, server: Server, all_kinds: list[str], forgiven: list[str]
) -> None:
    forgiven.append("status of 404")
    page.set_viewport_size({"width": 1280, "height": 1600})
    for path in (*all_kinds[:4], *all_kinds[5:], "/results/none"):
        page.goto(server.url + path)
        page.locator("main").wait_for()
        assert_nothing_serious(page, path)


def test_nothing_is_wider_than_a_phone(
    page: Page, server: Server, all_kinds: list[str], forgiven: list[str]
) -> None:
    forgiven.append("status of 404")
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    for path in (*all_kinds, "/login", "/results/none"):
        page.goto(server.url + path)
        page.locator("main").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


def test_hostile_names_do_nothing(page: Page, server: Server, all_kinds: list[str]) -> None:
    page.on("dialog", lambda _: pytest.fail("a name was run"))
    for path in all_kinds:
        page.goto(server.url + path)
        page.locator("main").wait_for()
    assert page.get_by_text(HOSTILE).count()


def test_with_a_key_everything_works_after_signing_in(
    page: Page,
    rgb_bundle: Path,
    tmp_path: Path,
    paint: Callable[..., bytes],
    forgiven: list[str],
) -> None:
    forgiven.append("status of 401")  # the wrong key
    home = make_home(tmp_path / "home", rgb_bundle)
    with serving(home, PIGEONHOLE_API_KEY="correct horse") as server:
        page.goto(f"{server.url}/?label=blue")
        assert_nothing_serious(page, "the form")
        page.get_by_label("API key").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("This is not a key")
        assert_nothing_serious(page, "the form again")
        page.get_by_label("API key").fill("correct horse")
        page.get_by_role("button", name="Sign in").click()

        page.wait_for_url("**/?label=blue")
        expect(page.locator("#live")).to_have_text("live")  # the stream carries the cookie
        file = {"name": "sea.png", "mimeType": "image/png", "buffer": paint("blue")}
        page.get_by_label("Drop images here").set_input_files(file)  # type: ignore[arg-type]
        row = page.locator(".row", has_text="sea.png")
        expect(row.locator("img")).to_have_js_property("naturalWidth", 32)

        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url("**/login")
        page.goto(server.url)
        page.wait_for_url("**/login?next=**")
        page.goto("about:blank")  # whatever it still asks for ends before the server does
