"""Monitor two countries separately. `exporter.yml` names them as segments."""

import pandas as pd
from model import train

from exporter import Monitor

monitor = Monitor("http://127.0.0.1:9877", "loans", "segments")


@monitor.watch(read=lambda scores: {"prediction": "yes" if scores[1] > 0.5 else "no", "confidence": max(scores)})
def decide(row):
    return model.predict_proba(pd.DataFrame([row]))[0]


model, usual, tonight = train(), pd.read_csv("loans.csv"), pd.read_csv("tonight.csv")
for country, rows in (("NL", usual), ("BE", tonight)):
    for row in rows[rows["country"] == country].head(300).to_dict("records"):
        decide({name: row[name] for name in ("age", "income", "country")})
