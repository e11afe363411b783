"""Files from other projects' test suites, where `../shared/data` lies beside the checkout."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from core.errors import ImageError
from core.image import decode, preprocess
from core.recipe import Recipe

MAX_PIXELS = 50_000_000
RECIPE = Recipe(size_px=224, mean=(0, 0, 0), std=(1, 1, 1))
PHOTOS = ("0_English_springer", "1_French_horn", "3_garbage_truck")

# Mean difference per channel, of 255. Measured: at most 4.6 (q50.jpg).
NEAR = 6.0

# Runs apart from pytest: a crash of a decoder must fail one test, not end all of them.
TRY_ALL = """
import sys
from pathlib import Path
from core.errors import ImageError
from core.image import preprocess
from core.recipe import Recipe

recipe = Recipe(size_px=224, mean=(0, 0, 0), std=(1, 1, 1))
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(path.name, end=" ", flush=True)  # the last name printed is the one that crashed
    try:
        pixels, info = preprocess(path.read_bytes(), recipe, int(sys.argv[2]))
        print("ok", info.width_px, info.height_px, info.format)
    except ImageError as error:
        print(error.code)
# Not ru_maxrss: that begins with what the parent had when it started us.
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024, "MiB")
"""


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def seen(path: Path) -> NDArray[np.int16]:
    return preprocess(path.read_bytes(), RECIPE, MAX_PIXELS)[0].astype(np.int16)


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as refused:
        preprocess(path.read_bytes(), RECIPE, MAX_PIXELS)
    return str(refused.value)


def test_every_hostile_file_is_an_image_or_an_image_error(
    shared_data: Path, repository: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRY_ALL, shared_data / "hostile", str(MAX_PIXELS)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )

    *lines, memory = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"{memory}\n{done.stderr[-2000:]}"
    assert len(lines) == len([*(shared_data / "hostile").iterdir()])
    assert {line.split()[1] for line in lines} == {
        "ok",
        "unreadable_image",
        "unsupported_format",
        "too_many_pixels",
    }
    # Twelve bytes a pixel at the limit of pixels; 74 MiB were measured.
    assert int(memory.split()[0]) < 12 * MAX_PIXELS / 1024**2


def distance(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    return float(np.abs(one - other).mean())


def promised(shared_data: Path, photo: str, *promises: str) -> list[Path]:
    """The encodings of one photo of which index.csv promises one of these."""
    folder = shared_data / "odd" / "same_photo" / photo
    files = [
        shared_data / "odd" / row["file"]
        for row in index(shared_data / "odd")
        if any(promise in row["what a correct service does"] for promise in promises)
    ]
    found = [file for file in files if file.parent == folder and file.name != "base.png"]
    assert found, f"no encoding of {photo} is promised to be {promises}"
    return found


@pytest.mark.parametrize("photo", PHOTOS)
def test_lossless_encodings_of_one_photo_are_seen_exactly_alike(
    shared_data: Path, photo: str
) -> None:
    files = promised(shared_data, photo, "exactly")
    truth = seen(files[0].with_name("base.png"))

    assert {file.name: distance(seen(file), truth) for file in files} == dict.fromkeys(
        [file.name for file in files], 0
    )


@pytest.mark.parametrize("photo", PHOTOS)
def test_lossy_encodings_and_first_frames_of_one_photo_are_seen_nearly_alike(
    shared_data: Path, photo: str
) -> None:
    files = promised(shared_data, photo, "same class as base.png", "of the first")
    files = [file for file in files if file.suffix not in (".heic", ".jxl")]
    truth = seen(files[0].with_name("base.png"))

    far = {file.name: distance(seen(file), truth) for file in files}

    assert {name: by for name, by in far.items() if by > NEAR} == {}
    assert {"cmyk.jpg", "exif8.jpg", "mpo.mpo", "webp_anim.webp"} <= set(far)


@pytest.mark.parametrize("photo", PHOTOS)
def test_grey_encodings_of_one_photo_are_seen_alike(shared_data: Path, photo: str) -> None:
    grey, grey_16, grey_jpeg = (
        seen(shared_data / "odd" / "same_photo" / photo / name)
        for name in ("gray.png", "gray16.png", "gray.jpg")
    )

    assert distance(grey, grey_16) == 0
    assert distance(grey, grey_jpeg) < NEAR


@pytest.mark.parametrize("photo", PHOTOS)
def test_formats_without_a_decoder_are_refused_by_name(shared_data: Path, photo: str) -> None:
    folder = shared_data / "odd" / "same_photo" / photo

    assert refusal(folder / "heic.heic").startswith("HEIC cannot be read here")
    assert refusal(folder / "jxl.jxl").startswith("JPEG XL cannot be read here")


def test_the_photos_themselves_are_not_near_each_other(shared_data: Path) -> None:
    first, second, third = (
        seen(shared_data / "odd" / "same_photo" / photo / "base.png") for photo in PHOTOS
    )

    for one, other in ((first, second), (second, third), (third, first)):
        assert distance(one, other) > 5 * NEAR


@pytest.mark.parametrize(
    "names",
    [
        ("sharp/Landscape_2.jpg", "sharp/Landscape_4.jpg", "sharp/Landscape_6.jpg"),
        ("sharp/Portrait_1.jpg", "sharp/Portrait_6.jpg", "sharp/Portrait_8.jpg"),
        tuple(f"libvips/rotation__{number}.jpg" for number in (1, 2, 5, 7, 8)),
        (
            "Pillow/hopper.png",
            *(f"Pillow/hopper_orientation_{number}.webp" for number in (2, 3, 8)),
        ),
    ],
)
def test_a_set_of_exif_orientations_is_one_picture(
    shared_data: Path, names: tuple[str, ...]
) -> None:
    files = [shared_data / "odd" / name for name in names]
    first, *others = [seen(file) for file in files]
    infos = [decode(file.read_bytes(), MAX_PIXELS).info for file in files]

    assert len({info.width_px > info.height_px for info in infos}) == 1
    for other in others:
        # The sets are not of one exposure and scale, so: no other turn fits better than this one.
        turns = [np.rot90(side, turn) for side in (other, other[:, ::-1]) for turn in range(4)]
        fits = [distance(first, turned) for turned in turns]
        assert int(np.argmin(fits)) == 0, fits


def test_every_odd_image_is_seen_or_refused_for_a_kind_that_pillow_lacks(
    shared_data: Path,
) -> None:
    lacking = ("HEIC", "HEIF", "JPEG XL", "of a rare kind")
    wrong = {}
    for row in index(shared_data / "odd"):
        path = shared_data / "odd" / row["file"]
        try:
            _, info = preprocess(path.read_bytes(), RECIPE, MAX_PIXELS)
        except ImageError as error:
            if row["pillow13_result"] == "ok" or not any(kind in str(error) for kind in lacking):
                wrong[row["file"]] = str(error)
        else:
            if {str(info.width_px), str(info.height_px)} != {row["width"], row["height"]}:
                wrong[row["file"]] = json.dumps([row["width"], row["height"], str(info)])

    assert wrong == {}
