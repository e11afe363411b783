"""A painted data set, a small network, and one run of all the stages that many tests look at."""

import dataclasses
import hashlib
import io
import logging
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from pipeline import params as params_file
from pipeline.calibrate import calibrate
from pipeline.dataset import prepared
from pipeline.export import export
from pipeline.params import Int8, Params
from pipeline.preprocess import preprocess
from pipeline.select import select
from pipeline.train import train
from pipeline.unzip import unzip

# pytest listens to everything, and the exporter would write a thousand lines for it.
logging.getLogger("torch").setLevel(logging.WARNING)
logging.getLogger("torch.__trace").setLevel(logging.WARNING)

COUNTS = {"train": 24, "valid": 8, "test": 8}
SMALL = prepared("small")
FORMATS = ("PNG", "JPEG", "BMP")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that asks for `run` waits for all stages: a minute, more on a busy machine."""
    for item in items:
        if "run" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


class Run(NamedTuple):
    """A folder in which all stages have run, and with what."""

    root: Path
    params: Params


def picture(shape: str, number: int) -> tuple[str, bytes]:
    """A name and an image: a bright disc or square, each time in another place and format."""
    image = Image.new("RGB", (40 + number % 3, 32), (number * 5 % 60, 20, 40))
    left, top, side = 4 + number % 7, 3 + number % 5, 14 + number % 6
    draw = ImageDraw.Draw(image)
    paint = draw.ellipse if shape == "disc" else draw.rectangle
    paint((left, top, left + side, top + side), fill=(250, 240, 200 - number))
    file_format = FORMATS[number % len(FORMATS)]
    file = io.BytesIO()
    image.save(file, file_format)
    return f"{number:03}.{file_format.lower()}", file.getvalue()


def painted() -> dict[str, bytes]:
    """The members of a zip: two classes in three splits, no two images alike."""
    members, number = {}, 0
    for split, count in COUNTS.items():
        for shape in ("disc", "square"):
            for _ in range(count):
                name, data = picture(shape, number)
                members[f"{split}/{shape}/{name}"] = data
                number += 1
    return members


def write_zip(path: Path, members: dict[str, bytes], mode: int = stat.S_IFREG | 0o644) -> Path:
    """A zip with these members, compressed; `mode` is what Unix would call each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def noise(seed: int, size_px: int) -> bytes:
    """A JPEG of clouds that only the seed decides, `size_px` wide and high."""
    chance = np.random.default_rng(seed)
    clouds = Image.fromarray(chance.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    clouds.resize((size_px, size_px), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return file.getvalue()


def digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file in a folder, hidden ones and their folders left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }


Killed = Callable[..., None]


@pytest.fixture
def killed(small: Params, repository: Path) -> Killed:
    """`killed(stage, root, is_underway)`: start a stage and kill -9 it as soon as that is so."""

    def killed(
        stage: str,
        root: Path,
        is_underway: Callable[[], bool],
        *words: str,
        params: Params = small,
    ) -> None:
        (root / "params.yaml").write_text(yaml.safe_dump(params_file.to_dict(params)))
        environ = os.environ | {"PYTHONPATH": str(repository)}
        command = [sys.executable, "-m", f"pipeline.{stage}", *words]
        process = subprocess.Popen(command, cwd=root, env=environ)
        try:
            while not is_underway():
                assert process.poll() is None, "the stage ended before it could be killed"
                time.sleep(0.001)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL

    return killed


@pytest.fixture(scope="session")
def members() -> dict[str, bytes]:
    return painted()


@pytest.fixture(scope="session")
def zipped() -> Callable[..., Path]:
    """`zipped(path, members)` writes a zip."""
    return write_zip


@pytest.fixture(scope="session")
def small(repository: Path) -> Params:
    """The committed params.yaml, made small: 16 pixels, two variants, three epochs, one process."""
    params = params_file.read(repository / "params.yaml")
    recipes = params.preprocess.recipes
    sizes = {
        "small": dataclasses.replace(recipes["small"], max_size_px=16),
        "imagenet": dataclasses.replace(recipes["imagenet"], size_px=32, short_side_px=36),
    }
    cnn, residual = params.train.variants["cnn1"], params.train.variants["residual"]
    short = {"epochs": 3, "learning_rate": 0.01}
    int8 = Int8(min_multiply_adds=0, max_accuracy_loss=0.2, images=8)
    return dataclasses.replace(
        params,
        unzip=dataclasses.replace(params.unzip, archive="data/shapes.zip", workers=1),
        preprocess=dataclasses.replace(params.preprocess, workers=1, recipes=sizes),
        evaluate=dataclasses.replace(params.evaluate, workers=1),
        train=dataclasses.replace(
            params.train,
            threads=1,
            run=("cnn1", "residual"),
            fit=dataclasses.replace(params.train.fit, batch_size=8),
            variants={
                "cnn1": dataclasses.replace(cnn, filters=(4, 8), hidden=8, **short),
                "residual": dataclasses.replace(residual, widths=(4, 8), **short),
            },
        ),
        transfer=dataclasses.replace(params.transfer, threads=1, run=()),
        export=dataclasses.replace(params.export, int8=int8),
    )


@pytest.fixture(scope="session")
def run(small: Params, members: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages, once. Every test shares it: look, do not touch."""
    root = tmp_path_factory.mktemp("run")
    write_zip(root / small.unzip.archive, members)
    unzip(small.unzip, root)
    preprocess(small.preprocess, "small", root)
    for name in small.train.run:
        train(small.train, name, root)
    select(small, root)
    calibrate(small, root)
    export(small, root)
    return Run(root, small)
