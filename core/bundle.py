"""A model as one folder that cannot be half right: `model.onnx`, `labels.txt`, `bundle.json`.

`model.onnx` is the reference in fp32. A bundle may have `model.int8.onnx` as well, the same network
quantised, once the export has found its answers close enough; then a CPU serves that.

The version of a bundle is a hash of everything that changes an answer, so two bundles of one
version answer alike, and a file that was altered is refused. This is the only module that imports
the model runtime.
"""

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import onnxruntime

from core.classify import softmax
from core.errors import BundleError, ModelError, SettingsError
from core.recipe import Recipe
from core.types import Batch, ModelRef, Provider, Scores

FORMAT_VERSION = 1
STARTER = Path(__file__).resolve().parent.parent / "models" / "starter"

_MANIFEST, _LABELS = "bundle.json", "labels.txt"
_WEIGHTS, _INT8_WEIGHTS = "model.onnx", "model.int8.onnx"
_PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
_TRIED_TOGETHER = 4  # images
_TRIALS = 3
_WORTHWHILE = 0.8  # of the time alone
_TOO_SLOW_S = 0.1  # for an image alone: trials would hold up the start
_RETRAIN = "Restore the folder from its source, or train again with `make train`."


@dataclass(frozen=True, slots=True)
class Manifest:
    """What bundle.json says."""

    name: str
    version: str
    weights_sha256: str
    labels: tuple[str, ...]
    recipe: Recipe
    temperature: float
    metrics: dict[str, float]
    lineage: dict[str, Any]
    int8_sha256: str | None = None  # of model.int8.onnx, where the bundle has one

    def to_dict(self) -> dict[str, Any]:
        """The manifest as `models show --json` and GET /v1/model give it."""
        return {
            "name": self.name,
            "version": self.version,
            "weights_sha256": self.weights_sha256,
            "labels": list(self.labels),
            "recipe": self.recipe.to_dict(),
            "temperature": self.temperature,
            "metrics": self.metrics,
            "lineage": self.lineage,
            "int8": {"sha256": self.int8_sha256} if self.int8_sha256 else None,
        }


class _Files(NamedTuple):
    """A bundle as it was read and checked."""

    manifest: Manifest
    weights: bytes
    int8_weights: bytes | None


