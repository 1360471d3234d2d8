"""Tonight's rows, scored in batches; each batch has left before the next begins."""

import pandas as pd
from model import trained

from exporter import Monitor

monitor = Monitor("http://127.0.0.1:9877", "loans", "batch")
model = monitor.wrap(trained(), timed=False)
for rows in pd.read_csv("tonight.csv", chunksize=500):
    model.predict(rows)
    monitor.flush(60)
print(f"{monitor.sent} predictions, {monitor.dropped} lost")
