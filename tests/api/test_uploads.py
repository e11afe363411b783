"""File names, which are strangers' text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.uploads import MAX_NAME, base_name


@given(st.text(alphabet=st.characters(categories=None)))
def test_whatever_comes_in_a_file_name_comes_out(name: str) -> None:
    kept = base_name(name)

    assert 0 < len(kept) <= MAX_NAME
    assert not set(kept) & set("/\\\0\n\r")
    assert kept not in (".", "..")
    assert all(unicodedata.category(character) not in ("Cc", "Cs") for character in kept)
    assert kept.encode("utf-8")
    assert base_name(kept) == kept


@pytest.mark.parametrize("name", ["", "/", "..", "a/..", "\0", " \t", "C:\\"])
def test_a_name_of_nothing_is_upload(name: str) -> None:
    assert base_name(name) == "upload"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("x" * 256, "x" * 255),
        ("x" * 252 + ".png", "x" * 251 + ".png"),
        ("." + "x" * 300, "." + "x" * 254),
        ("a." + "x" * 300, "a." + "x" * 253),
    ],
)
def test_a_long_name_keeps_its_ending_where_it_is_one(name: str, kept: str) -> None:
    assert base_name(name) == kept