class Bundle:
    """A model that is loaded, checked and warmed up. Safe to use from many threads at once."""

    def __init__(
        self,
        manifest: Manifest,
        session: onnxruntime.InferenceSession,
        wide: onnxruntime.InferenceSession | None = None,
    ) -> None:
        self.manifest = manifest
        self.ref = ModelRef(manifest.name, manifest.version)
        self._session = session
        self._wide = wide or session  # the same model with more threads
        self._input = session.get_inputs()[0].name
        self.is_faster_together = True  # whether images of one pass cost less than one by one

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels in the order of the class indices."""
        return self.manifest.labels

    @property
    def recipe(self) -> Recipe:
        """How images must be prepared for this model."""
        return self.manifest.recipe

    @classmethod
    def load(
        cls,
        folder: Path,
        provider: Provider = "cpu",
        *,
        is_reference: bool = False,
        cores: int = 1,
    ) -> Self:
        """Open a bundle; raises `BundleError` when it is incomplete, altered or does not run.

        `provider`: what the model runs on; raises `SettingsError` where that is not installed. A
        CPU runs the int8 weights of a bundle that has them, or with `is_reference` the fp32 ones.
        `cores`: what `on_all_cores` may use; above 1 a CPU has the weights in memory twice.
        """
        manifest, weights, int8_weights = _read(folder)
        if int8_weights is not None and provider == "cpu" and not is_reference:
            weights = int8_weights
        try:
            has_wide = provider == "cpu" and cores > 1
            bundle = cls(
                manifest,
                _session(weights, provider),
                _session(weights, provider, threads=cores) if has_wide else None,
            )
            size = manifest.recipe.size_px
            # Two images: a model that was exported for batches of one fails here, not under load.
            black = np.zeros((2, size, size, 3), dtype=np.uint8)
            with np.errstate(all="ignore"):
                scores = bundle.scores(black)
                if has_wide:
                    bundle.scores(black[:1], on_all_cores=True)
                bundle.is_faster_together = bundle._together_is_faster()
        except SettingsError:
            raise
        except Exception as error:  # the runtime's errors have no common base
            why = error.__cause__ or error
            raise BundleError(f"{folder}: the model does not run ({why}). {_RETRAIN}") from error
        if scores.shape != (2, len(manifest.labels)):
            raise BundleError(
                f"{folder}: {len(manifest.labels)} labels, but the model answers {scores.shape} "
                f"to two images. {_RETRAIN}"
            )
        if not np.isfinite(scores).all():
            raise BundleError(
                f"{folder}: the model answers a black image with NaN or infinity. {_RETRAIN}"
            )
        return bundle

    def scores(self, images: Batch, *, on_all_cores: bool = False) -> Scores:
        """(N, S, S, 3) uint8 to (N, C) calibrated scores.

        On the calling thread alone; `on_all_cores` is sooner ready when nobody else needs them.
        Raises `ModelError`.
        """
        session = self._wide if on_all_cores else self._session
        try:
            (logits,) = session.run(None, {self._input: images})
        except Exception as error:  # the runtime's errors have no common base
            raise ModelError(
                f"{self.ref.name} {self.ref.version} failed ({error}). Is there memory left? "
                "`pigeonhole models rollback` takes the model of before."
            ) from error
        return softmax(logits, self.manifest.temperature)

    def _together_is_faster(self) -> bool:
        """Measured: it depends on the network and on the caches of this machine.

        The weights are read once for all images of a pass, which pays where they are many, as in
        large linear layers. What flows through a convolutional network outgrows the caches instead.
        """
        size = self.recipe.size_px
        images = np.zeros((_TRIED_TOGETHER, size, size, 3), dtype=np.uint8)
        if _seconds(lambda: self.scores(images[:1])) > _TOO_SLOW_S:
            return False
        self.scores(images)  # the first of a size takes longer
        alone_s, together_s = [], []
        for _ in range(_TRIALS):
            alone_s.append(_seconds(lambda: self.scores(images[:1])))
            together_s.append(_seconds(lambda: self.scores(images)))
        return min(together_s) / _TRIED_TOGETHER < _WORTHWHILE * min(alone_s)


def _seconds(do: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    do()
    return time.perf_counter() - started_s


def locate(home: Path) -> Path:
    """The folder of the bundle that serves: the promoted one, else the starter that we ship."""
    try:
        # Resolved: whoever reads file after file must not meet two models.
        return (home / "models" / "current").resolve(strict=True)
    except OSError:
        return STARTER


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle without starting the model; raises `BundleError`."""
    return _read(folder).manifest


