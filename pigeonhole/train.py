"""`pigeonhole train`: from a zip of images to a model that serves, if it has earned it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.bundle import Bundle, locate
from core.errors import PigeonholeError
from core.settings import Settings
from pigeonhole import models
from pigeonhole.talk import say
from pigeonhole.terminal import cell, plain_table, print_table


class TrainError(PigeonholeError):
    """Nothing can be trained here, or the pipeline has stopped."""

    code = "cannot_train"


def run(data: Path | None) -> int:
    """Run the pipeline, then the gate; promote what passes. 0 as well when the gate refuses."""
    top = _checkout()
    settings = Settings.read()  # before we look elsewhere: HOME may be relative
    _pipeline(top, None if data is None else data.absolute())
    candidate = top / "models" / "candidate"
    bundle = Bundle.load(candidate)
    _print_variants(top)
    if models.version_at(locate(settings.home)) == bundle.ref.version:
        say(f"\n{bundle.ref.name} {bundle.ref.version} serves already: nothing has changed.")
        return 0
    judged = models.judge(bundle, candidate, settings)
    say(f"\n{judged.sentence}")
    if judged.passed:
        models.put_in_place(settings, candidate, judged.sentence)
        say(_what_next(settings))
    else:
        say(
            "It was not promoted, and what served goes on. Next: see reports/gate.md for the "
            "images whose answer changes, add images of what it confuses and train again, or let "
            "it serve all the same: pigeonhole models promote --force"
        )
    return 0


def _checkout() -> Path:
    top = models.checkout()
    if top is None:
        raise TrainError(
            "Training needs a checkout of the repository (dvc.yaml and params.yaml). Clone it, and "
            "run this at its top."
        )
    missing = [name for name in ("dvc", "torch", "mlflow", "onnx") if find_spec(name) is None]
    if missing:
        raise TrainError(
            f"Training needs {', '.join(missing)}, which serving does without. Run "
            "`make install-dev` at the top of the repository; torch is large."
        )
    return top


def _pipeline(top: Path, data: Path | None) -> None:
    """Let DVC run what has changed, with its talk on our stderr: stdout is for data."""
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "dvc", *_words(top, data)],
        cwd=top,
        env={**os.environ, "PATH": _path_with_our_python()},
        stdout=sys.stderr.fileno(),
        check=False,
    )
    if done.returncode:
        raise TrainError(
            "The pipeline has stopped; the reason is above. Mend it and run this again: stages "
            "that were finished are not repeated. What served goes on."
        )


def _words(top: Path, data: Path | None) -> list[str]:
    """`repro`, or with another zip `exp run`, which writes its name into params.yaml."""
    from pipeline import params  # noqa: PLC0415

    if data is None:
        return ["repro"]
    if not data.is_file():
        raise TrainError(f"{data}: there is no such file. Give a zip with --data.")
    archive = str(data.relative_to(top) if data.is_relative_to(top) else data)
    if params.read(top / "params.yaml").unzip.archive == archive:
        return ["repro"]
    quoted = archive.replace("\\", "\\\\").replace("'", "\\'")
    return ["exp", "run", "--set-param", f"unzip.archive='{quoted}'"]


def _path_with_our_python() -> str:
    """The stages are called as `python`: that must be the one that runs us."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _print_variants(top: Path) -> None:
    """What each variant reached and costs, and why one was chosen."""
    rows = _read(top / "metrics" / "variants.json")
    chosen = _read(top / "models" / "selected.json")
    if not rows:
        return
    table = plain_table(
        "variant", "validation", "test", "parameters", "seconds", "ms per image", ""
    )
    for name, row in rows.items():
        table.add_row(
            cell(name),
            f"{row['validation_accuracy']:.4f}",
            f"{row['test_accuracy']:.4f}",
            f"{row['parameters']:,}",
            f"{row['seconds']:.0f}",
            f"{row['ms_per_image']:.2f}",
            "chosen" if name == chosen.get("variant") else "",
        )
    print_table(table)
    if chosen:
        say(f"\n{chosen['why']}")


def _read(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return data


def _what_next(settings: Settings) -> str:
    return (
        "Next:\n"
        f"  drop images into {settings.inbox} (`pigeonhole up` watches it)\n"
        "  pigeonhole classify FOLDER       asks it about images where they are\n"
        "  pigeonhole models show           says what it is and where it came from\n"
        "  reports/gate.md                  shows what it answers otherwise than the one before"
    )
