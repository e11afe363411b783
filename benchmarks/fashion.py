"""`make bench-fashion`: all of Fashion-MNIST, 60,000 and 10,000 images, by the committed recipes.

    python -m benchmarks.fashion [--variants cnn2 residual] [--epochs 12]

Its authors' table has, for test accuracy: two convolutions with max pooling 0.876, over 300 epochs
0.916; two convolutions and three dense layers, 1.8 million parameters, 0.932; ResNet-18 0.949;
WRN-28-10 with random erasing 0.963; people 0.835. Stopped in the middle, it goes on where it was.
"""

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline import fashion5, onnx_file, params, variants
from pipeline.dataset import prepared, read_split
from pipeline.metrics import accuracy
from pipeline.params import Train
from pipeline.preprocess import preprocess
from pipeline.stage import told
from pipeline.train import train
from pipeline.unzip import unzip
from pipeline.variants import Variant, folder_of

FOLDER = Path("build/fashion")
# All, with what is left after train for valid; the few photographs that are in it twice, once.
PER_CLASS = (5500, 500, 1000)


def main() -> None:
    """Build the zip, train, print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.fashion")
    parser.add_argument("--variants", nargs="+", default=["cnn2", "residual"])
    parser.add_argument("--epochs", type=int, default=12)
    chosen = parser.parse_args()
    with told():
        read = params.read()
        _prepare(read)
        section = _with_epochs(read.train, chosen.epochs)
        for name in chosen.variants:
            if not (folder_of(FOLDER, name) / "variant.json").is_file():
                train(section, name, FOLDER)
        _show(chosen.variants)


def _prepare(read: params.Params) -> None:
    archive = FOLDER / "fashion.zip"
    if not archive.is_file():
        fashion5.make(sorted(fashion5.LABELS), PER_CLASS, archive, is_exact=False)
    if not (FOLDER / prepared(read.train.recipe) / "recipe.json").is_file():
        unzip(dataclasses.replace(read.unzip, archive=archive.name), FOLDER)
        preprocess(read.preprocess, read.train.recipe, FOLDER)


def _with_epochs(section: Train, epochs: int) -> Train:
    changed = {
        name: dataclasses.replace(variant, epochs=epochs)
        for name, variant in section.variants.items()
    }
    return dataclasses.replace(section, variants=changed)


def _show(names: list[str]) -> None:
    table = Table("variant", "validation accuracy", "test accuracy", "parameters", "seconds")
    for name in names:
        folder = folder_of(FOLDER, name)
        variant = Variant.read(folder)
        test = read_split(FOLDER / prepared(variant.prepared), "test")
        session = onnx_file.session(variants.onnx_path(folder).read_bytes(), threads=2)
        reached = accuracy(test.indices, onnx_file.run(session, test.images).argmax(axis=1))
        table.add_row(
            name,
            f"{variant.validation_accuracy:.4f}",
            f"{reached:.4f}",
            f"{variant.parameters:,}",
            f"{variants.seconds(FOLDER, name):.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
