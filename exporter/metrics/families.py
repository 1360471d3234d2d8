"""The metric families of the models, each defined once."""

from __future__ import annotations

import functools

from exporter.metrics.lines import Family

FAMILIES: list[Family] = []
"""All families, in the order of the exposition, which is that of their definitions."""


def _family(kind: str, name: str, text: str) -> Family:
    FAMILIES.append(Family(name, kind, text))
    return FAMILIES[-1]


_gauge, _counter, _histogram = (functools.partial(_family, kind) for kind in ("gauge", "counter", "histogram"))

_NOISE = "Noise floor: the divergence that sampling alone exceeds with a probability of 1 %."
INFO = _gauge(
    "model_info", "Information about a model version; the profile label is the start of the training profile's hash."
)
THRESHOLD = _gauge("model_alert_threshold", "Alert threshold set in the configuration.")
OBJECTIVE = _gauge("model_objective", "Objective set in the configuration: the share of requests that are to succeed.")
OBJECTIVE_LATENCY = _gauge(
    "model_objective_latency_seconds",
    "Latency of the objective; the bucket label is the le of the histogram's bucket that is fast enough.",
)
CONFIDENCE_THRESHOLD = _gauge("model_confidence_threshold", "Confidence from which a prediction counts as confident.")
REQUESTS = _counter("model_requests_total", "Requests to the model by HTTP code.")
DURATION = _histogram("model_request_duration_seconds", "Latency of requests to the model.")
ATTEMPTS = _counter("model_attempts_total", "Recorded predictions.")
CONFIDENT = _counter(
    "model_confident_predictions_total", "Predictions without an error at or above the confidence threshold."
)
CONFIDENCE = _histogram("model_prediction_confidence", "Confidence of predictions.")
FEEDBACK = _counter("model_feedback_total", "User feedback on predictions by verdict.")
CORRECTIONS = _counter("model_corrections_total", "Confident predictions corrected by a user, each counted once.")
DELAY = _histogram("model_feedback_delay_seconds", "Time from a prediction to the first feedback on it.")
EVENTS = _counter("model_business_events_total", "Business events declared in the configuration.")
PENDING = _gauge("model_corrections_pending", "Corrections waiting for review.")
OLDEST = _gauge("model_corrections_oldest_pending_seconds", "Age of the oldest correction waiting for review.")
UNJOINED = _gauge(
    "model_exporter_feedback_unjoined",
    "Feedback whose prediction has not arrived; the model is empty for feedback that names none.",
)
UNJOINED_OLDEST = _gauge(
    "model_exporter_feedback_unjoined_oldest_seconds", "Age of the oldest feedback whose prediction has not arrived."
)
LABELS_UNJOINED = _gauge("model_exporter_labels_unjoined", "Labels whose prediction has not arrived.")
LABELS_UNJOINED_OLDEST = _gauge(
    "model_exporter_labels_unjoined_oldest_seconds", "Age of the oldest label whose prediction has not arrived."
)
RETRAIN_UNDELIVERED = _gauge(
    "model_exporter_retrain_request_undelivered_seconds",
    "Age of the oldest request for retraining since the last one that the trainer accepted.",
)
EXAMPLES = _counter("model_dataset_examples_total", "Corrections released in datasets.")
REVIEWED_ACCURACY = (
    _gauge(
        "model_reviewed_accuracy", "Share of confident predictions that were right, estimated from a reviewed sample."
    ),
    _gauge("model_reviewed_accuracy_lower", "Lower bound of the 95 % confidence interval of the reviewed accuracy."),
    _gauge("model_reviewed_accuracy_upper", "Upper bound of the 95 % confidence interval of the reviewed accuracy."),
)
REVIEWED = _gauge("model_reviewed_predictions", "Sampled confident predictions decided by a reviewer.")
OUTCOMES = _counter("model_outcomes_total", "Labelled predictions by the predicted and the actual class.")
LABELLED = _counter("model_labelled_predictions_total", "Predictions whose label is known.")
CORRECT = _counter("model_correct_predictions_total", "Predictions that their label proves right.")
ABSOLUTE_ERROR = _counter(
    "model_absolute_error_total", "Sum of the absolute errors of labelled predictions, in the label's unit."
)
SQUARED_ERROR = _counter("model_squared_error_total", "Sum of the squared errors of labelled predictions.")
LABEL_DELAY = _histogram("model_label_delay_seconds", "Time from a prediction to its label.")
WINDOW_LABELLED = _gauge("model_window_labelled_predictions", "Predictions of the window whose label is known.")
WINDOW_UNLABELLED = _gauge("model_window_unlabelled_predictions", "Predictions of the window without a label.")
ACCURACY = (
    _gauge("model_accuracy", "Share of the window's labelled predictions that are right."),
    _gauge("model_accuracy_lower", "Lower bound of the 95 % confidence interval of the accuracy."),
    _gauge("model_accuracy_upper", "Upper bound of the 95 % confidence interval of the accuracy."),
)
CALIBRATION_ERROR = _gauge(
    "model_calibration_error", "Expected calibration error of the confidences of the window's labelled predictions."
)
ABSOLUTE = (
    _gauge("model_mean_absolute_error", "Mean absolute error of the window's labelled predictions."),
    _gauge(
        "model_mean_absolute_error_lower", "Lower bound of the 95 % confidence interval of the mean absolute error."
    ),
    _gauge(
        "model_mean_absolute_error_upper", "Upper bound of the 95 % confidence interval of the mean absolute error."
    ),
)
SQUARED = _gauge("model_root_mean_squared_error", "Root mean squared error of the window's labelled predictions.")
LABELLED_ESTIMATE = _gauge(
    "model_labelled_estimated_accuracy",
    "Accuracy that the profile's calibration expects of the window's labelled predictions.",
)
ESTIMATED_ACCURACY = (
    _gauge("model_estimated_accuracy", "Share of the window's predictions that are right, estimated without labels."),
    _gauge("model_estimated_accuracy_lower", "Lower bound of the 95 % interval of the estimated accuracy."),
    _gauge("model_estimated_accuracy_upper", "Upper bound of the 95 % interval of the estimated accuracy."),
)
ESTIMATED_ERROR = (
    _gauge(
        "model_estimated_mean_absolute_error",
        "Mean absolute error of the window's predictions, estimated without labels.",
    ),
    _gauge("model_estimated_mean_absolute_error_lower", "Lower bound of the 95 % interval of the estimated error."),
    _gauge("model_estimated_mean_absolute_error_upper", "Upper bound of the 95 % interval of the estimated error."),
)
CONFIDENCE_OBSERVED = _counter(
    "model_confidence_observations_total", "Confidences by bin of the training profile, for estimated accuracies."
)
REFERENCE_ACCURACY = _gauge(
    "model_reference_accuracy", "Accuracy that goes with a bin of the confidence, by the profile's labelled rows."
)
REFERENCE_ACCURACY_OVERALL = _gauge("model_reference_accuracy_overall", "Accuracy on the profile's labelled rows.")
REFERENCE_ESTIMATED_ACCURACY = _gauge(
    "model_reference_estimated_accuracy",
    "Accuracy on the profile's labelled rows with a confidence, which alone are estimated.",
)
REFERENCE_ERROR_OVERALL = _gauge(
    "model_reference_mean_absolute_error_overall", "Mean absolute error on the profile's labelled rows."
)
PREDICTION_WINDOW = {
    "kl": _gauge("model_prediction_kl_divergence", "KL divergence of the window's predictions from training, in nats."),
    "noise": _gauge("model_prediction_kl_divergence_noise", _NOISE),
}
CONFIDENCE_WINDOW = {
    "kl": _gauge("model_confidence_kl_divergence", "KL divergence of the window's confidences from training, in nats."),
    "noise": _gauge("model_confidence_kl_divergence_noise", _NOISE),
}
FEATURE_WINDOW = {
    "observations": _gauge(
        "model_feature_window_observations", "Observations in the window, including missing values."
    ),
    "mean": _gauge("model_feature_mean", "Mean in the window."),
    "stddev": _gauge("model_feature_stddev", "Standard deviation in the window."),
    "min": _gauge("model_feature_min", "Smallest value in the window."),
    "max": _gauge("model_feature_max", "Largest value in the window."),
    "missing": _gauge("model_feature_missing_ratio", "Share of the window's observations without a value."),
    "invalid": _gauge("model_feature_invalid_ratio", "Share of the window's observations of a wrong type."),
    "reference_missing": _gauge(
        "model_feature_reference_missing_ratio",
        "Smoothed training probability of a missing or invalid value, in the hours of the window's events.",
    ),
    "unseen": _gauge(
        "model_feature_unseen_ratio", "Share of the window's observations outside the training range or categories."
    ),
    "shift": _gauge(
        "model_feature_mean_shift", "Mean in the window less the training mean, in training standard deviations."
    ),
    "kl": _gauge("model_feature_kl_divergence", "KL divergence of the window from training, in nats."),
    "noise": _gauge("model_feature_kl_divergence_noise", _NOISE),
    "recent_kl": _gauge(
        "model_feature_recent_kl_divergence", "KL divergence of the window from the longest window before it, in nats."
    ),
    "recent_noise": _gauge(
        "model_feature_recent_kl_divergence_noise",
        "Noise floor: the recent divergence that sampling alone exceeds with a probability of 1 %.",
    ),
}
REPLICAS = {
    "kl": _gauge(
        "model_feature_replicas_kl_divergence",
        "KL divergence of the longest window of all replicas together from training, in nats.",
    ),
    "noise": _gauge("model_feature_replicas_kl_divergence_noise", _NOISE),
}
EVIDENCE = _gauge(
    "model_feature_drift_evidence", "Accumulated evidence that the feature differs from training for good, in nats."
)
EVIDENCE_LIMIT = _gauge(
    "model_feature_drift_evidence_limit", "Evidence that chance alone exceeds at most once a year, in nats."
)
FEATURE_COUNT = (
    _gauge(
        "model_features_drifted",
        "Features in the window above their drift threshold, within the model's budget of false alarms.",
    ),
    _gauge("model_features_compared", "Features in the window with enough values to be counted as drifted."),
)
MULTIVARIATE = (
    _gauge("model_multivariate_drift", "Divergence of the correlation between features from training, in nats."),
    _gauge(
        "model_multivariate_drift_noise",
        "Noise floor: the drift that sampling alone exceeds with a probability of 1 %.",
    ),
)
SEGMENT_ATTEMPTS = _counter("model_segment_attempts_total", "Recorded predictions by segment.")
SEGMENT_CONFIDENT = _counter(
    "model_segment_confident_predictions_total",
    "Predictions without an error at or above the confidence threshold, by segment.",
)
SEGMENT_CORRECTIONS = _counter(
    "model_segment_corrections_total", "Confident predictions corrected by a user, each counted once, by segment."
)
SEGMENT_LABELLED = _counter("model_segment_labelled_predictions_total", "Predictions whose label is known, by segment.")
SEGMENT_CORRECT = _counter(
    "model_segment_correct_predictions_total", "Predictions that their label proves right, by segment."
)
SEGMENT_ABSOLUTE_ERROR = _counter(
    "model_segment_absolute_error_total",
    "Sum of the absolute errors of labelled predictions, in the label's unit, by segment.",
)
SEGMENT_KL = _gauge(
    "model_segment_kl_divergence", "KL divergence of a segment's longest window from the whole training set, in nats."
)
SEGMENT_NOISE = _gauge("model_segment_kl_divergence_noise", _NOISE)
REFERENCE_MEAN = _gauge("model_feature_reference_mean", "Mean of the training values.")
REFERENCE_STDDEV = _gauge("model_feature_reference_stddev", "Standard deviation of the training values.")
WEIGHT = (
    _gauge("model_feature_weight", "Share of the variation of the predictions that goes with a feature, in training."),
    _gauge("model_feature_weight_upper", "Upper bound of the weight of a feature; 1 where it is not known."),
)
REFERENCE = _gauge("model_feature_reference_probability", "Smoothed training probability of a bin.")
NOISE_RATIO = _gauge(
    "model_feature_noise_ratio",
    "Noise floor of a number of observations, relative to that of independent ones, by training or by live values.",
)
NOISE_OBSERVATIONS = _gauge(
    "model_noise_ratio_observations", "The numbers of observations for which noise ratios are known."
)
OBSERVED = _counter("model_feature_observations_total", "Observations of a feature by bin of the training profile.")
UNKNOWN = _counter("model_exporter_unknown_features_total", "Features received that are not in the profile.")
COMPARISON_VALUE = _gauge(
    "model_comparison_value", "A measure of a version while both served, in seconds, in nats or as a share."
)
COMPARISON_DIFFERENCE = (
    _gauge("model_comparison_difference", "The measure of the version after, less that of the version before."),
    _gauge("model_comparison_difference_lower", "Lower bound of the 95 % confidence interval of the difference."),
    _gauge("model_comparison_difference_upper", "Upper bound of the 95 % confidence interval of the difference."),
)
COMPARISON_VERDICT = _gauge(
    "model_comparison_verdict", "Whether the version after is better (1) or worse (-1), or neither is proven (0)."
)
COMPARISON_DECISION = _gauge(
    "model_comparison_decision",
    "Whether the version after may be promoted (1) or must be rolled back (-1), or not yet (0).",
)
COMPARISON_OBSERVATIONS = _gauge(
    "model_comparison_observations", "Requests, predictions or values that a measure is computed from."
)
COMPARISON_PERIOD = (
    _gauge("model_comparison_start_timestamp_seconds", "Unix time from which both versions served."),
    _gauge("model_comparison_end_timestamp_seconds", "Unix time up to which both versions served."),
)
COMPARISON_SHARED = _gauge("model_comparison_shared_seconds", "Time in which both versions served, without gaps.")
SLICE_SHARE = _gauge("model_slice_share", "Share of what a slice holds, such as the corrections of the last hour.")
SLICE_TRAFFIC = _gauge("model_slice_traffic_share", "Share of the predictions of that time that are in a slice.")
SHADOW_ANSWERS = _counter("model_shadow_predictions_total", "Answers of a version that no user saw.")
SHADOW_ERRORS = _counter("model_shadow_errors_total", "Answers with a 5xx code that no user saw.")
SHADOW_UNPAIRED = _counter(
    "model_shadow_unpaired_total",
    "Answers that no user saw, without the answer of another version to the same request.",
)
SHADOW_PAIRS = _counter("model_shadow_pairs_total", "Requests that a version without users answered, too.")
SHADOW_DISAGREEMENTS = _counter(
    "model_shadow_disagreements_total", "Requests to which the two versions gave different answers."
)
SHADOW_DIFFERENCE = _counter(
    "model_shadow_absolute_difference_total", "Sum of the absolute differences of the answers of two versions."
)
SHADOW_SQUARED_DIFFERENCE = _counter(
    "model_shadow_squared_difference_total", "Sum of the squared differences of the answers of two versions."
)
SHADOW_RATIO = (
    _gauge("model_shadow_disagreement_ratio", "Share of the requests to which two versions gave different answers."),
    _gauge(
        "model_shadow_disagreement_ratio_lower",
        "Lower bound of the 95 % confidence interval of the share of different answers.",
    ),
    _gauge(
        "model_shadow_disagreement_ratio_upper",
        "Upper bound of the 95 % confidence interval of the share of different answers.",
    ),
)
SHADOW_MEAN_DIFFERENCE = (
    _gauge("model_shadow_mean_absolute_difference", "Mean absolute difference of the answers of two versions."),
    _gauge(
        "model_shadow_mean_absolute_difference_lower",
        "Lower bound of the 95 % confidence interval of the mean absolute difference.",
    ),
    _gauge(
        "model_shadow_mean_absolute_difference_upper",
        "Upper bound of the 95 % confidence interval of the mean absolute difference.",
    ),
)
BATCH_ROWS = _gauge("model_batch_rows", "Rows counted in the last batch.")
BATCH_REJECTED = _gauge("model_batch_rejected_rows", "Rows refused in the last batch.")
BATCH_CONFIDENT = _gauge(
    "model_batch_confident_ratio", "Share of the last batch's rows at or above the confidence threshold."
)
BATCH_DURATION = _gauge("model_batch_duration_seconds", "Time taken to count the last batch.")
BATCH_SUCCESS = _gauge("model_batch_last_success_timestamp_seconds", "Unix time at which the last batch was counted.")
