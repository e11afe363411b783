"""The cookie of somebody who has signed in, and who may make a browser write."""

import pytest

from api import session

SECRET = "correct horse — battery"
NOW_S = 1_800_000_000


def test_a_sealed_date_is_good_until_then() -> None:
    value = session.seal(SECRET, NOW_S + 10)

    assert session.is_sealed(value, SECRET, NOW_S)
    assert not session.is_sealed(value, SECRET, NOW_S + 10)
    assert not session.is_sealed(value, "another key", NOW_S)
    assert SECRET not in value


@pytest.mark.parametrize("value", ["", ".", "x.y", "-1.x", "٣.x", "9" * 400 + ".x", "é.ü"])
def test_what_we_have_not_sealed_is_refused(value: str) -> None:
    assert not session.is_sealed(value, SECRET, NOW_S)


def test_a_later_date_needs_another_seal() -> None:
    _, _, seal = session.seal(SECRET, NOW_S + 10).partition(".")

    assert not session.is_sealed(f"{NOW_S + 9999}.{seal}", SECRET, NOW_S)


@pytest.mark.parametrize(
    ("method", "headers", "is_foreign"),
    [
        ("POST", {}, False),  # a program
        ("POST", {"sec-fetch-site": "same-origin"}, False),
        ("POST", {"sec-fetch-site": "none"}, False),
        ("POST", {"sec-fetch-site": "cross-site"}, True),
        ("PATCH", {"sec-fetch-site": "same-site"}, True),  # another port of this host
        ("DELETE", {"origin": "http://evil.example", "host": "127.0.0.1:8000"}, True),
        ("POST", {"origin": "null", "host": "127.0.0.1:8000"}, True),
        ("POST", {"origin": "http://127.0.0.1:9000", "host": "127.0.0.1:8000"}, True),
        ("POST", {"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000"}, False),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
    ],
)
def test_only_our_own_pages_make_a_browser_write(
    method: str, headers: dict[str, str], is_foreign: bool
) -> None:
    assert session.is_foreign(method, headers) is is_foreign
