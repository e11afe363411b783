"""The load client against a real server of ours."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse

from benchmarks import client

PHOTOS = [b"\xff\xd8 one", b"\xff\xd8 two"]


@pytest.fixture
def server() -> Iterator[tuple[int, list[bytes]]]:
    """Its port, and what was uploaded to it."""
    app, seen = FastAPI(), list[bytes]()

    @app.post("/predict")
    async def predict(file: UploadFile) -> JSONResponse:
        seen.append(await file.read())
        return JSONResponse({"file": file.filename}, 201)

    @app.post("/chunks")
    async def chunks(file: UploadFile) -> StreamingResponse:
        seen.append(await file.read())
        return StreamingResponse(iter([b"a", b"b"]))

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(
            target=lambda: asyncio.run(running.serve(sockets=[listening])), daemon=True
        )
        thread.start()
        while not running.started:
            time.sleep(0.01)
        yield listening.getsockname()[1], seen
        running.should_exit = True
        thread.join()


@pytest.mark.parametrize("path", ["/predict", "/chunks"])
def test_every_answer_is_counted_and_no_two_uploads_are_the_same(
    server: tuple[int, list[bytes]], path: str
) -> None:
    port, seen = server

    load = client.load(port, client.forms(path, PHOTOS), clients=3, seconds=0.5)

    assert len(load.latencies_s) == len(seen) == len(set(seen)) > 3
    assert load.errors == 0
    assert all(data.startswith(tuple(PHOTOS)) for data in seen)


def test_a_refusal_is_an_error_and_no_answer(server: tuple[int, list[bytes]]) -> None:
    port, _ = server

    load = client.load(port, client.forms("/nowhere", PHOTOS), clients=1, seconds=0.2)

    assert load.latencies_s == []
    assert load.errors > 0
