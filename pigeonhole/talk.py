"""What is said to the person at the keyboard, on stderr; scripts need not listen."""

import sys

from pigeonhole.escape import printable_lines


def say(message: str) -> None:
    """One or more lines; strangers' text is spelled out."""
    print(printable_lines(message), file=sys.stderr, flush=True)  # noqa: T201


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
