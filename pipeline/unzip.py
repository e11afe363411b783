"""Stage 1: the zip becomes data/images/SPLIT/CLASS/. Runs again only when the zip changes."""

import shutil
import zipfile
from pathlib import Path

from pipeline import archive
from pipeline.params import Unzip
from pipeline.stage import StageError, console, fresh_folder, run

IMAGES = Path("data/images")


def unzip(params: Unzip, root: Path = Path()) -> None:
    """Unpack the images of a zip that may come from anybody; raises `StageError`."""
    with archive.opened(root / params.archive) as zip_file:
        archive.check_limits(zip_file, params)
        entries = archive.images(zip_file)
        folder = fresh_folder(root / IMAGES)
        try:
            for entry in entries:
                _extract(zip_file, entry, folder)
        except OSError as error:
            raise StageError(f"{params.archive} cannot be unpacked: {error}") from error
    console.print(f"{params.archive}: {len(entries):,} images")


def _extract(zip_file: zipfile.ZipFile, entry: archive.Entry, folder: Path) -> None:
    target = folder / entry.split / entry.label / entry.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with zip_file.open(entry.info) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file)


if __name__ == "__main__":
    run(lambda params: unzip(params.unzip))
