"""FastAPI and a model, as a tutorial writes it: `uvicorn benchmarks.peers.plain_fastapi:app`."""

from typing import Any

from fastapi import FastAPI, UploadFile

from benchmarks.peers.model import best, load, pixels

app = FastAPI()
run = load()


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, Any]:
    """One image in, one answer out."""
    return best(run(pixels(file.file.read())[None])[0])


@app.get("/health")
def health() -> dict[str, str]:
    """It has started."""
    return {"status": "ok"}
