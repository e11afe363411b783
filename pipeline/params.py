"""params.yaml, what changes an answer, as frozen and typed sections: one for each stage."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from core.errors import PigeonholeError
from core.recipe import Crop, Interpolation

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=0.33)]
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
    valid_share: Share
    test_share: Share
    split_seed: Size
    near_duplicate_levels: Annotated[float, Field(ge=0)]
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
class Train:
    """Network and training.

    `filters`: of the two convolutions. `hidden`: width of the first fully connected layer.
    `shift_px`: training images move by up to this many pixels. `patience`: epochs without a better
    validation accuracy before the end. `threads` is fixed: sums depend on how they are split.
    """

    seed: Size
    threads: Count
    epochs: Count
    patience: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]
    filters: tuple[Count, Count]
    kernel_px: Count
    padding_px: Size
    batch_norm: bool
    hidden: Count
    flip: bool
    shift_px: Size


@dataclass(frozen=True, slots=True, config=_EXACT)
class Export:
    """`name` of the bundle (None: that of the zip); how far it may be from the checkpoint."""

    name: str | None
    max_score_difference: Annotated[float, Field(ge=0)]
    max_label_flips: Size


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
    train: Train
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
