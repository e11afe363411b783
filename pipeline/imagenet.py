"""The 1,000 classes of ImageNet as a bundle, with no training: for a first look, and for parity.

The network is EfficientNet-Lite0 with the head that it came with; the labels are torchvision's.
"""

from pathlib import Path

from core import bundle
from core.bundle import Manifest
from core.recipe import Recipe
from pipeline import backbone, fit, lineage, onnx_file
from pipeline.params import Backbone

NAME = "imagenet"

_GREY, _SPREAD = 127 / 255, 128 / 255
RECIPE = Recipe(
    size_px=224,
    mean=(_GREY,) * 3,
    std=(_SPREAD,) * 3,
    crop="center",
    short_side_px=256,
    interpolation="bicubic",
)


def write_bundle(folder: Path) -> Manifest:
    """Write the bundle; raises `StageError` where the weights are not installed."""
    fit.prepare(seed=0, threads=1)
    pretrained = backbone.load("efficientnet_lite0", Backbone("efficientnet_lite0", None))
    model = backbone.classifier(pretrained, RECIPE, pretrained.head)
    return bundle.write(
        folder,
        name=NAME,
        weights=onnx_file.to_onnx(model, RECIPE.size_px),
        labels=labels(),
        recipe=RECIPE,
        lineage={"weights_sha256": pretrained.sha256, "versions": lineage.environment()},
    )


def labels() -> list[str]:
    """The names of the classes, in the order of their indices."""
    from torchvision.models._meta import _IMAGENET_CATEGORIES  # noqa: PLC0415

    return list(_IMAGENET_CATEGORIES)
