"""params.yaml, what changes an answer, as frozen and typed sections: one for each stage."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from core.errors import PigeonholeError
from core.recipe import Crop, Interpolation

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Portion = Annotated[float, Field(gt=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Names = tuple[str, ...]
CutShare = Annotated[float, Field(gt=0, le=0.33)]
MostShare = Annotated[float, Field(ge=0, le=1)] | None
Ratio = Annotated[float, Field(ge=0, le=1)]
Triple = tuple[float, float, float]
Colour = tuple[int, int, int]

_EXACT = ConfigDict(extra="forbid", strict=True)


class ParamsError(PigeonholeError):
    """params.yaml has a key too many, a key too few or a value that cannot work."""

    code = "bad_params"


@dataclass(frozen=True, slots=True, config=_EXACT)
class Unzip:
    """Which zip, what it may be at most, and how splits are cut that it does not have.

    `max_ratio`: unpacked bytes per byte of the zip. `valid_share`, `test_share`: of the images of
    each class in train. `near_duplicate_levels`: up to which difference images stay on one side
    (see `pipeline.similarity`). `workers`: processes; 0 is one per core.
    """

    archive: str
    max_files: Count
    max_total_bytes: Count
    max_ratio: Count
    valid_share: CutShare
    test_share: CutShare
    split_seed: Size
    near_duplicate_levels: NotNegative
    workers: Size


@dataclass(frozen=True, slots=True, config=_EXACT)
class RecipeParams:
    """How images are prepared for one family of networks (see `core.recipe.Recipe`).

    `size_px`: None is the median short side of the training images, at most `max_size_px`.
    `mean`, `std`: per channel on the scale 0..1; None: computed from the training images.
    """

    size_px: Count | None
    max_size_px: Count | None
    crop: Crop
    short_side_px: Count | None
    interpolation: Interpolation
    background: Colour
    mean: Triple | None
    std: Triple | None


@dataclass(frozen=True, slots=True, config=_EXACT)
class Preprocess:
    """The recipes by name, and how many processes cook them.

    `workers`: 0 is one per core; their number changes no byte.
    """

    recipes: dict[str, RecipeParams]
    max_pixels: Count
    workers: Size


@dataclass(frozen=True, slots=True, config=_EXACT)
class Evaluate:
    """What the data must be like; a limit of None is told and stops nothing.

    `compared_images`: per recipe, against an independent preparation; the deviation of an image
    must be above `blank_std`, and its sides at least `tiny_px`, to be neither blank nor tiny.
    `near_duplicate_levels`: see `pipeline.similarity`. `workers`: processes; 0 is one per core.
    """

    compared_images: Count
    min_psnr_db: NotNegative
    min_ssim: Annotated[float, Field(ge=-1, le=1)]
    max_statistics_difference: NotNegative
    near_duplicate_levels: NotNegative
    max_duplicates_across_splits: Size | None
    max_near_duplicates_across_splits: Size | None
    max_duplicates_within_splits: Size | None
    max_label_conflicts: Size | None
    max_unreadable_share: MostShare
    max_left_out_share: MostShare
    min_images_per_class: Count
    max_class_ratio: Annotated[float, Field(ge=1)] | None
    tiny_px: Size
    max_tiny_share: MostShare
    blank_std: NotNegative
    max_blank_share: MostShare
    workers: Size


@dataclass(frozen=True, slots=True, config=_EXACT)
class Augment:
    """How training images are changed at random.

    `crop`: the least share of the area that is kept. `flip`: mirror half of them. `light`:
    brightness, contrast and saturation change by up to this share.
    """

    crop: Portion
    flip: bool
    light: Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=_EXACT)
class FitRules:
    """How a network is fitted, whatever the network. The optimiser is AdamW.

    `patience`: epochs without a better validation accuracy before the end.
    """

    batch_size: Count
    patience: Count
    schedule: Literal["one_cycle", "constant"]
    weight_decay: NotNegative
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    augment: Augment


@dataclass(frozen=True, config=_EXACT)
class Fit(FitRules):
    """The rules, and what differs from network to network.

    `grow_from`: training images begin with this share of their side and grow.
    """

    epochs: Count
    learning_rate: Positive
    grow_from: Portion = 1.0


@dataclass(frozen=True, slots=True, config=_EXACT)
class Cnn:
    """Two convolutions with `filters` each and max pooling, two fully connected layers."""

    network: Literal["cnn"]
    filters: tuple[Count, Count]
    kernel_px: Count
    padding_px: Size
    batch_norm: bool
    hidden: Count
    dropout: Dropout
    epochs: Count
    learning_rate: Positive


@dataclass(frozen=True, slots=True, config=_EXACT)
class Residual:
    """A residual network with a block for each of `widths`. `grow_from`: see `Fit`."""

    network: Literal["residual"]
    widths: Annotated[tuple[Count, ...], Field(min_length=1)]
    dropout: Dropout
    epochs: Count
    learning_rate: Positive
    grow_from: Portion


TrainVariant = Annotated[Cnn | Residual, Field(discriminator="network")]


@dataclass(frozen=True, slots=True, config=_EXACT)
class Train:
    """The variants that start from nothing, the names of those that run, and their common rules.

    `recipe`: of preprocess. `threads` is fixed, since sums depend on how they are split.
    """

    seed: Size
    threads: Count
    recipe: str
    run: Names
    fit: FitRules
    variants: dict[str, TrainVariant]


@dataclass(frozen=True, slots=True, config=_EXACT)
class Backbone:
    """A pretrained network. `weights`: a file of them; None: those at hand (docs/training.md)."""

    library: Literal["efficientnet_lite0", "torchvision"]
    weights: str | None


@dataclass(frozen=True, slots=True, config=_EXACT)
class Transfer:
    """A linear head on what a pretrained network sees; `finetune` then adapts the whole network.

    `weight_decays`: tried on the head; the best on valid is kept.
    """

    seed: Size
    threads: Count
    recipe: str
    run: Names
    weight_decays: Annotated[tuple[Positive, ...], Field(min_length=1)]
    finetune: Fit | None
    backbones: dict[str, Backbone]


@dataclass(frozen=True, slots=True, config=_EXACT)
class Select:
    """`tolerance`: so much validation accuracy may be given up for fewer multiplications."""

    tolerance: NotNegative


@dataclass(frozen=True, slots=True, config=_EXACT)
class Calibrate:
    """`bins`: pieces of equal width into which confidences are sorted for the calibration error."""

    bins: Count


@dataclass(frozen=True, slots=True, config=_EXACT)
class Int8:
    """When the bundle gets int8 weights as well.

    `min_multiply_adds`: smaller networks gain nothing by it. `max_accuracy_loss`: on valid.
    `images`: training images by which ranges are measured.
    """

    min_multiply_adds: Size
    max_accuracy_loss: NotNegative
    images: Count


@dataclass(frozen=True, slots=True, config=_EXACT)
class Export:
    """`name` of the bundle (None: that of the zip); how far it may be from the checkpoint."""

    name: str | None
    max_score_difference: NotNegative
    max_label_flips: Size
    int8: Int8 | None


@dataclass(frozen=True, slots=True, config=_EXACT)
class Gate:
    """What a challenger must meet to take the champion's place; see docs/models.md.

    `confidence`: of the intervals, from `resamples` bootstrap samples. Drops, floors and `max_ece`
    are shares, 0..1. Latency: the 95th percentile of one image on one thread; memory: the peak of a
    process that serves the model.
    """

    seed: Size
    resamples: Count
    confidence: Annotated[float, Field(gt=0, lt=1)]
    max_drop: Ratio
    max_class_drop: Ratio
    min_accuracy: Ratio
    min_recall: Ratio
    max_ece: Ratio
    max_latency_ms: Annotated[float, Field(gt=0)]
    max_memory_bytes: Count


@dataclass(frozen=True, slots=True, config=_EXACT)
class Params:
    """All of params.yaml."""

    unzip: Unzip
    preprocess: Preprocess
    evaluate: Evaluate
    train: Train
    transfer: Transfer
    select: Select
    calibrate: Calibrate
    export: Export
    gate: Gate


_PARAMS = TypeAdapter(Params)


class _Yaml(yaml.SafeLoader):
    """Reads 1e-4 as a number, as DVC does (YAML 1.2); to PyYAML (YAML 1.1) it is a word."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read(path: Path = Path("params.yaml")) -> Params:
    """Read and check the file; raises `ParamsError` with one line per mistake."""
    try:
        # By way of JSON, where strict means what YAML's author meant: a list may become a tuple.
        return _PARAMS.validate_json(json.dumps(parsed(path.read_text("utf-8"))))
    except ValidationError as error:
        lines = [f"{path.name}: {_where(e['loc'])}: {e['msg']}" for e in error.errors()]
        raise ParamsError("\n".join(lines)) from None
    except FileNotFoundError:
        raise ParamsError(f"{path} is not here. Run this at the top of the repository.") from None
    except (TypeError, yaml.YAMLError) as error:
        raise ParamsError(f"{path.name} cannot be read: {error}") from None


def parsed(text: str) -> Any:  # noqa: ANN401 - YAML may hold anything
    """The data of a YAML text, with numbers read as DVC reads and writes them."""
    return yaml.load(text, _Yaml)  # noqa: S506 - a SafeLoader, see above


def to_dict(params: Params) -> dict[str, dict[str, object]]:
    """The sections as plain JSON types, for the bundle's lineage."""
    sections: dict[str, dict[str, object]] = _PARAMS.dump_python(params, mode="json")
    return sections


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the file"
