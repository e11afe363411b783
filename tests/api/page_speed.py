"""`python -m tests.api.page_speed`: how soon the page is seen, and how 10,000 rows scroll.

A real server with the starter model, rows in its database, and Chromium. It only reports.
"""

import shutil
import statistics
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from core.types import ImageInfo, ImageRef, LabelScore, ModelRef, Prediction
from storage.store import Finished, Store
from tests.api.conftest import CHROMIUM, CHROMIUM_ARGS, serving

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = 10_000
VISITS = 7
_PAINT_MS = """new Promise((resolve) => new PerformanceObserver((list) => {
    const found = list.getEntriesByName("first-contentful-paint")[0];
    if (found) resolve(found.startTime);
}).observe({ type: "paint", buffered: true }))"""
_SCROLL = """async () => {
    const end = document.getElementById("rows-end");
    const frames = [];
    let last = performance.now();
    const started = last;
    while (end.textContent !== "That is all.") {
        scrollBy(0, 700);
        await new Promise(requestAnimationFrame);
        const now = performance.now();
        frames.push(now - last);
        last = now;
    }
    return { seconds: (last - started) / 1000, frames,
        rows: document.querySelectorAll(".row").length };
}"""


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        shutil.copytree(REPOSITORY / "models" / "starter", home / "models" / "current")
        with serving(home) as server, sync_playwright() as playwright:
            fill(home)
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
            for path in ("/", "/review", "/quarantine"):
                visits = [paint_ms(browser.new_page(), server.url + path) for _ in range(VISITS)]
                say(f"first paint of {path}: median {statistics.median(visits):.0f} ms of {VISITS}")
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(server.url)
            seen = page.evaluate(_SCROLL)
            frames = sorted(seen["frames"])
            slow = frames[int(len(frames) * 0.95)]
            say(f"{seen['rows']} rows scrolled in {seen['seconds']:.1f} s; frames:")
            say(f"{statistics.median(frames):.1f} ms median, {slow:.1f} ms for 95 %")
            browser.close()


def say(text: str) -> None:
    """To the terminal."""
    print(text)  # noqa: T201


def paint_ms(page: Page, url: str) -> float:
    """From the click to the first text on the screen."""
    page.goto(url)
    shown: float = page.evaluate(_PAINT_MS)
    page.close()
    return shown


def fill(home: Path) -> None:
    """Rows as a watcher writes them; the pictures are not there."""
    labels = ("bag", "dress", "sneaker", "t-shirt", "trouser")
    model = ModelRef("fashion5", "1")
    now = datetime.now(UTC)
    with closing(Store.open(f"sqlite:///{home / 'pigeonhole.db'}")) as store:
        for start in range(0, ROWS, 500):
            store.record(
                [
                    _finished(number, labels[number % 5], model, now)
                    for number in range(start, start + 500)
                ],
                source="batch",
                model=model,
                min_confidence=0.5,
                now=now,
            )


def _finished(number: int, label: str, model: ModelRef, now: datetime) -> Finished:
    confidence = 0.3 + (number % 70) / 100
    scores = (LabelScore(label, confidence), LabelScore("other", 1 - confidence))
    outcome = Prediction(label, confidence, scores, model, ImageInfo(640, 480, "JPEG"))
    return Finished(ImageRef(f"{number:064x}", f"IMG_{number}.jpg", 48_000), outcome, now, 12.0)


if __name__ == "__main__":
    main()
