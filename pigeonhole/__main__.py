"""`pigeonhole` and `python -m pigeonhole`: run a command, say what went wrong, end."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from core.errors import PigeonholeError
from pigeonhole.cli import app
from pigeonhole.escape import printable_lines


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding cannot show is spelled out; it must not end us.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = app(arguments, prog_name="pigeonhole", standalone_mode=False)
    except PigeonholeError as error:
        code = _complain(str(error))
    except typer.Abort:
        code = _complain("Stopped.")
    except Exception as error:  # noqa: BLE001 - the last word: said in a sentence, or raised again
        code = _explain(error)
    sys.exit(code or 0)


def _explain(error: Exception) -> int:
    """The exit code for an error that others raised; one that is our own bug goes on."""
    if isinstance(error, typer.exceptions.TyperException):
        return _usage(error)
    if isinstance(error, OSError):
        return _complain(f"{error}. `pigeonhole doctor` may know why.")
    if isinstance(error, ModuleNotFoundError) and error.name in ("psycopg", "psycopg2"):
        return _complain("PostgreSQL needs its driver: pip install 'psycopg[binary]'.")
    if type(error).__module__.startswith("sqlalchemy."):
        reason = getattr(error, "orig", None) or error
        return _complain(f"The database: {reason}. `pigeonhole doctor` may know why.")
    raise error


def _complain(message: str) -> int:
    print(f"Error: {printable_lines(message)}", file=sys.stderr)  # noqa: T201
    return 1


def _usage(error: typer.exceptions.TyperException) -> int:
    message = printable_lines(error.format_message())
    if type(error).__name__ != "NoArgsIsHelpError":  # of that, the message is the help
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "pigeonhole"
        message = f"Error: {message}\nTry `{path} --help`."
    if type(error).__name__ == "NoSuchOption":
        message += " File names that begin with - go after a lone --."
    print(message, file=sys.stderr)  # noqa: T201
    return error.exit_code


if __name__ == "__main__":
    main()
