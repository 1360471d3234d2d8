"""Serve a model with FastAPI, with any number of uvicorn workers."""

import pandas as pd
from fastapi import FastAPI
from model import train

from exporter import Monitor

monitor = Monitor("http://127.0.0.1:9877", "loans", "fastapi")
model = monitor.wrap(train())
app = FastAPI()
app.add_middleware(monitor.asgi, paths=["/predict"])


@app.post("/predict")
def predict(row: dict[str, str | float]):
    return {"label": model.predict(pd.DataFrame([row]))[0], "id": monitor.prediction_id}
