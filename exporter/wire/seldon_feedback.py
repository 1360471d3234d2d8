"""Convert Seldon's feedback messages to the exporter's feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.features.extract import scalar_text
from exporter.wire.mapping import map_inputs
from exporter.wire.outputs import ConfiguredModel, ModelOutput, read_outputs, score_classes
from exporter.wire.payload import MAX_ROWS, Column, Payload
from exporter.wire.seldon import Feedback, decode_message

_NO_MODEL = ConfiguredModel(ModelConfig("-"))
_EMPTY = Payload([])


def feedback_documents(feedback: Feedback, model: ConfiguredModel | None) -> list[dict[str, Any]]:
    """Return the feedback in a message, one document per row, as ``POST /v1/feedback`` accepts it.

    The truth is compared with the response; without a truth, a reward above zero accepts the prediction.

    Parameters
    ----------
    feedback
        The message.
    model
        The model, whose labels are the classes of its scores; without a model the message needs a ``meta.puid``.

    Raises
    ------
    EventError
        When the message does not identify a prediction, or its truth has another number of rows than its response, or
        it corrects without a truth.
    """
    sent = {"request": feedback.request, "response": feedback.response, "truth": feedback.truth}
    parts = {name: decode_message(part, (name,)) for name, part in sent.items() if part is not None}
    request, response, truth = (parts.get(name, _EMPTY) for name in sent)
    puid = response.id or request.id or truth.id
    if puid is None and model is None:
        raise EventError("/response/meta/puid", "is required, or a model in the query: ?model=…", "missing_field")
    mapping = model or _NO_MODEL
    predicted = read_outputs(mapping, response.columns)
    labels = _labels(mapping, truth, response.columns)
    rewarded = (feedback.reward or 0) > 0
    if not labels:
        if not rewarded:
            detail = "is required, unless a reward above 0 accepts the prediction: a correction needs the correct label"
            raise EventError("/truth", detail, "missing_field")
        return [_document(puid, model, accepted=True)]
    if predicted and len(predicted) != len(labels):
        raise EventError("/truth", f"has {len(labels)} rows, the response {len(predicted)}", "malformed")
    if len(labels) > MAX_ROWS:
        raise EventError("/truth", f"expected at most {MAX_ROWS} rows, got {len(labels)}", "too_large")
    rows = map_inputs(mapping, request.columns) or []
    documents = []
    for index, label in enumerate(labels):
        prediction = predicted[index].prediction if predicted else None
        documents.append(
            _document(
                puid if puid is None or len(labels) == 1 else f"{puid}-{index}",
                model,
                accepted=scalar_text(label) == scalar_text(prediction) if predicted else rewarded,
                label=label,
                prediction=prediction,
                inputs=rows[index] if len(rows) == len(labels) else {},
            )
        )
    return documents


def _labels(model: ConfiguredModel, truth: Payload, columns: Sequence[Column]) -> list[Any]:
    """Return the labels in the truth; empty without a truth."""
    classes = score_classes(model, columns)
    outputs: list[ModelOutput] = read_outputs(model, _named_like(truth, columns))
    labels = [_class_of_index(output.prediction, classes) for output in outputs]
    if truth.columns and (not labels or None in labels):
        raise EventError("/truth", "has no label; mapping.labels can name the classes of its values", "wrong_type")
    return labels


def _named_like(truth: Payload, columns: Sequence[Column]) -> list[Column]:
    """Give the truth the name of the response's output, so that the mapping applies to it."""
    return [
        column._replace(name=columns[0].name, names=column.names or columns[0].names) if columns else column
        for column in truth.columns
    ]


def _class_of_index(label: Any, classes: Sequence[Any]) -> Any:
    """Return the class whose index a truth is; any other label stays."""
    if type(label) in {int, float} and label not in classes and label == label // 1 and 0 <= label < len(classes):
        return classes[int(label)]
    return label


def _document(
    puid: str | None, model: ConfiguredModel | None, *, accepted: bool, label: Any = None, **prediction: Any
) -> dict[str, Any]:
    verdict = "accepted" if accepted else "corrected"
    if puid is not None or model is None:
        return {"prediction_id": puid, "verdict": verdict, "label": label}
    return {"model": model.config.name, "verdict": verdict, "label": label, **prediction}
