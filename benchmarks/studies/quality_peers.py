"""Estimate windows with NannyML's own code; run by `quality_study` in an interpreter that can import it.

NannyML 0.13.1: CBPE for the accuracy of a binary classifier, DLE for the mean absolute error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nannyml
import numpy as np
import pandas as pd


def main() -> None:
    """Read reference.csv and windows.csv in a folder, and write estimates.csv."""
    folder = Path(sys.argv[1])
    reference, windows = (pd.read_csv(folder / f"{name}.csv") for name in ("reference", "windows"))
    size = int(windows.window.value_counts().min())
    if "positive" in reference:
        estimator = nannyml.CBPE(
            problem_type="classification_binary",
            y_pred_proba="positive",
            y_pred="predicted",
            y_true="label",
            metrics=["accuracy"],
            chunk_size=size,
        )
        metric = "accuracy"
    else:
        features = [name for name in reference if name not in {"predicted", "label"}]
        estimator = nannyml.DLE(
            feature_column_names=features, y_pred="predicted", y_true="label", metrics=["mae"], chunk_size=size
        )
        metric = "mae"
    estimator.fit(reference)
    values = [
        estimator.estimate(frame.drop(columns="window")).filter(period="analysis").to_df()[(metric, "value")].iloc[0]
        for _, frame in windows.groupby("window")
    ]
    np.savetxt(folder / "estimates.csv", values)


if __name__ == "__main__":
    main()
