"""What is written about the API: Swagger, the OpenAPI document, docs/rest.md."""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from starlette.testclient import TestClient

from api import schemas
from api.problems import CATALOG, MEDIA_TYPE
from monitoring import webhooks
from storage.outbox import Event
from tests.api.conftest import Server, parts

# swagger-ui-dist 5.35.0 as npm has it
SWAGGER = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


def test_swaggers_own_form_classifies_an_image(
    page: Page, server: Server, paint: Callable[..., bytes]
) -> None:
    page.goto(f"{server.url}/docs")
    operation = page.locator("#operations-predict-predict")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    image = {"name": "sea.png", "mimeType": "image/png", "buffer": paint("blue")}
    operation.locator("input[type=file]").set_input_files(image)  # type: ignore[arg-type]
    operation.get_by_role("button", name="Execute").click()

    answer = operation.locator(".live-responses-table .response")
    answer.wait_for()
    assert answer.locator(".response-col_status").inner_text().startswith("201")
    assert '"label": "blue"' in answer.inner_text()
    assert '"filename": "sea.png"' in answer.inner_text()


def test_swagger_sends_the_key_that_it_is_given(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/docs")
    page.locator("button.authorize").first.click()
    page.get_by_label("Value").fill("a key")
    page.locator(".auth-btn-wrapper button.authorize").click()
    page.locator(".btn-done").click()
    operation = page.locator("#operations-model-get_labels")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    with page.expect_request("**/v1/labels") as asked:
        operation.get_by_role("button", name="Execute").click()

    assert asked.value.headers["x-api-key"] == "a key"


def test_swagger_is_the_very_files_of_its_makers(repository: Path) -> None:
    folder = repository / "api" / "web" / "swagger"

    for name, digest in SWAGGER.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert "Apache License" in (folder / "LICENSE").read_text("utf-8")
    assert "SmartBear" in (folder / "NOTICE").read_text("utf-8")


def test_swagger_is_a_page_of_our_own_files(client: TestClient) -> None:
    answer = client.get("/docs")

    for path in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
        assert client.get(f"/{path}").status_code == 200, path
    assert not re.search(r"<script>|style=|https?://", answer.text)


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for operation in item.values():
            yield path, operation


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_the_document_is_openapi_3_1_and_has_what_it_names(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    named = {reference.rpartition("/")[2] for reference in references(document)}
    schemas = set(document["components"]["schemas"])
    assert named == schemas
    assert "HTTPValidationError" not in schemas


def test_every_operation_has_a_name_a_tag_and_its_problems(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names)) >= 8
    tags = {tag["name"] for tag in document["tags"]}

    for path, operation in operations(document):
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["tags"]) <= tags
        for status, answer in operation["responses"].items():
            assert answer["description"], (path, status)
            for media_type, content in answer.get("content", {}).items():
                schema = content.get("schema", {})
                is_named = "$ref" in schema or media_type.startswith("text/")
                assert is_named or schema["format"] == "binary", (path, status)
                if int(status) >= 400 and path != "/readyz":
                    assert media_type == MEDIA_TYPE
        assert "500" in operation["responses"]
        is_data = path.startswith("/v") and not path.startswith("/v2/health")
        assert ("401" in operation["responses"]) == is_data
        assert ("security" in operation) == is_data


def test_every_code_but_the_general_ones_is_shown_at_a_route(document: dict[str, Any]) -> None:
    shown = {
        code
        for _, operation in operations(document)
        for answer in operation["responses"].values()
        for code in answer.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {})
    }

    assert shown == set(CATALOG) - {"not_found", "method_not_allowed", "unknown_host"}


def test_the_examples_are_what_they_are_examples_of(document: dict[str, Any]) -> None:
    (result,) = document["components"]["schemas"]["Result"]["examples"]
    schemas.Result.model_validate(result)
    for _, operation in operations(document):
        for answer in operation["responses"].values():
            for example in (
                answer.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {}).values()
            ):
                schemas.Problem.model_validate(example["value"])


def test_the_webhook_is_in_the_document_as_it_is_sent(
    document: dict[str, Any], client: TestClient, upload: Callable[..., dict[str, Any]]
) -> None:
    operation = document["webhooks"]["result.created"]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["schema"]["$ref"].endswith("/ResultCreated")
    (example,) = document["components"]["schemas"]["ResultCreated"]["examples"]
    result = parts(client).store.result(upload()["id"])
    assert result

    sent = json.loads(webhooks.body_of(Event(1, 1, datetime.now(UTC), result)))

    for message in (sent, example):
        schemas.ResultCreated.model_validate(message)
    names = [item["name"] for item in operation["parameters"] if item["required"]]
    assert names == ["webhook-id", "webhook-timestamp", "webhook-signature"]


@pytest.fixture(scope="module")
def page_text(repository: Path) -> str:
    return (repository / "docs" / "rest.md").read_text("utf-8")


def test_the_commands_of_the_page_work(
    page_text: str, server: Server, tmp_path: Path, paint: Callable[..., bytes]
) -> None:
    (tmp_path / "dog.jpg").write_bytes(paint("red", (64, 48), "JPEG"))
    (tmp_path / "cat.jpg").write_bytes(paint("blue", (64, 48), "JPEG"))
    before = 'curl() { command curl -sS --fail-with-body "$@" && echo; }\nset -e -o pipefail\n'
    environment = {**os.environ, "PIGEONHOLE_API_KEY": "secret"}

    blocks = re.findall(r"```sh\n(.*?)```", page_text, re.DOTALL)
    assert len(blocks) >= 8
    first = "curl -F file=@cat.jpg http://127.0.0.1:8000/v1/predict"  # two rows for two pages
    for block in [first, *blocks]:
        done = subprocess.run(
            ["bash", "-c", before + block.replace("http://127.0.0.1:8000", server.url)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_the_page_has_every_code_with_its_status_and_remedy(page_text: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| (.*) \|$", page_text, re.MULTILINE)

    assert rows == [
        (code, str(kind.status), f"{kind.title}. {kind.remedy}") for code, kind in CATALOG.items()
    ]


def test_the_page_has_every_route_parameter_and_field(
    page_text: str, document: dict[str, Any]
) -> None:
    for path, operation in operations(document):
        assert path in page_text
        for parameter in operation.get("parameters", []):
            assert parameter["name"] in page_text
    for field in schemas.Result.model_fields:
        assert f'"{field}"' in page_text
