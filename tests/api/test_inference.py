"""Open Inference Protocol v2, by an unmodified tritonclient and by hand."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from core.bundle import read_manifest
from tests.api.conftest import Server, parts

Paint = Callable[..., bytes]


@pytest.fixture
def triton(server: Server) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(f"127.0.0.1:{server.port}")
    yield client
    client.close()


def image_input(*images: bytes, binary: bool = True) -> InferInput:
    tensor = InferInput("image", [len(images)], "BYTES")
    words = images if binary else [base64.b64encode(image) for image in images]
    tensor.set_data_from_numpy(np.array(words, dtype=np.object_), binary_data=binary)
    return tensor


def test_triton_finds_server_and_model(triton: InferenceServerClient, rgb_bundle: Path) -> None:
    version = read_manifest(rgb_bundle).version

    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("rgb")
    assert triton.is_model_ready("rgb", version)
    assert not triton.is_model_ready("rgb", "0")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    metadata = triton.get_model_metadata("rgb", version)
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["image", "pixels"]
    assert metadata["inputs"][1]["shape"] == [-1, 8, 8, 3]


@pytest.mark.parametrize("binary", [True, False])
def test_triton_classifies_encoded_images(
    triton: InferenceServerClient, paint: Paint, binary: bool
) -> None:
    tensor = image_input(paint("red"), paint("blue", (40, 9), "JPEG"), binary=binary)

    answer = triton.infer("rgb", [tensor])

    assert list(answer.as_numpy("label")) == [b"red", b"blue"]
    scores = answer.as_numpy("scores")
    assert scores.shape == (2, 3)
    assert np.allclose(scores.sum(axis=1), 1)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_classifies_pixels(triton: InferenceServerClient, binary: bool) -> None:
    tensor = InferInput("pixels", [1, 8, 8, 3], "UINT8")
    green = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    green[..., 1] = 200
    tensor.set_data_from_numpy(green, binary_data=binary)
    wanted = InferRequestedOutput("scores", binary_data=binary)

    answer = triton.infer("rgb", [tensor], outputs=[wanted], request_id="seven")

    assert answer.as_numpy("scores").argmax() == 1
    assert answer.get_response()["id"] == "seven"
    assert answer.as_numpy("label") is None


@pytest.mark.parametrize("binary", [True, False])
def test_triton_asks_for_the_best_classes(
    triton: InferenceServerClient, paint: Paint, binary: bool
) -> None:
    wanted = InferRequestedOutput("scores", binary_data=binary, class_count=2)

    answer = triton.infer("rgb", [image_input(paint("red"))], outputs=[wanted])

    words = answer.as_numpy("scores")
    assert words.shape == (1, 2)
    first = words[0, 0]
    score, index, label = (first if isinstance(first, str) else first.decode()).split(":")
    assert (index, label) == ("0", "red")
    assert float(score) == pytest.approx(1)


def test_triton_is_told_what_is_wrong(triton: InferenceServerClient, paint: Paint) -> None:
    for model, images, said in (
        ("other", [paint("red")], "What serves is rgb"),
        ("rgb", [paint("red"), b"no image"], "Image 1: This is not an image"),
    ):
        with pytest.raises(InferenceServerException, match=said):
            triton.infer(model, [image_input(*images)])


def test_the_dialects_say_the_same(client: TestClient, paint: Paint) -> None:
    data = paint((90, 91, 92), (50, 40), "JPEG")
    stored = client.post("/v1/predict", files={"file": ("a.jpg", data)}).json()
    words = [[base64.b64encode(data).decode()]]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1, 1], "data": words}

    answer = client.post("/v2/models/rgb/infer", json={"inputs": [tensor]}).json()

    scores, labels = answer["outputs"]
    assert labels["data"] == [stored["label"]]
    by_label = {item["label"]: item["score"] for item in stored["scores"]}
    assert scores["data"] == pytest.approx([by_label[x] for x in ("red", "green", "blue")])
    assert parts(client).store.count() == 1


def pixels(**changes: object) -> dict[str, Any]:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0] * 192}
    return {"inputs": [tensor | changes]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [7]},
        pixels(name="other"),
        pixels(datatype="FP32"),
        pixels(shape=[]),
        pixels(shape=[1, 8, 8]),
        pixels(shape=[2, 8, 8, 3]),
        pixels(shape=[0, 8, 8, 3]),
        pixels(shape=[10**9, 8, 8, 3]),
        pixels(data=[256] * 192),
        pixels(data=[10**30] * 192),
        pixels(data=["x"] * 192),
        pixels(data=[[1], [1, 2]]),
        pixels(data=None),
        pixels(data=[], parameters={"binary_data_size": 10}),
        pixels(data=[], parameters={"binary_data_size": -1}),
        {"inputs": pixels()["inputs"] * 2},
        {**pixels(), "outputs": [{"name": "other"}]},
        {**pixels(), "outputs": [{"name": "scores", "parameters": {"classification": -1}}]},
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["%"]}]},
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": [""]}]},
    ],
)
def test_tensors_that_cannot_be_used_are_refused(client: TestClient, body: object) -> None:
    answer = client.post("/v2/models/rgb/infer", json=body)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_tensor")
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "length"),
    [(b"{", None), (b"[" * 100_000, None), (b"{}", "3"), (b"{}", "-1"), (b"{}x", "two")],
)
def test_a_body_that_is_mislabelled_is_refused(
    client: TestClient, body: bytes, length: str | None
) -> None:
    headers = {"Inference-Header-Content-Length": length} if length else {}

    answer = client.post("/v2/models/rgb/infer", content=body, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_tensor")


def test_what_is_behind_the_json_must_be_whole(client: TestClient, paint: Paint) -> None:
    image = paint("blue")
    data = len(image).to_bytes(4, "little") + image
    for cut, status in ((len(data), 200), (len(data) - 1, 400), (3, 400)):
        head = (
            '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], '
            f'"parameters": {{"binary_data_size": {cut}}}}}]}}'
        ).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        answer = client.post("/v2/models/rgb/infer", content=head + data[:cut], headers=headers)
        assert answer.status_code == status, answer.text


def test_a_server_that_cannot_work_says_so(client: TestClient) -> None:
    assert client.get("/v2/health/ready").json() == {"ready": True}

    parts(client).engine.close()

    answer = client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
