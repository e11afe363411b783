"""Structured logs on stderr, for people or as JSON. File names are escaped in both."""

import io
import logging
import sys
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, ExcInfo, WrappedLogger


def configure(log_format: Literal["console", "json"], process: str) -> None:
    """Send every log of this process, also those of libraries, to stderr in one form."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _named(process),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(log_format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    for noisy in ("alembic", "watchdog"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _named(process: str) -> structlog.typing.Processor:
    def add(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return add


def _renderers(log_format: Literal["console", "json"]) -> list[Any]:
    # A traceback must not show local variables: keys and strangers' bytes are among them.
    if log_format == "json":
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        return [
            structlog.processors.ExceptionRenderer(frames),
            structlog.processors.JSONRenderer(),
        ]
    # `repr_native_str`: a newline in a file name must not forge a line of the log.
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        repr_native_str=True,
        pad_event_to=0,
        exception_formatter=_indented,
    )
    return [_one_line, renderer]


def _one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Libraries put strangers' text into their messages; nor may that forge a line."""
    event["event"] = _escaped(str(event["event"]))
    return event


def _indented(out: TextIO, exception: ExcInfo) -> None:
    """A traceback whose lines cannot be taken for lines of the log."""
    plain = io.StringIO()
    structlog.dev.plain_traceback(plain, exception)
    out.write("".join(f"\n    {_escaped(line)}" for line in plain.getvalue().strip().split("\n")))


def _escaped(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
