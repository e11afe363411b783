"""Strangers' text on a terminal: no control character, no line break, no trick of direction."""

import os


def printable(text: object) -> str:
    """One line that a terminal shows and does not obey: what is not printable is spelled out."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(map(_spelled, shown))


def printable_lines(text: str) -> str:
    """The same for a message of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def _spelled(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # a byte of a name that is not UTF-8 (`os.fsdecode`)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def as_text(path: str) -> str:
    """A path as rows have it: bytes that are not UTF-8 are spelled out as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
