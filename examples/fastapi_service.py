"""A model behind FastAPI, in as many workers of uvicorn as you like."""

import pandas as pd
from fastapi import FastAPI
from model import trained

from exporter import Monitor

monitor = Monitor("http://127.0.0.1:9877", "loans", "fastapi")
model = monitor.wrap(trained())
app = FastAPI()
app.add_middleware(monitor.asgi, paths=["/predict"])


@app.post("/predict")
def predict(row: dict[str, str | float]):
    return {"label": model.predict(pd.DataFrame([row]))[0], "id": monitor.prediction_id}
