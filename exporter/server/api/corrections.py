"""``/v1/corrections``: the review queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from flask import Response, g, request

from exporter.config import sampled_share
from exporter.errors import EventError
from exporter.server.api.correction_query import (
    MAX_ID,
    MAX_LIMIT,
    encode_cursor,
    parse_history_cursor,
    parse_limit,
    parse_query,
    with_new_label,
)
from exporter.server.api.operations import idempotency_key
from exporter.server.api.parameters import convert_body, parse_json
from exporter.server.api.schemas import BatchDecision, ReviewDecision, SampleRequest
from exporter.server.application import Exporter
from exporter.server.http.problem import Reply, json_reply, problem
from exporter.storage import label_json
from exporter.storage.review.correction_history import correction_history
from exporter.storage.review.correction_pages import list_corrections
from exporter.storage.review.corrections import find_correction
from exporter.storage.review.decision import Decision
from exporter.storage.review.rankings import count_alike
from exporter.storage.review.review_decisions import decide, decide_all
from exporter.storage.review.review_samples import sample_for_review
from exporter.storage.review.stratified_draw import Draw
from exporter.storage.review.suspects import suspect_documents
from exporter.storage.review.user_stats import user_stats
from exporter.validation import preview
from exporter.wire.events import check_model


class CorrectionsApi:
    """The operations on the review queue.

    Parameters
    ----------
    exporter
        The store and the models.
    """

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def list_corrections(self) -> Response:
        """``GET /v1/corrections``: a page of the queue."""
        query = parse_query(self._exporter, request.args)
        with self._exporter.store.reading() as connection:
            page, end = list_corrections(connection, query.filter, query.limit, query.after, query.order)
            alike = count_alike(connection, page) if query.order == "informative" else None
            suspects = suspect_documents(connection, page)
        next_url = None
        if end:
            arguments = urlencode({**request.args.to_dict(), "cursor": encode_cursor(query.order, end)})
            next_url = f"{request.base_url}?{arguments}"
        documents = [with_new_label(self._exporter, document) for document in page]
        documents = [_with_suspect(document, suspects) for document in documents]
        if alike is not None:
            documents = [{**document, "alike": alike.get(document["id"], 0)} for document in documents]
        answer = {"corrections": documents, "next": next_url}
        return _json(answer | ({"truncated": query.slice.truncated} if query.slice else {}))

    def list_users(self) -> Response:
        """``GET /v1/corrections/users``: how much each user corrected."""
        model = self._model()
        with self._exporter.store.reading() as connection:
            return _json(user_stats(connection, model))

    def _model(self) -> str:
        """Return the model that the only parameter of the request names."""
        model = request.args.get("model")
        if set(request.args) != {"model"} or model is None:
            raise EventError("", "expected the parameter model, and no other", "missing_field")
        check_model(self._exporter.pipeline.monitors.models, model)
        return model

    def show(self, correction_id: int) -> Response:
        """``GET /v1/corrections/<id>``: a correction with a page of its history."""
        redacted = self._exporter.redacted
        limit, after = parse_limit(request.args), parse_history_cursor(request.args)
        with self._exporter.store.reading() as connection:
            document = find_correction(connection, correction_id, redacted) if correction_id <= MAX_ID else None
            if document is None:
                return _not_found(correction_id)
            history, end = correction_history(connection, correction_id, limit, after)
            document = _with_suspect(document, suspect_documents(connection, [document]))
        next_url = None
        if end:
            arguments = urlencode({**request.args.to_dict(), "cursor": f"{end.feedback}-{end.decision}"})
            next_url = f"{request.base_url}?{arguments}"
        return _json({**with_new_label(self._exporter, document), "history": history, "history_next": next_url})

    def decide(self, correction_id: int) -> Response:
        """``PATCH /v1/corrections/<id>``: decide a correction."""
        decision = _decision(convert_body(ReviewDecision, parse_json(request.get_data())))
        if correction_id > MAX_ID:
            return problem(404, _undecidable(correction_id)).flask()
        store, redacted = self._exporter.store, self._exporter.redacted
        stored, document = store.execute(
            lambda connection, _: decide(connection, correction_id, decision, redacted), len(request.get_data())
        )
        if document is None:
            return problem(404, _undecidable(correction_id)).flask()
        document = with_new_label(self._exporter, document)
        if not stored:
            return problem(409, _conflict(document, decision.reviewer), correction=document).flask()
        return _json(document)

    def decide_several(self) -> Response:
        """``PATCH /v1/corrections``: decide several corrections."""
        decisions, errors = _batch(parse_json(request.get_data()))
        if errors:
            first = f"{errors[0]['pointer']}: {errors[0]['detail']}"
            detail = f"no decision was stored, {len(errors)} of them are not valid: {first}"
            return problem(400, detail, errors).flask()
        store, redacted = self._exporter.store, self._exporter.redacted
        outcomes = store.execute(
            lambda connection, _: decide_all(connection, decisions, redacted), len(request.get_data())
        )
        results = [
            self._result(correction_id, decision, stored, document)
            for (correction_id, decision), (stored, document) in zip(decisions, outcomes, strict=True)
        ]
        return _json({"results": results})

    def _result(
        self, correction_id: int, decision: Decision, stored: bool, document: dict[str, Any] | None
    ) -> dict[str, Any]:
        result: dict[str, Any] = {"id": str(correction_id), "taken": stored}
        if document is None:
            return result | {"status": 404, "detail": _undecidable(correction_id)}
        result |= {"status": 200} if stored else {"status": 409, "detail": _conflict(document, decision.reviewer)}
        return result | {"correction": with_new_label(self._exporter, document)}

    def draw_sample(self) -> Response:
        """``POST /v1/corrections/samples``: draw predictions for review."""
        sample = convert_body(SampleRequest, parse_json(request.get_data()))
        check_model(self._exporter.pipeline.monitors.models, sample.model)
        if sample.version is not None and "\0" in sample.version:
            raise EventError("/version", "expected text without the character NUL", "malformed")
        stored_in_part = sampled_share(self._exporter.config.store.inputs) is not None
        draw, reviewer = Draw(sample.model, sample.version, stored_in_part), g.user

        def reply() -> Reply:
            store, redact = self._exporter.store, self._exporter.feedback_inputs
            count = sample_for_review(store, draw, sample.count, reviewer, redact)
            return json_reply(201, {"drawn": count})

        return self._exporter.idempotency.once("samples", idempotency_key(), reply, request.get_data()).flask()


def _json(document: Any) -> Response:
    return json_reply(200, document).flask()


def _with_suspect(document: dict[str, Any], suspects: Mapping[str, Any]) -> dict[str, Any]:
    """Return a correction's document with ``suspect``, if its label may be wrong."""
    return {**document, "suspect": suspects[document["id"]]} if document["id"] in suspects else document


