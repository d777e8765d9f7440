"""The peer of benchmarks/serving.py: the same model in ONNX Runtime behind FastAPI, as one writes it in an afternoon.

One text a call of the session, in the event loop, uvicorn with its fast parser and loop. The network runs in ONNX
Runtime, from the file that `bilstm export` writes; encoding and n-gram models (which ONNX Runtime runs several times
slower) are this project's, so that the servers differ in what runs the network and in how requests are joined.
"""

from __future__ import annotations

import argparse

import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

import bilstm
from bilstm.export.onnx_export import onnx_session
from bilstm.export.onnx_model import padded
from bilstm.tasks.text_classification import words_of


class Request(BaseModel):
    """Texts."""

    texts: list[str]


def build(folder: str, file: str, threads: int) -> FastAPI:
    model = bilstm.load(folder, threads=1)
    session = onnx_session(file, threads, flush_denormals=True)
    names = list(model.classes_)
    app = FastAPI()

    @app.post("/v1/predict")
    async def predict(request: Request) -> dict:
        predictions = []
        for text in request.texts:
            ids = model.encoder.encode([text])
            given = {"ids": padded(ids), "lengths": np.asarray(ids.lengths, dtype=np.int64)}
            (logits,) = session.run(["logits"], given)
            if model.joined is not None:
                logits = model.joined.join(logits, words_of([text]))
            (shares,) = model.decode(logits)
            best = int(shares.argmax())
            predictions.append(
                {
                    "prediction": names[best],
                    "probability": float(shares[best]),
                    "probabilities": dict(zip(names, shares.tolist(), strict=True)),
                }
            )
        return {"predictions": predictions}

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("file", help="what `bilstm export MODEL --onnx FILE` wrote")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    uvicorn.run(
        build(given.model, given.file, given.threads),
        host="127.0.0.1",
        port=given.port,
        http="httptools",
        loop="uvloop",
        access_log=False,
        log_level="warning",
    )
