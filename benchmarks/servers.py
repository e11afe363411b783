"""The servers that are measured: ours and the peers, how each is installed, started and asked."""

import json
import site
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks import client
from benchmarks.measure import free_port, process
from benchmarks.models import Model

ROOT = Path(__file__).resolve().parent.parent
_INSTALL_LIMIT_S = 600


@dataclass(frozen=True)
class Running:
    """A server that was started; it may not be ready yet."""

    of: psutil.Process
    port: int
    ready_url: str


@dataclass(frozen=True)
class Server:
    """`command(python, port, scratch)` starts it; `package`: what its environment needs."""

    name: str
    command: Callable[[Path, int, Path], Sequence[str]]
    package: str | None
    ready: str
    path: str
    requests: client.Requests = client.forms

    @contextmanager
    def started(self, model: Model, runtime: str, cache: Path, scratch: Path) -> Iterator[Running]:
        """Running with this model; `runtime`: torch, or onnx for our graph and runtime."""
        port = free_port()
        python = self.environment(cache)
        settings = {
            "PYTHONPATH": str(ROOT),
            "MODEL": model.network,
            "RUNTIME": runtime,
            "WEIGHTS": str(model.weights),
            "GRAPH": str(model.graph),
            "PORT": str(port),
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(scratch / "bentoml"),
            "DO_NOT_TRACK": "1",
            **_ours(model, scratch, port),
        }
        log = scratch / f"{self.name}.log"
        with process(self.command(python, port, scratch), log, ROOT, **settings) as running:
            yield Running(running, port, f"http://127.0.0.1:{port}{self.ready}")

    def environment(self, cache: Path) -> Path:
        """The Python that has it; raises `RuntimeError` when it cannot be installed."""
        if self.package is None:
            return Path(sys.executable)
        folder = cache / "environments" / self.package
        python = folder / "bin" / "python"
        if not (folder / "complete").is_file():
            _install(folder, python, self.package)
        return python


def _install(folder: Path, python: Path, package: str) -> None:
    """An environment of its own, on top of ours: torch and its like are not installed twice.

    What the package wants in another version than we have comes before ours.
    """
    venv.create(folder, with_pip=True, clear=True)
    (ours,) = site.getsitepackages()[:1]
    for packages in folder.glob("lib/python*/site-packages"):
        (packages / "zz-pigeonhole.pth").write_text(f"{ours}\n")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
    try:
        subprocess.run(
            command, check=True, timeout=_INSTALL_LIMIT_S, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"pip: {error.stderr.strip().splitlines()[-1]}") from error
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not installed within {_INSTALL_LIMIT_S} s") from None
    (folder / "complete").touch()


def _ours(model: Model, scratch: Path, port: int) -> Mapping[str, str]:
    home = scratch / "home"
    models = home / "models"
    models.mkdir(parents=True, exist_ok=True)
    current = models / "current"
    current.unlink(missing_ok=True)
    current.symlink_to(model.bundle)
    return {"PIGEONHOLE_HOME": str(home), "PIGEONHOLE_PORT": str(port)}


def _uvicorn(python: Path, port: int, _: Path) -> list[str]:
    app = "benchmarks.peers.plain_fastapi:app"
    return [str(python), "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning"]


def _bentoml(python: Path, port: int, _: Path) -> list[str]:
    service = "benchmarks.peers.bentoml_service:Classifier"
    return [
        str(python),
        "-m",
        "bentoml",
        "serve",
        service,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]


def _mlserver(python: Path, port: int, scratch: Path) -> list[str]:
    folder = scratch / "mlserver"
    folder.mkdir(exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": free_port(),
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
    }
    model = {
        "name": "classifier",
        "implementation": "benchmarks.peers.mlserver_runtime.Classifier",
        "max_batch_size": 16,
        "max_batch_time": 0.01,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(python.with_name("mlserver")), "start", str(folder)]


OURS = Server(
    "Pigeonhole",
    lambda python, *_: [str(python), "-m", "pigeonhole", "serve"],
    None,
    "/readyz",
    "/v1/predict",
)
OURS_KEEPING_NOTHING = replace(
    OURS, name="Pigeonhole, store=false", path=f"{OURS.path}?store=false"
)
PEERS = (
    Server("FastAPI", _uvicorn, None, "/health", "/predict"),
    Server(
        "LitServe",
        lambda python, *_: [str(python), "-m", "benchmarks.peers.litserve_server"],
        "litserve",
        "/health",
        "/predict",
    ),
    Server("BentoML", _bentoml, "bentoml", "/readyz", "/predict"),
    Server(
        "MLServer",
        _mlserver,
        "mlserver",
        "/v2/models/classifier/ready",
        "/v2/models/classifier/infer",
        client.inference_requests,
    ),
)
