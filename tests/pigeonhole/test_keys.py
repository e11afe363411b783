"""`pigeonhole keys`: who may use the API."""

from collections.abc import Callable
from typing import Any

Call = Callable[..., Any]


def test_a_key_is_printed_once_listed_by_name_and_revoked(run: Call) -> None:
    made = run("keys", "add", "camera-1", "--scope", "write", "--scope", "read")
    key = made.text.strip()
    assert key.startswith("ph_")
    assert "not shown again" in made.err

    (shown,) = run("keys", "list", "--json").json
    assert (shown["name"], shown["scopes"]) == ("camera-1", ["read", "write"])
    listed = run("keys", "list")
    assert "camera-1" in listed.text
    assert key not in listed.text

    assert run("keys", "revoke", "camera-1").code == 0
    assert run("keys", "list", "--json").json == []


def test_a_name_that_is_taken_or_unknown_is_said(run: Call) -> None:
    run("keys", "add", "a")

    again = run("keys", "add", "a")
    assert (again.code, "revoke that one" in again.err) == (1, True)
    unknown = run("keys", "revoke", "b")
    assert (unknown.code, "keys list" in unknown.err) == (1, True)
    assert run("keys", "add", "c", "--scope", "everything").code == 2
