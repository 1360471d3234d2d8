"""Seldon's feedback as the exporter's: a user's word on a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from exporter.config import ModelConfig
from exporter.errors import EventError
from exporter.features.extract import scalar_text
from exporter.server.integrations.mapping import inputs
from exporter.server.integrations.outputs import Answer, Known, answers, classes_of
from exporter.server.integrations.payload import MAX_ROWS, Body, Column
from exporter.server.integrations.seldon import Feedback, message

_NOBODY = Known(ModelConfig("-"))


def words(said: Feedback, known: Known | None) -> list[dict[str, Any]]:
    """The words of a feedback message, one a row, as ``POST /v1/feedback`` takes them.

    The truth, where there is one, is compared with the response; else a reward above zero accepts.

    Parameters
    ----------
    said
        The message.
    known
        Its model, whose labels its scores are about; without one a word needs a ``meta.puid``.

    Raises
    ------
    EventError
        When it is about no prediction, or its truth has other rows than its response.
    """
    parts = {name: message(part, (name,)) for name, part in _parts(said).items()}
    empty = Body([])
    response, truth = parts.get("response", empty), parts.get("truth", empty)
    puid = next((part.id for part in (response, parts.get("request", empty), truth) if part.id), None)
    if puid is None and known is None:
        raise EventError("/response/meta/puid", "is required, or a model in the query: ?model=…", "missing_field")
    predicted = answers(known or _NOBODY, response.columns)
    classes = classes_of(known or _NOBODY, response.columns)
    right = [
        _class(answer.prediction, classes) for answer in answers(known or _NOBODY, _alike(truth, response.columns))
    ]
    if truth.columns and (not right or None in right):
        raise EventError("/truth", "says no label; mapping.labels may say what its values mean", "wrong_type")
    if not right:
        verdict = "accepted" if (said.reward or 0) > 0 else "corrected"
        return [_word(puid, known, verdict=verdict)]
    if predicted and len(predicted) != len(right):
        raise EventError("/truth", f"has {len(right)} rows, the response {len(predicted)}", "malformed")
    if len(right) > MAX_ROWS:
        raise EventError("/truth", f"expected at most {MAX_ROWS} rows, got {len(right)}", "too_large")
    given = inputs(known or _NOBODY, parts.get("request", empty).columns) or []
    found = []
    for place, label in enumerate(right):
        answer = predicted[place] if predicted else Answer(None)
        right_already = scalar_text(label) == scalar_text(answer.prediction) if predicted else (said.reward or 0) > 0
        found.append(
            _word(
                puid if puid is None or len(right) == 1 else f"{puid}-{place}",
                known,
                verdict="accepted" if right_already else "corrected",
                label=label,
                prediction=answer.prediction,
                inputs=given[place] if len(given) == len(right) else {},
            )
        )
    return found


def _parts(said: Feedback) -> dict[str, Any]:
    parts = {"request": said.request, "response": said.response, "truth": said.truth}
    return {name: part for name, part in parts.items() if part is not None}


def _alike(truth: Body, columns: Sequence[Column]) -> list[Column]:
    """The truth under the response's name, so that the configuration finds it."""
    return [
        column._replace(name=columns[0].name, names=column.names or columns[0].names) if columns else column
        for column in truth.columns
    ]


def _class(label: Any, classes: Sequence[Any]) -> Any:
    """The class that a truth means by its place."""
    if type(label) in {int, float} and label not in classes and label == label // 1 and 0 <= label < len(classes):
        return classes[int(label)]
    return label


def _word(puid: str | None, known: Known | None, **fields: Any) -> dict[str, Any]:
    if puid is None and known:
        return {"model": known.config.name, **fields}
    return {"prediction_id": puid, "verdict": fields["verdict"], "label": fields.get("label")}
