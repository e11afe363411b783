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
def status(as_json: Json = False) -> int:
    """Show the inbox, the rate, the model and the last errors."""
    from pigeonhole import status

    return status.run(as_json=as_json)


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
