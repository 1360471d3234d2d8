"""Score tonight's rows in batches, and send each batch to the exporter before the next one."""

import pandas as pd
from model import train

from exporter import Monitor

monitor = Monitor("http://127.0.0.1:9877", "loans", "batch")
model = monitor.wrap(train(), timed=False)
for rows in pd.read_csv("tonight.csv", chunksize=500):
    model.predict(rows)
    monitor.flush(60)
print(f"{monitor.sent} predictions, {monitor.dropped} lost")
