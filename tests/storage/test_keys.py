"""Keys of the API: hashed, named, revoked."""

import sqlite3
from pathlib import Path

import pytest

from storage import keys
from storage.database import Database
from storage.store import Store
from tests.storage.conftest import NOW


def test_a_key_is_known_by_its_hash_alone(store: Store, url: str) -> None:
    key = keys.add(store.database, "camera-1", ["write", "read"], NOW)
    other = keys.add(store.database, "anna@home", ["admin"], NOW)
    known = keys.every(store.database)

    assert [item.name for item in known] == ["camera-1", "anna@home"]
    found = keys.match(known, key)
    assert found
    assert (found.name, found.scopes, found.created_at) == ("camera-1", {"read", "write"}, NOW)
    assert (found.may("write"), found.may("review"), known[1].may("review")) == (True, False, True)
    assert keys.match(known, key[:-1]) is None
    assert len(key) > 40
    store.close()
    folder = Path(url.removeprefix("sqlite:///")).parent
    for file in folder.iterdir():
        assert key.encode() not in file.read_bytes()
        assert other.encode() not in file.read_bytes()


def test_a_name_is_given_once_and_can_be_revoked(store: Store) -> None:
    keys.add(store.database, "a", ["read"], NOW)
    for name in ("a", "", "two words", "x" * 65, "a\n"):
        with pytest.raises(keys.KeyNameError):
            keys.add(store.database, name, ["read"], NOW)

    keys.revoke(store.database, "a")
    with pytest.raises(keys.KeyNameError, match="keys list"):
        keys.revoke(store.database, "a")
    assert keys.every(store.database) == []


def test_all_processes_share_one_secret_for_ever(store: Store, url: str) -> None:
    first = keys.shared_secret(store.database, "cursor")
    other = Database(url)

    assert len(first) == 32
    assert keys.shared_secret(other, "cursor") == first
    assert keys.shared_secret(other, "another") != first
    other.close()
    rows = sqlite3.connect(url.removeprefix("sqlite:///"))
    assert rows.execute("SELECT count(*) FROM secrets").fetchone() == (2,)
    rows.close()
