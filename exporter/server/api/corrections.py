"""``/v1/corrections``: the review queue."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec
from flask import Blueprint, Response, g, request

from exporter.config import sampled_share
from exporter.errors import EventError, StoreError
from exporter.events import Label, check_model
from exporter.server.api.correction_query import MAX_PLACE, MOST, cursor, marked, parse_query
from exporter.server.api.ingest import idempotency_key
from exporter.server.application import Exporter
from exporter.server.idempotency import IdempotencyCache
from exporter.server.problem import Reply, problem, whole
from exporter.storage.corrections import (
    STATUSES,
    Decision,
    correction,
    correction_history,
    corrections,
    decide,
    decide_several,
)
from exporter.storage.review_samples import Draw, sample_for_review
from exporter.storage.schema import spelling
from exporter.storage.user_stats import users
from exporter.validation import explain, json_pointer

_Whole = Annotated[int, msgspec.Meta(ge=0, le=MAX_PLACE)]


class ReviewDecision(msgspec.Struct, forbid_unknown_fields=True):
    """What a reviewer sends; a label that is absent, or null, stays what it was.

    ``reviewer`` names an annotator of Label Studio, which no user of the web configuration can be called.
    """

    status: Literal["accepted", "pending", "rejected"]
    revision: _Whole
    label: Label = None
    reviewer: Annotated[str, msgspec.Meta(pattern="^label-studio:", max_length=200)] | None = None


class BatchDecision(ReviewDecision, forbid_unknown_fields=True, kw_only=True):
    """One of several."""

    id: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,9}$")] | _Whole


class SampleRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a reviewer wants drawn."""

    model: str
    count: Annotated[int, msgspec.Meta(ge=1, le=MOST)]
    version: Annotated[str, msgspec.Meta(max_length=128)] | None = None


def blueprint(exporter: Exporter, retries: IdempotencyCache) -> Blueprint:
    """The routes of the review queue."""
    routes = Blueprint("corrections", __name__, url_prefix="/v1/corrections")

    @routes.errorhandler(StoreError)
    def failed(error: StoreError) -> Response:
        return problem(503, str(error), headers=(("Retry-After", "5"),)).flask()

    @routes.errorhandler(EventError)
    def wrong(error: EventError) -> Response:
        return whole(error).flask()

    @routes.get("")
    def queue() -> Response:
        page = parse_query(exporter, request.args)
        with exporter.store.reading() as connection:
            found, end = corrections(connection, page.chosen, page.limit, page.after, page.order)
        following = None
        if end:
            query = urlencode({**request.args.to_dict(), "cursor": cursor(page.order, end)})
            following = f"{request.base_url}?{query}"
        documents = [marked(exporter, one) for one in found]
        return Reply(200, msgspec.json.encode({"corrections": documents, "next": following})).flask()

    @routes.get("/users")
    def by_user() -> Response:
        model = request.args.get("model")
        if set(request.args) != {"model"} or model is None:
            raise EventError("", "expected the parameter model, and no other", "missing_field")
        check_model(exporter.pipeline.monitors.models, model)
        with exporter.store.reading() as connection:
            return Reply(200, msgspec.json.encode(users(connection, model))).flask()

    @routes.get("/<int:place>")
    def single(place: int) -> Response:
        with exporter.store.reading() as connection:
            known = correction(connection, place) if place <= MAX_PLACE else None
            if known is None:
                return _missing(place).flask()
            events = correction_history(connection, place)
        return Reply(200, msgspec.json.encode({**marked(exporter, known), "history": events})).flask()

    @routes.patch("/<int:place>")
    def review(place: int) -> Response:
        verdict = _decoded(ReviewDecision, _document())
        if place > MAX_PLACE:
            return _missing(place).flask()
        decision = _decision(verdict)
        taken, known = exporter.store.execute(lambda connection, _: decide(connection, place, decision))
        if known is None:
            return _missing(place).flask()
        known = marked(exporter, known)
        if not taken:
            return problem(409, _too_late(known), correction=known).flask()
        return Reply(200, msgspec.json.encode(known)).flask()

    @routes.patch("")
    def review_several() -> Response:
        document = _document()
        if not isinstance(document, list) or not 1 <= len(document) <= MOST:
            raise EventError("", f"expected an array of 1 to {MOST} decisions", "wrong_type")
        verdicts, errors = [], []
        for index, one in enumerate(document):
            try:
                verdicts.append(_decoded(BatchDecision, one))
            except EventError as error:
                errors.append({"pointer": f"/{index}{error.pointer}", "detail": error.detail})
        if errors:
            first = f"{errors[0]['pointer']}: {errors[0]['detail']}"
            return problem(400, f"nothing was decided, {len(errors)} of them cannot be read: {first}", errors).flask()
        decisions = [(int(verdict.id), _decision(verdict)) for verdict in verdicts]
        answers = exporter.store.execute(lambda connection, _: decide_several(connection, decisions))
        results: list[dict[str, Any]] = []
        for (place, _), (taken, known) in zip(decisions, answers, strict=True):
            result: dict[str, Any] = {"id": str(place), "taken": taken}
            if known is None:
                result |= {"status": 404, "detail": f"there is no correction {place}"}
            else:
                result |= {"status": 200} if taken else {"status": 409, "detail": _too_late(known)}
                result["correction"] = marked(exporter, known)
            results.append(result)
        return Reply(200, msgspec.json.encode({"results": results})).flask()

    @routes.post("/samples")
    def sample() -> Response:
        wish = _decoded(SampleRequest, _document())
        check_model(exporter.pipeline.monitors.models, wish.model)
        if wish.version is not None and "\0" in wish.version:
            raise EventError("/version", "expected text without the character NUL", "malformed")
        chosen, reviewer = (
            Draw(wish.model, wish.version, sampled_share(exporter.config.store.inputs) is not None),
            g.user,
        )

        def drawn() -> Reply:
            number = sample_for_review(exporter.store, chosen, wish.count, reviewer, exporter.snapshot)
            return Reply(201, msgspec.json.encode({"drawn": number}))

        return retries.once("samples", idempotency_key(), drawn).flask()

    return routes


def _missing(place: int) -> Reply:
    return problem(404, f"there is no correction {place}")


def _too_late(known: dict[str, Any]) -> str:
    return (
        f"another reviewer was first: it is {known['status']} since revision {known['revision']}; "
        "look at it, and decide again on that revision"
    )


def _document() -> Any:
    try:
        return msgspec.json.decode(request.get_data())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise EventError("", "the body is not JSON", "malformed") from None


def _decoded(kind: type[Any], document: Any) -> Any:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        path, detail, reason = explain(error, document, (*STATUSES, *kind.__struct_fields__))
        raise EventError(json_pointer(path), detail, reason) from None


def _decision(verdict: ReviewDecision) -> Decision:
    return Decision(verdict.status, spelling(verdict.label), verdict.revision, verdict.reviewer or g.user)
