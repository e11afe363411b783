"""The one module that knows MLflow: runs, pictures and the registry, in mlflow/ of the checkout.

A parent run "Model Selection" holds a nested run per variant. What is logged twice is one run: a
stage that was stopped and runs again finds what it had logged, so results do not depend on it.
"""

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Before MLflow is imported: it reports to nobody, and does not look for git by itself.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from core.bundle import Manifest
from pipeline import figures, lineage, variants
from pipeline.dataset import prepared
from pipeline.metrics import confusion
from pipeline.params import Params
from pipeline.variants import Variant

STORE = Path("mlflow")
PARENT = "Model Selection"
CHAMPION, CHALLENGER = "champion", "challenger"

_EXPERIMENT = "pigeonhole"
_KEY, _BUNDLE = "pigeonhole.key", "pigeonhole.bundle"


def track(
    root: Path,
    params: Params,
    trained: Sequence[Variant],
    chosen: str,
    labels: Sequence[str],
    truths: Mapping[str, Sequence[int]],
) -> str:
    """Log the parent run and one nested run per variant; the id of the chosen variant's run.

    `truths`: the class indices of the validation images, by the name of the recipe.
    """
    client = _client(root)
    experiment = _experiment(client, root)
    key = _selection_key(root, params, trained)
    if found := _finished(client, experiment, key, chosen):
        return found
    common = {
        "zip_md5": lineage.dvc_md5(root / params.unzip.archive),
        "params_sha256": lineage.params_sha256(params),
        "git_revision": lineage.git_revision(root) or "none",
        "archive": Path(params.unzip.archive).name,
    } | {f"env.{name}": value for name, value in lineage.environment().items()}
    common[_KEY] = key
    _end_killed(client, experiment, key)
    parent = client.create_run(experiment, run_name=PARENT, tags=common)
    ids = {}
    for variant in trained:
        tags = {
            **common,
            "prepared_md5": lineage.dvc_md5(root / prepared(variant.prepared)),
            "mlflow.parentRunId": parent.info.run_id,
        }
        run = client.create_run(experiment, run_name=variant.name, tags=tags)
        _log_variant(client, run.info.run_id, root, variant, labels, truths[variant.prepared])
        client.set_terminated(run.info.run_id)
        ids[variant.name] = run.info.run_id
    best = max(variant.validation_accuracy for variant in trained)
    client.log_metric(parent.info.run_id, "validation_accuracy", best)
    client.log_param(parent.info.run_id, "chosen", chosen)
    client.set_terminated(parent.info.run_id)
    return str(ids[chosen])


def register(root: Path, run_id: str, folder: Path, manifest: Manifest) -> None:
    """Put a bundle into the registry as the challenger; the same bundle is one version."""
    client = _client(root)
    name = _model_name(manifest.name)
    for key in ("test_accuracy", "ece"):
        if key in manifest.metrics:
            client.log_metric(run_id, key, manifest.metrics[key])
    known = _version_of(client, name, manifest.version)
    if known is None:
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        client.log_artifacts(run_id, str(folder), "bundle")
        source = f"{client.get_run(run_id).info.artifact_uri}/bundle"
        tags = {_BUNDLE: manifest.version}
        known = client.create_model_version(name, source, run_id, tags=tags).version
    client.set_registered_model_alias(name, CHALLENGER, known)


def promoted(name: str, version: str, root: Path = Path()) -> bool:
    """Call a bundle champion in the registry; False when this store has never seen it."""
    if not (root / STORE / "mlflow.db").is_file():
        return False
    client = _client(root)
    known = _version_of(client, _model_name(name), version)
    if known is not None:
        client.set_registered_model_alias(_model_name(name), CHAMPION, known)
    return known is not None


def run_ids(root: Path) -> list[str]:
    """The runs of this checkout, newest first."""
    client = _client(root)
    return [str(run.info.run_id) for run in client.search_runs([_experiment(client, root)])]


def _client(root: Path) -> MlflowClient:
    store = (root / STORE).resolve()
    store.mkdir(parents=True, exist_ok=True)
    address = f"sqlite:///{store / 'mlflow.db'}"
    return MlflowClient(tracking_uri=address, registry_uri=address)


def _experiment(client: MlflowClient, root: Path) -> str:
    found = client.get_experiment_by_name(_EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    place = (root / STORE / "artifacts").resolve().as_uri()
    return str(client.create_experiment(_EXPERIMENT, artifact_location=place))


def _selection_key(root: Path, params: Params, trained: Sequence[Variant]) -> str:
    """Which trainings these are: their networks and their parameters."""
    digest = hashlib.sha256(lineage.params_sha256(params).encode())
    digest.update((lineage.git_revision(root) or "").encode())
    for variant in trained:
        folder = variants.folder_of(root, variant.name)
        digest.update(lineage.sha256(variants.onnx_path(folder)).encode())
    return digest.hexdigest()


def _finished(client: MlflowClient, experiment: str, key: str, chosen: str) -> str | None:
    """The chosen variant's run of an equal selection, if its parent was logged to the end."""
    where = f"tags.`{_KEY}` = '{key}' and attributes.run_name = '{chosen}'"
    for run in client.search_runs([experiment], where):
        if _is_whole(client, run):
            return str(run.info.run_id)
    return None


def _is_whole(client: MlflowClient, run: Run) -> bool:
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    return bool(parent.info.status == "FINISHED")


def _end_killed(client: MlflowClient, experiment: str, key: str) -> None:
    """What a killed selection has left would seem to be running for ever."""
    where = f"tags.`{_KEY}` = '{key}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment], where):
        client.set_terminated(run.info.run_id, "KILLED")


def _log_variant(
    client: MlflowClient,
    run_id: str,
    root: Path,
    variant: Variant,
    labels: Sequence[str],
    truth: Sequence[int],
) -> None:
    history = variants.history(root, variant.name)
    now_ms = int(time.time() * 1000)
    metrics = [
        Metric(key, value, now_ms, int(row["epoch"]))
        for row in history
        for key, value in row.items()
        if key != "epoch"
    ]
    final = {
        "best_validation_accuracy": variant.validation_accuracy,
        "parameters": float(variant.parameters),
        "multiply_adds": float(variant.multiply_adds),
        "seconds": variants.seconds(root, variant.name),
    }
    metrics += [Metric(key, value, now_ms, 0) for key, value in final.items()]
    recipe = {"mean": variant.recipe.mean, "std": variant.recipe.std}
    shown = {**variant.shown, "size_px": variant.recipe.size_px, **recipe}
    params = [Param(key, str(value)) for key, value in shown.items()]
    client.log_batch(run_id, metrics, params, [RunTag("variant", variant.name)])
    answers = variants.valid_logits(variants.folder_of(root, variant.name)).argmax(axis=1)
    counts = confusion(np.asarray(truth), answers, len(labels))
    with tempfile.TemporaryDirectory() as folder:
        figures.curves(Path(folder) / "curves.png", history, variant.name)
        figures.confusion(
            Path(folder) / "confusion.png", counts, labels, f"{variant.name}, validation images"
        )
        client.log_artifacts(run_id, folder)


def _version_of(client: MlflowClient, name: str, bundle: str) -> str | None:
    found = client.search_model_versions(f"name = '{name}'")
    return next((str(one.version) for one in found if one.tags.get(_BUNDLE) == bundle), None)


def _model_name(name: str) -> str:
    """MLflow takes no slash, colon or quote in the name of a model."""
    return re.sub(r"[^\w. -]", "_", name) or "_"