def _not_found(correction_id: int) -> Response:
    return problem(404, f"there is no correction {correction_id}").flask()


def _undecidable(correction_id: int) -> str:
    return (
        f"there is no correction {correction_id} to decide; feedback that waits for its prediction can be decided "
        "after an hour, if it came with a model, inputs and a prediction"
    )


def _conflict(document: dict[str, Any], reviewer: str | None) -> str:
    """Return the detail of a decision on another revision than the correction's."""
    label = f" as {preview(document['label'])}" if document["status"] == "accepted" else ""
    if reviewer is not None and document["reviewer"] == reviewer:
        who, by = "you decided it before", ""
    elif document["status"] == "pending":  # new feedback of the user, or a decision taken back
        who, by = "the correction has changed", ""
    else:
        who, by = "another reviewer decided first", f" by {preview(first)}" if (first := document["reviewer"]) else ""
    return (
        f"{who}: it is {document['status']}{label}{by} since revision {document['revision']}; "
        "decide again on that revision to change it"
    )


def _batch(document: Any) -> tuple[list[tuple[int, Decision]], list[dict[str, str]]]:
    """Return the decisions in a body by the correction's identifier, and the errors of those that are not valid.

    Raises
    ------
    EventError
        When the body is not an array of decisions.
    """
    if not isinstance(document, list) or not 1 <= len(document) <= MAX_LIMIT:
        raise EventError("", f"expected an array of 1 to {MAX_LIMIT} decisions", "wrong_type")
    decisions, errors = [], []
    for index, item in enumerate(document):
        try:
            decision = convert_body(BatchDecision, item)
        except EventError as error:
            errors.append({"pointer": f"/{index}{error.pointer}", "detail": error.detail})
        else:
            decisions.append((int(decision.id), _decision(decision)))
    return decisions, errors


def _decision(decision: ReviewDecision) -> Decision:
    return Decision(decision.status, label_json(decision.label), decision.revision, decision.reviewer or g.user)
