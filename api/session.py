"""Signing in with a key: a cookie that images, downloads and event streams can carry.

The cookie is no key: it is a date of expiry, sealed with the key, and useless when the key is
withdrawn. No script can read it (HttpOnly), and no other site's page makes a browser send it
(SameSite=Strict). Other servers on the same host are the same *site*, so `is_foreign` refuses
what their pages ask the browser to write.
"""

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.responses import Response

COOKIE = "pigeonhole_session"
LIFETIME_S = 12 * 3600
_SAFE = ("GET", "HEAD", "OPTIONS")


def is_same(given: str, secret: str) -> bool:
    """Whether this is the key; how long it takes says nothing."""
    return hmac.compare_digest(given.encode(), secret.encode())


def seal(secret: str, expires_s: int) -> str:
    """The value of a cookie that is good until then, in seconds of the epoch."""
    said = f"pigeonhole session until {expires_s}".encode()
    return f"{expires_s}.{hmac.new(secret.encode(), said, hashlib.sha256).hexdigest()}"


def is_sealed(value: str, secret: str, now_s: float) -> bool:
    """Whether this is a cookie of ours, and still good."""
    expires, _, _ = value.partition(".")
    if not (expires.isascii() and expires.isdigit()) or len(expires) > 12:
        return False
    return hmac.compare_digest(value.encode(), seal(secret, int(expires)).encode()) and now_s < int(
        expires
    )


def sign_in(response: Response, secret: str, now_s: float, *, is_https: bool) -> None:
    """Let the browser keep the cookie until it is closed, and no longer than `LIFETIME_S`."""
    value = seal(secret, int(now_s) + LIFETIME_S)
    response.set_cookie(COOKIE, value, httponly=True, samesite="strict", secure=is_https)


def sign_out(response: Response) -> None:
    """Let the browser forget the cookie."""
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")


def is_foreign(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a page of another origin makes a browser write here.

    Programs say neither Sec-Fetch-Site nor Origin. The former is right behind a proxy, too; the
    latter is for browsers of before 2023.
    """
    if method in _SAFE:
        return False
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")
