"""Every command and option. What a command needs is imported when it runs: help stays quick."""
# ruff: noqa: PLC0415 - the reason is the sentence above

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from pigeonhole.escape import as_text, printable

app = typer.Typer(
    help="Drop images into a folder: each one is classified, filed under its label and recorded.",
    epilog="Settings are environment variables or lines of .env: see `pigeonhole config`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models = typer.Typer(help="The models that can serve.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(models, name="models")
keys = typer.Typer(help="Who may use the API.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys, name="keys")
webhooks = typer.Typer(help="The webhook.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(webhooks, name="webhooks")

Shown = Literal["table", "json", "jsonl", "csv", "parquet"]

Format = Annotated[
    Shown | None,
    typer.Option(
        "--format",
        help="Default: by the suffix of --out, else table on a terminal, else jsonl.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Write to this file, which appears when it is whole."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text} is no time. Write 2026-11-22 or 2026-11-22T18:30:00Z."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _spelled_out(text: str | None) -> str | None:
    """Rows hold no bytes that are not UTF-8; a command line may."""
    return None if text is None else as_text(text)


def _scopes(given: list[str]) -> list[str]:
    from storage.keys import SCOPES

    for scope in given:
        if scope not in SCOPES:
            raise typer.BadParameter(f"{printable(scope)}: one of {', '.join(SCOPES)}.")
    return given


def _existing(paths: list[Path]) -> list[Path]:
    for path in paths:
        if not path.exists():
            raise typer.BadParameter(f"{printable(path)}: there is no such file or folder.")
    return paths


@app.command()
def up() -> int:
    """Start watcher and API; either one dying is restarted."""
    from pigeonhole import up

    return up.run()


@app.command()
def watch(
    once: Annotated[
        bool,
        typer.Option("--once", help="Empty the inbox and end: 0 all done, 1 some quarantined."),
    ] = False,
) -> int:
    """Watch the inbox: classify, file and record."""
    from core.settings import Settings
    from monitoring import logs
    from watcher import daemon

    settings = Settings.read()
    logs.configure(settings.log_format, "watcher")
    return daemon.run(settings, once=once)


@app.command()
def serve() -> int:
    """Serve the REST API and the page."""
    from api import server
    from core.settings import Settings

    return server.serve(Settings.read())


@app.command()
def classify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", callback=_existing, help="Files and folders."),
    ],
    recursive: Annotated[bool, typer.Option("--recursive", help="Take sub-folders too.")] = False,
    format: Format = None,  # noqa: A002 - the name of the option
    out: Out = None,
    store: Annotated[bool, typer.Option("--store", help="Record the results.")] = False,
) -> int:
    """Classify files and folders where they are, with no inbox."""
    from pigeonhole import classify

    return classify.run(paths, recursive=recursive, shown=format, out=out, store=store)


@app.command()
def results(  # noqa: PLR0913 - the filters of REST
    *,
    label: Annotated[
        str | None, typer.Option(callback=_spelled_out, help="The predicted label, exactly.")
    ] = None,
    status: Annotated[
        Literal["classified", "quarantined"] | None, typer.Option(help="What became of it.")
    ] = None,
    source: Annotated[
        Literal["watcher", "upload", "batch"] | None, typer.Option(help="How it came in.")
    ] = None,
    model_version: Annotated[
        str | None, typer.Option(callback=_spelled_out, help="Which model answered.")
    ] = None,
    needs_review: Annotated[
        bool | None,
        typer.Option("--needs-review/--no-needs-review", help="Whether a person should look."),
    ] = None,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="At least this sure.")
    ] = None,
    max_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="At most this sure.")
    ] = None,
    q: Annotated[
        str | None, typer.Option("--q", callback=_spelled_out, help="Part of the file name.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(parser=_moment, metavar="TIME", help="Classified then or later (UTC)."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(parser=_moment, metavar="TIME", help="Classified before then (UTC)."),
    ] = None,
    order: Annotated[
        Literal["asc", "desc"], typer.Option(help="Oldest (asc) or newest (desc) first.")
    ] = "desc",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
    format: Format = None,  # noqa: A002 - the name of the option
    out: Out = None,
) -> int:
    """Show what is recorded: all rows that match, newest first."""
    from pigeonhole import results
    from storage.results import ResultFilter

    wanted = ResultFilter(
        label=label,
        status=status,
        source=source,
        model_version=model_version,
        needs_review=needs_review,
        min_confidence=min_confidence,
        max_confidence=max_confidence,
        q=q,
        since=since,
        until=until,
    )
    return results.run(wanted, order=order, limit=limit, shown=format, out=out)


@app.command()
def train(
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="ZIP", help="Your images; default: what params.yaml names."),
    ] = None,
) -> int:
    """Train on a zip of images; what passes the gate serves."""
    from pigeonhole import train

    return train.run(data)


@app.command()
def status(as_json: Json = False) -> int:
    """Show the inbox, the rate, the model and the last errors."""
    from pigeonhole import status

    return status.run(as_json=as_json)


