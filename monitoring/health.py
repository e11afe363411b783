"""Is it alive, is it ready, and if not, why: one report for both processes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Check = Callable[[], str | None]  # None: fine; a sentence: what is wrong and what to do


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of /livez and /readyz: every check by name, with its complaint or None.

    `notes` should be known, but keep nothing from working.
    """

    complaints: dict[str, str | None]
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def is_ok(self) -> bool:
        """Whether nobody complains."""
        return not any(self.complaints.values())

    @property
    def status(self) -> int:
        """The HTTP status: 200 or 503."""
        return 200 if self.is_ok else 503

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "status": "ok" if self.is_ok else "unavailable",
            "checks": {name: text or "ok" for name, text in self.complaints.items()},
        } | ({"notes": self.notes} if self.notes else {})


def examine(checks: Mapping[str, Check], notes: Mapping[str, Check] | None = None) -> Report:
    """Run every check; one that raises is a complaint, not a crash. Notes never make it unready."""
    found = {name: _complaint(check) for name, check in (notes or {}).items()}
    return Report(
        {name: _complaint(check) for name, check in checks.items()},
        {name: text for name, text in found.items() if text},
    )


def _complaint(check: Check) -> str | None:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - a health check must answer, whatever broke
        return f"{type(error).__name__}: {error}"
