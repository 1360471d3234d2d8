"""Two countries apart: what is drift in one need not be in the other. `exporter.yml` names them."""

import pandas as pd
from model import trained

from exporter import Monitor

monitor = Monitor("http://127.0.0.1:9877", "loans", "segments")


@monitor.watch(read=lambda shares: {"prediction": "yes" if shares[1] > 0.5 else "no", "confidence": max(shares)})
def decide(row):
    return model.predict_proba(pd.DataFrame([row]))[0]


model, usual, tonight = trained(), pd.read_csv("loans.csv"), pd.read_csv("tonight.csv")
for country, rows in (("NL", usual), ("BE", tonight)):
    for row in rows[rows["country"] == country].head(300).to_dict("records"):
        decide({name: row[name] for name in ("age", "income", "country")})
