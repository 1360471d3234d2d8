"""Serve a model with Flask, and record the corrections of users."""

import pandas as pd
from flask import Flask, request
from model import train

from exporter import Monitor

monitor = Monitor("http://127.0.0.1:9877", "loans", "flask")
model = monitor.wrap(train())
app = Flask(__name__)
app.wsgi_app = monitor.wsgi(app.wsgi_app)


@app.post("/predict")
def predict():
    label = model.predict(pd.DataFrame([request.json]))[0]
    return {"id": monitor.prediction_id, "label": label}


@app.post("/correct/<prediction_id>")
def correct(prediction_id):
    return monitor.feedback(prediction_id, "corrected", label=request.json["label"])