@app.command()
def pause() -> int:
    """Take no more files from the inbox until `resume`."""
    from pigeonhole import pause

    return pause.pause()


@app.command()
def resume() -> int:
    """Go on after `pause`."""
    from pigeonhole import pause

    return pause.resume()


@app.command("retry")
def retry_files(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="As `status` or a row names it."),
    ] = None,
    take_all: Annotated[bool, typer.Option("--all", help="Everything in quarantine.")] = False,
) -> int:
    """Put quarantined files back into the inbox."""
    from pigeonhole import retry

    if bool(files) == take_all:
        raise typer.BadParameter("Name the files, or say --all.")
    return retry.run(files or [], take_all=take_all)


@app.command()
def config(as_json: Json = False) -> int:
    """Show every setting, its value and where it came from."""
    from pigeonhole import config

    return config.run(as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> int:
    """Check this machine and say how to mend it."""
    from pigeonhole import doctor

    return doctor.run(as_json=as_json)


@app.command()
def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where backups are kept.")],
) -> int:
    """Copy database and models; all goes on meanwhile."""
    from pigeonhole import backup

    return backup.save(folder)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `backup` printed.")],
) -> int:
    """Put a backup in place; what was there is kept."""
    from pigeonhole import backup

    return backup.restore(folder)


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="End after the samples: 0 if each one has its row.")
    ] = False,
) -> int:
    """Start everything and try it on sample images."""
    from pigeonhole import demo

    return demo.run(once=once)


@webhooks.command()
def test() -> int:
    """Send the webhook a test message and say what it answers."""
    from pigeonhole import webhooks

    return webhooks.test()


@webhooks.command()
def retry() -> int:
    """Tell the webhook again of what was given up."""
    from pigeonhole import webhooks

    return webhooks.retry()


@models.command("list")
def listing(as_json: Json = False) -> int:
    """List every model and say which one serves."""
    from pigeonhole import models

    return models.listing(as_json=as_json)


@models.command()
def show(
    version: Annotated[str | None, typer.Argument(help="Default: the model that serves.")] = None,
    as_json: Json = False,
) -> int:
    """Show a model: name, version, labels, recipe, metrics and lineage."""
    from pigeonhole import models

    return models.show(version, as_json=as_json)


@models.command()
def promote(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="VERSION|FOLDER", help="A model of the list, or a bundle; default: the new one."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do not ask the gate.")] = False,
) -> int:
    """Let a model serve, if the gate has no objection."""
    from pigeonhole import models

    return models.promote(what, force=force)


@models.command()
def rollback() -> int:
    """Let the model serve that served before."""
    from pigeonhole import models

    return models.rollback()


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits and . _ - @")],
    scope: Annotated[
        list[str],
        typer.Option(
            metavar="read|write|review|admin",
            callback=_scopes,
            help="What it opens; may be given several times.",
        ),
    ] = ["read"],  # noqa: B006 - typer wants a list
) -> int:
    """Make a key of the API and print it, this once."""
    from pigeonhole import keys

    return keys.add(name, scope)


@keys.command("list")
def list_keys(as_json: Json = False) -> int:
    """Show every key by its name, never itself."""
    from pigeonhole import keys

    return keys.listing(as_json=as_json)


@keys.command()
def revoke(name: Annotated[str, typer.Argument(help="As `keys list` shows it.")]) -> int:
    """Let a key open nothing any more."""
    from pigeonhole import keys

    return keys.revoke(name)


@models.command("import")
def bring(
    source: Annotated[
        str, typer.Argument(metavar="imagenet|MODEL.onnx", help="Built in, or your own classifier.")
    ],
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One label a line, in the model's order.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the square that it sees, in pixels.")
    ] = None,
    mean: Annotated[
        str, typer.Option(metavar="R,G,B", help="Taken off, on the scale 0..1.")
    ] = "0.485,0.456,0.406",
    std: Annotated[
        str, typer.Option(metavar="R,G,B", help="Then divided by.")
    ] = "0.229,0.224,0.225",
    crop: Annotated[
        Literal["none", "center"], typer.Option(help="Squeeze images into the square, or cut.")
    ] = "none",
    name: Annotated[str | None, typer.Option(help="Default: that of the file.")] = None,
) -> int:
    """Bring a model that was trained elsewhere; `promote` lets it serve."""
    from pigeonhole import models

    if source == "imagenet":
        return models.bring(source, None)
    if labels is None or size is None:
        raise typer.BadParameter("An ONNX model needs --labels FILE and --size PIXELS.")
    wishes = models.Wishes(labels, size, _triple(mean, "--mean"), _triple(std, "--std"), crop, name)
    return models.bring(source, wishes)


def _triple(text: str, option: str) -> tuple[float, float, float]:
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option} {text}: write three numbers, as 0.5,0.5,0.5.") from None
    return red, green, blue
