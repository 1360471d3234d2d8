"""Rows of predictions with the labels that became known later."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from support.servers import Served, eventually


def with_outcomes(table: pa.Table, seed: int = 3) -> pa.Table:
    """Add a column ``outcome``: more confident predictions are right more often; each tenth row has no label."""
    rng = np.random.default_rng(seed)
    predictions = table["prediction"].to_pylist()
    right = rng.random(len(predictions)) < 0.3 + 0.65 * table["confidence"].to_numpy()
    other = {"yes": "no", "no": "yes"}
    outcomes = [
        None if index % 10 == 3 else prediction if is_right else other[prediction]
        for index, (prediction, is_right) in enumerate(zip(predictions, right.tolist(), strict=True))
    ]
    return table.append_column("outcome", pa.array(outcomes))


def classes(rows: int, seed: int, confidence: float = 4.0) -> pa.Table:
    """Predicted classes with their labels, nine of ten."""
    rng = np.random.default_rng(seed)
    columns = {
        "country": rng.choice(["NL", "<b>BE</b>"], rows),
        "prediction": rng.choice(["yes", "no"], rows),
        "confidence": rng.beta(confidence, 1, rows),
    }
    return with_outcomes(pa.table(columns), seed)


def partly_unsure(table: pa.Table) -> pa.Table:
    """Take the confidence of every third row, and make all these rows wrong."""
    lacking = [index % 3 == 0 for index in range(len(table))]
    rows = zip(lacking, table["confidence"].to_pylist(), table["outcome"].to_pylist(), strict=True)
    kept = [(None if lacks else sure, "neither" if lacks else outcome) for lacks, sure, outcome in rows]
    confidences, outcomes = map(pa.array, zip(*kept, strict=True))
    return (
        table.drop(["confidence", "outcome"])
        .append_column("confidence", confidences)
        .append_column("outcome", outcomes)
    )


def numbers(rows: int, seed: int) -> pa.Table:
    """Predicted numbers with their labels."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(0, 100, rows)
    return pa.table({"age": age, "prediction": 10 * age + rng.normal(0, 1 + age / 10), "outcome": 10 * age})


def send(server: Served, model: str, table: pa.Table, version: str = "3", label: bool = True) -> None:
    """Send the rows of a table as predictions, then their labels."""
    rows = table.to_pylist()
    outputs = [{name: row[name] for name in ("prediction", "confidence") if row.get(name) is not None} for row in rows]
    inputs = [{name: row[name] for name in ("country", "age") if name in row} for row in rows]
    ids = [f"{model}-{version}-{index}" for index in range(len(rows))]
    events = [
        {"model": model, "version": version, "id": id_, "inputs": given, **output}
        for id_, given, output in zip(ids, inputs, outputs, strict=True)
    ]
    assert server.post("/v1/predictions", events).status == 202
    labels = [
        {"prediction_id": id_, "model": model, "label": row["outcome"]}
        for id_, row in zip(ids, rows, strict=True)
        if row["outcome"] is not None
    ]
    if label:
        assert server.post("/v1/labels", labels).status in {200, 201}
        series = f'model="{model}"'
        counted = "model_labelled_predictions_total"
        eventually(lambda: sum(n for name, n in server.samples(counted).items() if series in name) >= len(labels), 30)
