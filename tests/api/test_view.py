"""How numbers are written."""

import pytest

from api import view


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.984, 0, "98 %"),
        (0.5, 1, "50.0 %"),
        (1.0, 0, "100 %"),
        (0.9999, 0, "99 %"),
        (0.99999, 1, "99.9 %"),
        (0.001, 0, "< 1 %"),
        (0.0, 0, "0 %"),
        (None, 0, ""),
    ],
)
def test_a_share_is_never_rounded_to_certainty(share: float | None, digits: int, text: str) -> None:
    assert view.percent(share, digits) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (48_213, "48 kB"), (3 * 10**12, "3000 GB")],
)
def test_sizes_have_two_digits_that_matter(number: int, text: str) -> None:
    assert view.size(number) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(0.2, "< 1 ms"), (41.2, "41 ms"), (2345.0, "2.3 s")]
)
def test_durations_are_rounded(milliseconds: float, text: str) -> None:
    assert view.duration(milliseconds) == text
