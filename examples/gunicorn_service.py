"""Serve a model with gunicorn's forked workers, without a framework."""

import json

import pandas as pd
from model import train

from exporter import Monitor

monitor = Monitor("http://127.0.0.1:9877", "loans", "gunicorn")
model = monitor.wrap(train())


@monitor.wsgi
def app(environ, start_response):
    label = model.predict(pd.DataFrame([json.load(environ["wsgi.input"])]))[0]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"label": label, "id": monitor.prediction_id}).encode()]
