"""Cursors that cannot be made up: what the store gives out, with a signature of ours."""

import base64
import hmac

from storage.results import CursorError

_MAC_BYTES = 16


def sign(cursor: str, secret: bytes) -> str:
    """The cursor as clients see it; good in every process that has the secret."""
    return f"{cursor}.{_mac(cursor, secret)}"


def verify(signed: str, secret: bytes) -> str:
    """The cursor as the store gave it out; raises `CursorError`."""
    cursor, _, mac = signed.rpartition(".")
    if not hmac.compare_digest(mac.encode(), _mac(cursor, secret).encode()):
        raise CursorError("This cursor is not one of ours. Start again without it.")
    return cursor


def _mac(cursor: str, secret: bytes) -> str:
    digest = hmac.digest(secret, b"cursor " + cursor.encode(), "sha256")[:_MAC_BYTES]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