def write(  # noqa: PLR0913 - a bundle is these eight things, each named by the caller
    folder: Path,
    *,
    name: str,
    weights: bytes,
    labels: Sequence[str],
    recipe: Recipe,
    temperature: float = 1.0,
    metrics: dict[str, float] | None = None,
    lineage: dict[str, Any] | None = None,
    int8_weights: bytes | None = None,
) -> Manifest:
    """Write a whole bundle or nothing: beside the target first, synced, then renamed into place.

    `weights`: ONNX, one input (N, S, S, 3) uint8, one output (N, C) float32 logits; `int8_weights`:
    the same network quantised, if a CPU shall serve that. An existing folder is replaced. Raises
    `BundleError` for labels that cannot be told apart in a file name or a list, and for a
    temperature that is not above 0.
    """
    temperature = float(temperature)  # 1 and 1.0 are the same model, so one version
    _check_labels(labels)
    _check_temperature(temperature)
    digest = hashlib.sha256(weights).hexdigest()
    int8_digest = None if int8_weights is None else hashlib.sha256(int8_weights).hexdigest()
    manifest = Manifest(
        name=name,
        version=_version(digest, labels, recipe, temperature, int8_digest),
        weights_sha256=digest,
        labels=tuple(labels),
        recipe=recipe,
        temperature=temperature,
        metrics=metrics or {},
        lineage=lineage or {},
        int8_sha256=int8_digest,
    )
    data = {"format_version": FORMAT_VERSION, **manifest.to_dict()}
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        part.chmod(0o755)
        _write_synced(part / _WEIGHTS, weights)
        if int8_weights is not None:
            _write_synced(part / _INT8_WEIGHTS, int8_weights)
        _write_synced(part / _LABELS, "".join(f"{label}\n" for label in labels).encode())
        _write_synced(part / _MANIFEST, text.encode())
        _sync_folder(part)
        _put_in_place(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return manifest


def _put_in_place(part: Path, folder: Path) -> None:
    """Rename `part` to `folder`; what stood there is deleted only once the new one stands."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BundleError(f"{folder} is in the way: it is not a folder. Move it elsewhere.")
    if folder.exists():
        old = part.with_name(f"{part.name}.old")
        folder.rename(old)
        try:
            part.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    else:
        part.rename(folder)
    _sync_folder(folder.parent)


def _read(folder: Path) -> _Files:
    try:
        data = json.loads((folder / _MANIFEST).read_text("utf-8"))
        labels = tuple((folder / _LABELS).read_text("utf-8").splitlines())
        manifest = _manifest(folder, data)
        weights = _checked(folder, _WEIGHTS, manifest.weights_sha256)
        int8_weights = (
            _checked(folder, _INT8_WEIGHTS, manifest.int8_sha256) if manifest.int8_sha256 else None
        )
    except FileNotFoundError as error:
        raise BundleError(f"{folder}: {Path(error.filename).name} is missing. {_RETRAIN}") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder}: cannot be read ({error}). {_RETRAIN}") from error
    if labels != manifest.labels:
        raise BundleError(f"{folder}: labels.txt and bundle.json differ. {_RETRAIN}")
    expected = _version(
        manifest.weights_sha256,
        labels,
        manifest.recipe,
        manifest.temperature,
        manifest.int8_sha256,
    )
    if manifest.version != expected:
        raise BundleError(f"{folder}: bundle.json was altered after training. {_RETRAIN}")
    return _Files(manifest, weights, int8_weights)


def _checked(folder: Path, name: str, sha256: str) -> bytes:
    data = (folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{folder}: {name} is not the file that bundle.json names. {_RETRAIN}")
    return data


def _manifest(folder: Path, data: object) -> Manifest:
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{folder}: bundle.json is not of format {FORMAT_VERSION}; update Pigeonhole."
        )
    try:
        int8 = data.get("int8")  # bundles of before have no such key
        manifest = Manifest(
            name=str(data["name"]),
            version=str(data["version"]),
            weights_sha256=str(data["weights_sha256"]),
            labels=tuple(str(label) for label in data["labels"]),
            recipe=Recipe.from_dict(data["recipe"]),
            temperature=float(data["temperature"]),
            metrics=dict(data["metrics"]),
            lineage=dict(data["lineage"]),
            int8_sha256=None if int8 is None else str(int8["sha256"]),
        )
        _check_labels(manifest.labels)
        _check_temperature(manifest.temperature)
        return manifest
    except BundleError as error:
        raise BundleError(f"{folder}: {error}. {_RETRAIN}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder}: bundle.json is incomplete ({error!r}). {_RETRAIN}") from error


def _version(
    weights_sha256: str,
    labels: Sequence[str],
    recipe: Recipe,
    temperature: float,
    int8_sha256: str | None,
) -> str:
    answer = [weights_sha256, list(labels), recipe.to_dict(), temperature]
    if int8_sha256 is not None:
        answer.append(int8_sha256)
    return hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()[:12]


def _check_labels(labels: Sequence[str]) -> None:
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise BundleError(f"a model needs two or more different labels, not {list(labels)}")
    for label in labels:
        # Cc: control characters; Cs: halves of surrogates, as undecodable folder names give.
        odd = any(unicodedata.category(character) in ("Cc", "Cs") for character in label)
        if odd or not label.strip() or label.splitlines() != [label]:
            raise BundleError(
                f"{label!r} cannot be a label: it is blank, more than one line or not text"
            )


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise BundleError(f"the temperature of a model is above 0, not {temperature}")


def _session(weights: bytes, provider: Provider, threads: int = 1) -> onnxruntime.InferenceSession:
    if _PROVIDERS[provider] not in onnxruntime.get_available_providers():
        raise SettingsError(_not_here(provider))
    options = onnxruntime.SessionOptions()
    # Each engine worker runs on its own thread: two workers of one thread beat one of two by
    # 13-66 %. Only an image that is alone is sooner ready with more.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(weights, options, providers=[_PROVIDERS[provider]])
    if session.get_providers()[0] != _PROVIDERS[provider]:  # it falls back to the CPU in silence
        raise SettingsError(_not_here(provider))
    return session


def _not_here(provider: Provider) -> str:
    return (
        f"PIGEONHOLE_PROVIDER is {provider}, which the ONNX Runtime of this installation cannot "
        "use. Install the build of it that can, and the driver (docs/performance.md), or take cpu."
    )


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
