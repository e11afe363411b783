"""The cookie of somebody who has signed in, and who may make a browser write."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from api import session
from api.keyring import Keyring
from core.settings import Settings
from storage.keys import Key
from storage.store import Store

NOW_S = 1_800_000_000
SECRET = "correct horse — battery"


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[Keyring]:
    settings = Settings(_env_file=None, home=tmp_path, api_key=SECRET)  # type: ignore[call-arg, arg-type]
    with closing(Store.open(settings.database_url)) as store:
        yield Keyring(settings, store.database)


@pytest.fixture
def key(keyring: Keyring) -> Key:
    found = keyring.find(SECRET)
    assert found is not None
    return found


def test_a_sealed_date_is_good_until_then(keyring: Keyring, key: Key) -> None:
    cookies = {session.COOKIE: session.seal(key, NOW_S + 10)}

    assert session.key_of(cookies, keyring, NOW_S) == key
    assert session.key_of(cookies, keyring, NOW_S + 10) is None
    assert SECRET not in cookies[session.COOKIE]
    assert key.sha256 not in cookies[session.COOKIE]


@pytest.mark.parametrize(
    "value", ["", ".", "x.y.z", "settings.-1.x", "settings.٣.x", f"settings.{'9' * 400}.x", "é.ü.ö"]
)
def test_what_we_have_not_sealed_is_refused(keyring: Keyring, value: str) -> None:
    assert session.key_of({session.COOKIE: value}, keyring, NOW_S) is None


def test_a_later_date_or_another_key_needs_another_seal(keyring: Keyring, key: Key) -> None:
    seal = session.seal(key, NOW_S + 10).rpartition(".")[2]
    of_another = session.seal(replace(key, sha256="0" * 64), NOW_S + 10)

    for value in (f"{key.id}.{NOW_S + 9999}.{seal}", of_another):
        assert session.key_of({session.COOKIE: value}, keyring, NOW_S) is None


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
