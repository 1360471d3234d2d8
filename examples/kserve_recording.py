"""What KServe's logger sends while a predictor answers tonight's loans: kserve.jsonl, a CloudEvent a line."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from model import trained

model, kinds = trained(), {"age": "INT64", "income": "FP64", "country": "BYTES"}
service = {"specversion": "1.0", "inferenceservicename": "loans", "namespace": "bank", "component": "predictor"}
with Path("kserve.jsonl").open("w") as recording:
    for number, row in pd.read_csv("tonight.csv").head(200).iterrows():
        inputs = [{"name": name, "shape": [1], "datatype": kinds[name], "data": [row[name]]} for name in kinds]
        shares = model.predict_proba(row.to_frame().T)[0].tolist()
        outputs = [{"name": "predict_proba", "shape": [1, 2], "datatype": "FP64", "data": shares}]
        answer = {"model_name": "loans", "model_version": "kserve", "outputs": outputs}
        for side, data in (("request", {"inputs": inputs}), ("response", answer)):
            event = {"id": f"{number}", "type": f"org.kubeflow.serving.inference.{side}", "source": "http://loans/"}
            now = datetime.now(UTC).isoformat()
            recording.write(json.dumps({**service, **event, "time": now, "data": data}) + "\n")
