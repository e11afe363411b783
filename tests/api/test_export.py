"""GET /v1/results/export."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from pyarrow import parquet
from starlette.testclient import TestClient

from tests.api.test_predict import raw_form
from tests.api.test_results import fill

HOSTILE = ("=cmd|'!A0.png", "+1+1.png", "-2.png", "@SUM(A1).png", "'quoted.png")


def rows(client: TestClient, query: str) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/results/export?{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="results-')
    kind = answer.headers["Content-Type"].partition(";")[0]
    if kind == "text/csv":
        return list(csv.DictReader(io.StringIO(answer.text)))
    if kind == "application/jsonl":
        return [json.loads(line) for line in answer.text.splitlines()]
    assert kind == "application/vnd.apache.parquet"
    table: list[dict[str, Any]] = parquet.read_table(io.BytesIO(answer.content)).to_pylist()
    return table


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_every_format_holds_what_matches_and_nothing_else(
    client: TestClient, file_format: str
) -> None:
    fill(client)

    everything = rows(client, f"format={file_format}")
    some = rows(client, f"format={file_format}&label=red&source=upload&order=asc")

    assert len(everything) == 12
    listed = client.get("/v1/results?limit=500").json()["items"]
    assert [row["id"] for row in everything] == [item["id"] for item in listed]
    assert [int(row["bytes"]) - 100 for row in some] == [6, 9]
    assert rows(client, f"format={file_format}&label=nobody") == []


def test_no_file_name_becomes_a_formula(client: TestClient, paint: Callable[..., bytes]) -> None:
    for name in HOSTILE:
        assert client.post("/v1/predict", **raw_form(paint("red"), name)).status_code == 201

    cells = [row["filename"] for row in rows(client, "format=csv&order=asc")]

    assert all(cell.startswith("'") for cell in cells)
    assert [cell[1:] for cell in cells] == list(HOSTILE)
    for line in client.get("/v1/results/export").text.splitlines()[1:]:
        assert not any(cell.startswith(tuple("=+-@")) for cell in next(csv.reader([line])))


@pytest.mark.parametrize("query", ["format=xml", "limit=3", "cursor=x", "status=done"])
def test_what_cannot_be_exported_is_refused(client: TestClient, query: str) -> None:
    answer = client.get(f"/v1/results/export?{query}")

    assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
