"""openapi.json: what clients were built against; it may grow, and break for nobody unseen."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.__main__ import document


def breaking_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What a client of `old` may stumble over in `new`."""
    return list(_of_paths(old, new))


def _of_paths(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for path, item in old["paths"].items():
        for method, operation in item.items():
            where = f"{method.upper()} {path}"
            found = new["paths"].get(path, {}).get(method)
            if found is None:
                yield f"{where} is gone"
                continue
            if found["operationId"] != operation["operationId"]:
                yield f"{where} has another operationId"
            yield from _of_parameters(where, operation, found)
            for status in set(operation["responses"]) - set(found["responses"]):
                if status < "300":
                    yield f"{where} answers {status} no more"
    for name, schema in old["components"]["schemas"].items():
        found = new["components"]["schemas"].get(name)
        if found is None:
            yield f"schema {name} is gone"
        else:
            yield from _of_schema(name, schema, found)


def _of_parameters(where: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    before = {item["name"]: item for item in old.get("parameters", [])}
    now = {item["name"]: item for item in new.get("parameters", [])}
    for name in set(before) - set(now):
        yield f"{where} takes {name} no more"
    for name, parameter in now.items():
        was_required = before.get(name, {}).get("required", False)
        if parameter.get("required", False) and not was_required:
            yield f"{where} asks for {name}"


def _of_schema(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for field, schema in old.get("properties", {}).items():
        found = new.get("properties", {}).get(field)
        if found is None:
            yield f"{name}.{field} is gone"
        elif found.get("type") != schema.get("type"):
            yield f"{name}.{field} is of another type"
    for field in set(new.get("required", [])) - set(old.get("required", [])):
        if field in old.get("properties", {}):
            yield f"{name}.{field} is required"


@pytest.fixture(scope="module")
def committed(repository: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((repository / "openapi.json").read_text("utf-8"))
    return found


def test_the_document_breaks_no_client(committed: dict[str, Any]) -> None:
    now = json.loads(document())

    assert breaking_changes(committed, now) == [], (
        "This breaks clients. If it must be, say so in CHANGELOG.md and run `make openapi`."
    )


def test_the_committed_document_is_the_present_one(committed: dict[str, Any]) -> None:
    now = json.loads(document())

    assert now == committed, "Run `make openapi` and commit openapi.json."


def change(document: dict[str, Any], kind: str) -> str:  # noqa: PLR0911 - one for each kind
    """Break something, as a careless hand might; what the test must say of it."""
    operation = document["paths"]["/v1/results"]["get"]
    result = document["components"]["schemas"]["Result"]
    match kind:
        case "path":
            del document["paths"]["/v1/labels"]
            return "GET /v1/labels is gone"
        case "parameter":
            operation["parameters"] = [p for p in operation["parameters"] if p["name"] != "q"]
            return "GET /v1/results takes q no more"
        case "required":
            operation["parameters"][0]["required"] = True
            return f"GET /v1/results asks for {operation['parameters'][0]['name']}"
        case "status":
            del operation["responses"]["200"]
            return "GET /v1/results answers 200 no more"
        case "name":
            operation["operationId"] = "other"
            return "GET /v1/results has another operationId"
        case "field":
            del result["properties"]["sha256"]
            return "Result.sha256 is gone"
        case _:
            result["properties"]["bytes"]["type"] = "string"
            return "Result.bytes is of another type"


@pytest.mark.parametrize(
    "kind", ["path", "parameter", "required", "status", "name", "field", "type"]
)
def test_a_breaking_change_is_seen(committed: dict[str, Any], kind: str) -> None:
    broken = json.loads(json.dumps(committed))
    said = change(broken, kind)

    assert breaking_changes(committed, broken) == [said]
