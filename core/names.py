r"""File names as text, and back: exact for every name that a file system can hold.

A name that is UTF-8 is its own text. A byte that is not UTF-8 is written `\xNN`; so that nothing
else is written so, a backslash before `xNN` becomes `\x5c`. Databases, JSON and CSV hold only text;
files are opened by the original.
"""

import os
import re

_LOOKS_WRITTEN = re.compile(r"\\(?=x[0-9a-f]{2})")
_WRITTEN = re.compile(rb"\\x([0-9a-f]{2})")
_PLAIN = re.compile(r"[\x01-\x5b\x5d-\x7f]*")  # ASCII with no backslash, as nearly all names are
_NO_TEXT = re.compile("[\0\udc80-\udcff]")  # NUL, and what `os.fsdecode` makes of other bytes


def written(name: str) -> str:
    r"""Text for a name or path as the file system has it (`os.fsdecode`); `b"\xff"` is `\xff`."""
    if _PLAIN.fullmatch(name):
        return name
    text = _LOOKS_WRITTEN.sub(r"\\x5c", name)
    text = _NO_TEXT.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", text)
    return text.encode("utf-8", "backslashreplace").decode()  # other halves of surrogates


def original(text: str) -> str:
    """The name or path that `written` was given."""
    return os.fsdecode(_WRITTEN.sub(lambda found: bytes([int(found[1], 16)]), text.encode()))
