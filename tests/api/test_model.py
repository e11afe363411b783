"""GET /v1/model and /v1/labels."""

from pathlib import Path

from starlette.testclient import TestClient

from api.schemas import Labels, Model
from core.bundle import read_manifest


def test_the_model_is_what_its_manifest_says(client: TestClient, rgb_bundle: Path) -> None:
    answer = client.get("/v1/model")

    assert answer.status_code == 200
    said, written = Model.model_validate(answer.json()), read_manifest(rgb_bundle)
    assert (said.name, said.version) == (written.name, written.version)
    assert said.weights_sha256 == written.weights_sha256
    assert tuple(said.labels) == written.labels
    assert said.recipe.size_px == written.recipe.size_px
    assert (said.metrics, said.lineage) == (written.metrics, written.lineage)
    assert set(answer.json()) == set(written.to_dict())


def test_the_labels_come_in_the_order_of_the_model(client: TestClient) -> None:
    labels = Labels.model_validate(client.get("/v1/labels").json())

    assert labels.labels == ["red", "green", "blue"]
    assert labels.model.version == client.get("/v1/model").json()["version"]
