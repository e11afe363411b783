"""Exports hold every row, whatever its names, and never all of them at once."""

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.types import LabelScore, ModelRef
from storage import export as module
from storage.export import FORMATS, MEDIA_TYPES, Format, export, to_json
from storage.results import Result, ResultError

NAMES = (
    "plain.png",
    "=cmd|' C calc'!A0",
    "+1",
    "-2",
    "@SUM(A1)",
    "\ttab",
    "\rreturn",
    "\nline",
    "＝1",  # noqa: RUF001 - full width, which some spreadsheets take as well
    "'quoted'",
    "''",
    'comma, "quote"; semicolon',
    "\x1b[31mred\x9b0m\x7f",
    "\u202egnp.exe",
    "日本語 🏺",
    "\u2028",
    "\\xff",
    "nul\0",
)


def result(filename: str = "a.png", *, label: str = "dog") -> Result:
    return Result(
        id="0192",
        filename=filename,
        source="batch",
        status="classified",
        label=label,
        confidence=0.875,
        scores=(LabelScore(label, 0.875), LabelScore("cat", 0.125)),
        needs_review=False,
        corrected_label=None,
        reviewed_at=None,
        error=None,
        sha256="ab" * 32,
        size_bytes=7,
        width_px=4,
        height_px=3,
        format="PNG",
        path=f"sorted/{filename}",
        duplicate_of=None,
        model=ModelRef("m", "1"),
        received_at=datetime(2026, 11, 22, 12, 0, 0, 250_000, UTC),
        classified_at=datetime(2026, 11, 22, 12, 0, 1, tzinfo=UTC),
        latency_ms=1.5,
    )


def failed() -> Result:
    whole = result()
    nothing = {"label": None, "confidence": None, "scores": (), "format": None}
    changes = {**nothing, "width_px": None, "height_px": None, "path": None}
    fields = {name: getattr(whole, name) for name in Result.__dataclass_fields__} | changes
    fields |= {"status": "quarantined", "error": ResultError("empty_file", "=Send it again.")}
    return Result(**fields)


def whole(rows: list[Result], file_format: Format) -> bytes:
    return b"".join(export(rows, file_format))


def read_csv(data: bytes) -> list[dict[str, str]]:
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))
    return [{name: cell.removeprefix("'") for name, cell in row.items()} for row in rows]


def test_every_format_has_a_media_type() -> None:
    assert set(MEDIA_TYPES) == set(FORMATS)


def test_json_is_one_array_of_the_results() -> None:
    rows = [result(name) for name in NAMES]
    assert json.loads(whole(rows, "json")) == [row.to_dict() for row in rows]


def test_jsonl_is_one_result_a_line() -> None:
    rows = [result(name) for name in NAMES]
    lines = whole(rows, "jsonl").decode().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [row.to_dict() for row in rows]


@pytest.mark.parametrize("file_format", ["json", "jsonl"])
def test_json_holds_nothing_that_a_terminal_obeys(file_format: Format) -> None:
    text = whole([result(name, label=name) for name in NAMES], file_format).decode()
    odd = {character for character in text if not character.isprintable()}
    assert odd == {"\n"}


def test_csv_gives_back_every_name_without_its_apostrophe() -> None:
    rows = read_csv(whole([result(name) for name in NAMES], "csv"))
    assert tuple(row["filename"] for row in rows) == NAMES


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_csv_gives_back_any_text(names: list[str]) -> None:
    rows = read_csv(whole([result(name) for name in names], "csv"))
    assert [row["filename"] for row in rows] == names


@given(st.text())
def test_no_cell_of_csv_is_a_formula(name: str) -> None:
    data = whole([result(name, label=name)], "csv").decode()
    (row,) = list(csv.reader(io.StringIO(data, newline="")))[1:]
    assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_csv_spells_out_truth_time_and_nothing() -> None:
    (row,) = read_csv(whole([failed()], "csv"))
    assert row["needs_review"] == "false"
    assert row["received_at"] == "2026-11-22T12:00:00.250Z"
    assert (row["label"], row["confidence"], row["width"]) == ("", "", "")
    assert (row["error_code"], row["error_detail"]) == ("empty_file", "=Send it again.")
    assert row["scores"] == "[]"


def test_csv_keeps_scores_as_json() -> None:
    (row,) = read_csv(whole([result()], "csv"))
    assert json.loads(row["scores"]) == result().to_dict()["scores"]


def test_parquet_has_types_and_gives_back_every_name() -> None:
    rows = [*(result(name, label=name) for name in NAMES), failed()]
    table = pyarrow.parquet.read_table(io.BytesIO(whole(rows, "parquet")))
    found = table.to_pylist()
    assert [row["filename"] for row in found] == [row.filename for row in rows]
    assert found[0]["received_at"] == rows[0].received_at
    assert found[0]["scores"] == rows[0].to_dict()["scores"]
    assert found[0]["bytes"] == 7
    assert found[0]["needs_review"] is False
    assert found[-1]["label"] is None
    assert found[-1]["error_code"] == "empty_file"


def test_csv_and_parquet_have_the_columns_that_are_written_down() -> None:
    header = whole([], "csv").decode().strip().split(",")
    assert " ".join(header) in " ".join((module.__doc__ or "").split())
    assert pyarrow.parquet.read_table(io.BytesIO(whole([], "parquet"))).column_names == header


def test_nothing_to_export_is_a_valid_file() -> None:
    assert json.loads(whole([], "json")) == []
    assert whole([], "jsonl") == b""
    assert read_csv(whole([], "csv")) == []
    assert pyarrow.parquet.read_table(io.BytesIO(whole([], "parquet"))).num_rows == 0


@pytest.mark.parametrize("file_format", FORMATS)
def test_halves_of_surrogates_crash_no_format(file_format: Format) -> None:
    assert b"caf" in whole([result("caf\udce9.png", label="\ud800")], file_format)


def test_surrogates_survive_in_json() -> None:
    assert json.loads(to_json("caf\udce9")) == "caf\udce9"


@pytest.mark.parametrize("file_format", FORMATS)
def test_pieces_leave_before_all_rows_have_come(file_format: Format) -> None:
    given_rows = 0

    def rows() -> Iterator[Result]:
        nonlocal given_rows
        for given_rows in range(1, 20_001):
            yield result(f"{given_rows}.png")

    pieces = export(rows(), file_format)
    next(pieces)
    assert given_rows < 20_000
    assert max(map(len, pieces)) < 300_000
    assert given_rows == 20_000


@pytest.mark.parametrize("file_format", ["csv", "json", "jsonl"])
def test_a_row_can_leave_as_soon_as_it_has_come(file_format: Format) -> None:
    rows = iter([result("first.png"), result("second.png")])
    pieces = export(rows, file_format, piece_bytes=1)
    while b"first.png" not in next(pieces):
        pass
    assert next(rows).filename == "second.png"
