"""`make screenshots`: pictures of every view for the docs, from a real server with real results.

The sample images are classified by the starter model and recorded as if they had come during the
last hour; everything else is as a user sees it.
"""

import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from core.bundle import Bundle
from core.engine import Engine
from core.types import ImageRef, Prediction
from storage.files import label_folder
from storage.results import ResultFilter
from storage.store import Finished, Store
from tests.api.conftest import CHROMIUM, CHROMIUM_ARGS, serving

REPOSITORY = Path(__file__).resolve().parents[2]
OUT = REPOSITORY / "docs" / "screens"
DEVICES = {"desktop": (1440, 900), "phone": (360, 780), "wide": (1920, 1080)}
SCHEMES = {"desktop": ("light", "dark"), "phone": ("light", "dark"), "wide": ("light",)}
SAMPLES = 260
MIN_CONFIDENCE = 0.9  # so that there is something to review


_ARE_DRAWN = """!document.querySelector("time:not([data-done])") && [...document.images].every(
    (image) => image.complete || image.getBoundingClientRect().top > innerHeight)"""


def main() -> None:
    """Draw them all."""
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder) / "pigeonhole"
        shutil.copytree(REPOSITORY / "models" / "starter", home / "models" / "current")
        server = stack.enter_context(
            serving(home, PIGEONHOLE_MIN_CONFIDENCE=str(MIN_CONFIDENCE), PIGEONHOLE_AUDIT_SHARE="0")
        )
        stack.enter_context(watching(home))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
            draw(browser, server.url, "empty")
            fill(home)
            for name, path in views(home).items():
                draw(browser, f"{server.url}{path}", name)
            browser.close()


def views(home: Path) -> dict[str, str]:
    """Every view and its address."""
    with closing(Store.open(f"sqlite:///{home / 'pigeonhole.db'}")) as store:
        (unsure,) = store.page(ResultFilter(needs_review=True), limit=1).items
    return {
        "live": "/",
        "review": "/review",
        "quarantine": "/quarantine",
        "result": f"/results/{unsure.id}",
        "login": "/login",
    }


def fill(home: Path) -> None:
    """Results of the last hour, a burst now and then, and three files that are no images."""
    bundle = Bundle.load(home / "models" / "current")
    dice = random.Random(4)
    with ZipFile(REPOSITORY / "data" / "fashion5.zip") as archive:
        entries = [name for name in archive.namelist() if name.startswith("test/")]
        images = [archive.read(entry) for entry in dice.sample(entries, SAMPLES)]
    bad = {"IMG_0412.jpg": b"", "scan-17.png": images[0][:150], "notes.txt.jpg": b"not an image"}
    minutes = sorted(dice.choice((dice.random(), dice.betavariate(8, 3))) * 58 for _ in images)
    files = {f"IMG_{1200 + number}.png": data for number, data in enumerate(images)}
    now = datetime.now(UTC)
    with (
        closing(Store.open(f"sqlite:///{home / 'pigeonhole.db'}")) as store,
        Engine(bundle, workers=2, max_pixels=10**8) as engine,
    ):
        when = [now - timedelta(minutes=59 - minute) for minute in minutes]
        named = [*files.items()]
        for place, item in zip((40, 150, SAMPLES), bad.items(), strict=True):
            named.insert(place, item)
            when.insert(place, when[min(place, len(when) - 1)])
        outcomes = engine.classify([data for _, data in named])
        for (name, data), outcome, moment in zip(named, outcomes, when, strict=True):
            is_good = isinstance(outcome, Prediction)
            folder = f"sorted/{label_folder(outcome.label)}" if is_good else "quarantine"
            (home / folder).mkdir(parents=True, exist_ok=True)
            (home / folder / name).write_bytes(data)
            image = ImageRef(sha256(data).hexdigest(), name, len(data))
            latency_ms = dice.uniform(6, 30)
            store.record(
                [Finished(image, outcome, moment, latency_ms, path=f"{folder}/{name}")],
                source="watcher",
                model=bundle.ref,
                min_confidence=MIN_CONFIDENCE,
                now=moment + timedelta(milliseconds=latency_ms),
            )


@contextmanager
def watching(home: Path) -> Iterator[None]:
    """A real watcher, so that the page has one to tell of."""
    variables = {"PIGEONHOLE_HOME": str(home), "PIGEONHOLE_WATCHER_METRICS_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pigeonhole", "watch"],
        env={**os.environ, **variables},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def draw(browser: Browser, url: str, name: str) -> None:
    """One view on every device, light and dark."""
    for device, (width, height) in DEVICES.items():
        for scheme in SCHEMES[device]:
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                device_scale_factor=1.5 if device == "phone" else 1,
                reduced_motion="reduce",
                locale="en-GB",
                has_touch=device == "phone",
                is_mobile=device == "phone",
            )
            page.goto(url)
            while not page.evaluate(_ARE_DRAWN):
                page.wait_for_timeout(100)
            if name in ("live", "empty"):
                page.locator("#live[data-state=on]").wait_for()
                page.locator("#side .good", has_text="Empty").wait_for(timeout=60_000)
            picture = Image.open(io.BytesIO(page.screenshot()))
            picture.save(OUT / f"{name}-{device}-{scheme}.webp", quality=80, method=6)
            page.close()


if __name__ == "__main__":
    main()
