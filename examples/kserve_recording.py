"""Write kserve.jsonl: the CloudEvents of KServe's logger for tonight's loans, one in each line."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from model import train

model, datatypes = train(), {"age": "INT64", "income": "FP64", "country": "BYTES"}
service = {"specversion": "1.0", "inferenceservicename": "loans", "namespace": "bank", "component": "predictor"}
with Path("kserve.jsonl").open("w") as recording:
    for number, row in pd.read_csv("tonight.csv").head(200).iterrows():
        inputs = [{"name": name, "shape": [1], "datatype": datatypes[name], "data": [row[name]]} for name in datatypes]
        probabilities = model.predict_proba(row.to_frame().T)[0].tolist()
        outputs = [{"name": "predict_proba", "shape": [1, 2], "datatype": "FP64", "data": probabilities}]
        response = {"model_name": "loans", "model_version": "kserve", "outputs": outputs}
        for side, data in (("request", {"inputs": inputs}), ("response", response)):
            event = {"id": f"{number}", "type": f"org.kubeflow.serving.inference.{side}", "source": "http://loans/"}
            now = datetime.now(UTC).isoformat()
            recording.write(json.dumps({**service, **event, "time": now, "data": data}) + "\n")
