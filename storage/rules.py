"""What in the inbox is none of our business, and what must wait for its done-file."""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from functools import cached_property
from typing import Self

from core.settings import Settings

# How files of our own in the inbox begin: heartbeats and the like, which are nobody's business.
RESERVED = ".pigeonhole-"
# A copy often begins as an empty file; one that stays empty this many times longer is just empty.
EMPTY_PATIENCE = 10

# Somebody's half-written files, and what systems leave in folders.
IGNORED = (
    ".*",
    "~*",
    "*~",
    "*.part",
    "*.partial",
    "*.tmp",
    "*.crdownload",
    "*.download",
    "*.filepart",
    "*.swp",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eaDir",
    "__MACOSX",
)


@dataclass(frozen=True)
class Rules:
    """Patterns of names to ignore, and the suffix of done-files (empty: there are none).

    A pattern with a slash is matched with the whole path below the inbox, any other with the name.
    """

    patterns: tuple[str, ...] = IGNORED
    done_suffix: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The patterns that everybody needs and those of this inbox."""
        return cls((*IGNORED, *settings.ignore_patterns), settings.done_suffix)

    def ignored_by(self, path: str) -> str | None:
        """The pattern that keeps out this file or folder; `path` is relative to the inbox."""
        name = path.rpartition("/")[2]
        if not self._any_pattern.match(name) and not self._path_patterns:
            return None
        return next((pattern for pattern in self.patterns if _matches(pattern, path, name)), None)

    @cached_property
    def _any_pattern(self) -> re.Pattern[str]:
        """One look instead of fifteen: nearly every file is none of these."""
        names = (pattern for pattern in self.patterns if "/" not in pattern)
        return re.compile("|".join(map(translate, names)))

    @cached_property
    def _path_patterns(self) -> bool:
        return any("/" in pattern for pattern in self.patterns)


def _matches(pattern: str, path: str, name: str) -> bool:
    return fnmatchcase(path if "/" in pattern else name, pattern.lstrip("/"))


def is_ignored(name: str) -> bool:
    """Whether everybody ignores a file or folder of this name."""
    return Rules().ignored_by(name) is not None
