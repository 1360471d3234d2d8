"""A model behind Flask; users' corrections, too."""

import pandas as pd
from flask import Flask, request
from model import trained

from exporter import Monitor

monitor = Monitor("http://127.0.0.1:9877", "loans", "flask")
model = monitor.wrap(trained())
app = Flask(__name__)
app.wsgi_app = monitor.wsgi(app.wsgi_app)


@app.post("/predict")
def predict():
    label = model.predict(pd.DataFrame([request.json]))[0]
    return {"id": monitor.prediction_id, "label": label}


@app.post("/correct/<prediction_id>")
def correct(prediction_id):
    return monitor.feedback(prediction_id, "corrected", label=request.json["label"])
