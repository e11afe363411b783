r"""Names as text and back, whatever bytes they are made of."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.names import original, written


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"dog.jpg", "dog.jpg"),
        ("\N{GRINNING FACE} e\u0301\n.jpg".encode(), "\N{GRINNING FACE} e\u0301\n.jpg"),
        (b"bad\xff.jpg", r"bad\xff.jpg"),
        (rb"bad\xff.jpg", r"bad\x5cxff.jpg"),
        (rb"a\b.jpg", r"a\b.jpg"),
        (rb"\x5cxff", r"\x5cx5cxff"),
    ],
)
def test_a_name_is_its_own_text_unless_it_could_be_mistaken(name: bytes, text: str) -> None:
    assert written(os.fsdecode(name)) == text
    assert os.fsencode(original(text)) == name


@given(st.binary(max_size=40).map(lambda name: name.replace(b"\0", b"")))
@example(b"\\x\xff")
@example(rb"\x5c\x5cx5c")
def test_every_name_comes_back_byte_for_byte(name: bytes) -> None:
    text = written(os.fsdecode(name))
    text.encode("utf-8")
    assert os.fsencode(original(text)) == name


def test_what_no_file_can_be_called_becomes_text_all_the_same() -> None:
    written("a\0\ud800").encode("utf-8")
    assert written("a\0") == r"a\x00"
