"""Signing in with a key: a cookie that images, downloads and event streams can carry.

The cookie is no key: it names one and a date of expiry, sealed with what we keep of that key, and
is useless when the key is revoked. No script can read it (HttpOnly), and no page of another site
makes a browser send it (SameSite=Strict). Other servers on the same host are the same *site*, so
`is_foreign` refuses what their pages ask the browser to write.
"""

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.responses import Response

from api.keyring import Keyring
from storage.keys import Key

COOKIE = "pigeonhole_session"
LIFETIME_S = 12 * 3600
_SAFE = ("GET", "HEAD", "OPTIONS")


def seal(key: Key, expires_s: int) -> str:
    """The value of a cookie that is good until then, in seconds of the epoch."""
    said = f"{key.id}.{expires_s}"
    return f"{said}.{hmac.new(key.sha256.encode(), said.encode(), hashlib.sha256).hexdigest()}"


def key_of(cookies: Mapping[str, str], keyring: Keyring, now_s: float) -> Key | None:
    """The key that this visitor has signed in with, if cookie and key are still good."""
    value = cookies.get(COOKIE, "")
    identifier, _, rest = value.partition(".")
    expires, _, _ = rest.partition(".")
    key = keyring.by_id(identifier)
    if key is None or not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
        return None
    is_ours = hmac.compare_digest(value.encode(), seal(key, int(expires)).encode())
    return key if is_ours and now_s < int(expires) else None


def sign_in(response: Response, key: Key, now_s: float, *, is_https: bool) -> None:
    """Let the browser keep the cookie until it is closed, and no longer than `LIFETIME_S`."""
    value = seal(key, int(now_s) + LIFETIME_S)
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
