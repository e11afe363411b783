"""From what a bundle was made: enough to make it again, and to see that it is the same."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from pipeline.params import Params, to_dict

_CODE = ("core", "pipeline", "params.yaml", "dvc.yaml")
_LIBRARIES = ("torch", "onnx", "onnxruntime", "numpy", "pillow")


def environment() -> dict[str, str]:
    """Versions that may change a bit of the result."""
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def sha256(path: Path) -> str:
    """Of one file."""
    return _digest(path, "sha256")


def params_sha256(params: Params) -> str:
    """Of params.yaml as it was understood: comments and spaces do not count."""
    return hashlib.sha256(json.dumps(to_dict(params), sort_keys=True).encode()).hexdigest()


def dvc_md5(path: Path) -> str:
    """A file or folder as dvc.lock names it: of a folder, md5 of the sorted list of its files."""
    if path.is_file():
        return _digest(path, "md5")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    listed = [
        {"md5": _digest(file, "md5"), "relpath": file.relative_to(path).as_posix()}
        for file in files
    ]
    listed.sort(key=lambda entry: entry["relpath"].split("/"))
    text = json.dumps(listed, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def git_revision(root: Path) -> str | None:
    """The commit, with `-dirty` if code was changed since; None: no git, or no commit yet."""
    head = _git(root, "rev-parse", "--verify", "HEAD")
    if head is None:
        return None
    changed = _git(root, "status", "--porcelain", "--", *_CODE)
    return f"{head}-dirty" if changed else head


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _git(root: Path, *words: str) -> str | None:
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
