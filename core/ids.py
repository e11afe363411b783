"""Identifiers that sort by the time they were made."""

import secrets
import threading
import time
import uuid

_lock = threading.Lock()
_last = 0


def uuid7() -> uuid.UUID:
    """A version 7 UUID (RFC 9562, section 5.7), strictly increasing within this process.

    The 12 bits after the milliseconds count up within one millisecond (method 1 of section 6.2);
    when they are used up, or the clock steps back, the time field runs ahead of the clock instead.
    """
    global _last  # noqa: PLW0603 - one counter per process is the point
    with _lock:
        now = (time.time_ns() // 1_000_000) << 12
        _last = now if now > _last else _last + 1
        stamp = _last
    milliseconds, counter = stamp >> 12, stamp & 0xFFF
    value = (milliseconds << 80) | (0x7 << 76) | (counter << 64) | (0b10 << 62)
    return uuid.UUID(int=value | secrets.randbits(62))
