"""Rows of a batch with the labels that became known later."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


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
