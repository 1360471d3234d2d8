"""The alerts whose threshold can be set, with the default of each."""

from __future__ import annotations

from typing import NamedTuple


class Threshold(NamedTuple):
    """The threshold of an alert.

    Attributes
    ----------
    default
        Value where the configuration sets none, in the unit of the documentation: seconds, nats, a share.
        `tests/bundle/test_thresholds.py` compares it with the rules, the documentation and the runbooks.
    per_feature
        Whether a feature may set its own.
    """

    default: float
    per_feature: bool = False


THRESHOLDS = {
    "ModelAccuracyLow": Threshold(0.05),
    "ModelAttemptsDrop": Threshold(0.5),
    "ModelConfidenceDrift": Threshold(0.3),
    "ModelConfidentRatioLow": Threshold(0.8),
    "ModelCorrectionRatioHigh": Threshold(0.01),
    "ModelErrorRatioHigh": Threshold(0.01),
    "ModelFeatureChanged": Threshold(0.3, per_feature=True),
    "ModelFeatureDrift": Threshold(0.3, per_feature=True),
    "ModelFeatureMeanShift": Threshold(1.0, per_feature=True),
    "ModelFeatureMissing": Threshold(0.05, per_feature=True),
    "ModelLatencyHigh": Threshold(0.5),
    "ModelPredictionDrift": Threshold(0.3),
    "ModelReviewBacklog": Threshold(86400.0),
}
"""The alerts whose threshold can be set, for a model and some for a feature."""
FEATURE_ALERTS = tuple(name for name, threshold in THRESHOLDS.items() if threshold.per_feature)
MODEL_ALERTS = tuple(THRESHOLDS)
