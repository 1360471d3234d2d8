"""The review page: users' corrections, and the forms that decide them."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import sqlalchemy as sa
from flask import Response, abort, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as WerkzeugResponse

from exporter.config import sampled_share
from exporter.errors import EventError, StoreError
from exporter.features.extract import scalar_text
from exporter.monitoring.binner import Binner
from exporter.monitoring.segments import Segments
from exporter.profiles.profile import CategoricalFeature
from exporter.server.api.correction_query import MAX_ID, MAX_LIMIT, encode_cursor
from exporter.server.application import Exporter
from exporter.server.http.problem import store_problem
from exporter.server.pages import image_png, review_cards, review_charts
from exporter.server.pages.active_filters import active_filters
from exporter.server.pages.regression import is_regression
from exporter.server.pages.review_errors import error_chart
from exporter.server.pages.review_filters import PAGE_SIZE, ReviewQuery, parameters, parse_review_query
from exporter.server.pages.slices import slices_parameters
from exporter.server.text import ago
from exporter.stats.accuracy import IntervalEstimate
from exporter.storage import label_json
from exporter.storage.review.accuracy_counts import AccuracyCounts, accuracy_counts
from exporter.storage.review.correction_pages import list_corrections
from exporter.storage.review.correction_stats import overview, read_errors
from exporter.storage.review.corrections import STATUSES, find_correction
from exporter.storage.review.decision import Decision
from exporter.storage.review.rankings import count_alike
from exporter.storage.review.review_decisions import count_decided, decide
from exporter.storage.review.review_samples import sample_for_review
from exporter.storage.review.stratified_draw import Draw
from exporter.storage.review.suspects import count_suspects, suspect_documents

MAX_SUGGESTIONS = 1000
"""Labels that the page suggests in a field."""
MAX_LABEL = 200
"""Characters of a suggested label."""
_YEAR = 365 * 86400
_Page = tuple[str, int]


class ReviewPage:
    """The review page, its forms, and the images of its cards.

    Parameters
    ----------
    exporter
        The store and the models.
    """

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def page(self) -> _Page | WerkzeugResponse:
        """``GET /review``: the page."""
        args = parameters(request.args)
        if any(not value.strip() for value in args.values()):  # forms also send empty fields
            return redirect(_address({name: value for name, value in args.items() if value.strip()}))
        return self._render(args)

    def decide(self) -> _Page | WerkzeugResponse:
        """``POST /review/decide``: decide a correction, and return to the page."""
        form = request.form
        back = dict(parse_qsl(form.get("back", "")))
        correction_id, revision, status = form.get("id", ""), form.get("revision", ""), form.get("status", "")
        if not (_is_number(correction_id) and _is_number(revision) and status in STATUSES):
            abort(400, "expected id and revision as numbers, and status as one of accepted, pending and rejected")
        text, label_type = form.get("label", "").strip(), form.get("label_type", "string")
        label = label_json(review_cards.parse_label(text, label_type)) if text and status == "accepted" else None
        decision = Decision(status, label, int(revision), g.user)
        store, redacted = self._exporter.store, self._exporter.redacted
        stored, document = store.execute(
            lambda connection, _: decide(connection, int(correction_id), decision, redacted), len(text)
        )
        if stored:
            return redirect(_address(back), 303)
        if not document:
            return self._render(back, [f"There is no correction {correction_id}."], 404)
        if document["status"] == "pending":
            return self._render(back, ["The correction has changed, and is pending again."], 409)
        reviewer = document["reviewer"] or "Another reviewer"
        return self._render(back, [f"{reviewer} decided first: it is {document['status']} now."], 409)

    def draw_sample(self) -> _Page | WerkzeugResponse:
        """``POST /review/samples``: draw predictions for review, and show them."""
        model, version, count = (request.form.get(name, "").strip() for name in ("model", "version", "count"))
        exporter = self._exporter
        if model not in exporter.pipeline.monitors.models or not (_is_number(count) and 1 <= int(count) <= MAX_LIMIT):
            abort(400, f"expected model as one that is configured, and count as a number from 1 to {MAX_LIMIT}")
        draw = Draw(model, version or None, sampled_share(exporter.config.store.inputs) is not None)
        drawn = sample_for_review(exporter.store, draw, int(count), g.user, exporter.feedback_inputs)
        back = {"model": model, "source": "sample"} | ({"version": version} if version else {})
        if not drawn:
            return self._render(back, ["No sample was drawn: there are no confident predictions without feedback."])
        return redirect(_address(back), 303)

    def image(self, correction_id: int, name: str) -> WerkzeugResponse:
        """``GET /v1/corrections/<id>/inputs/<name>.png``: an image input."""
        redacted = self._exporter.redacted
        with self._exporter.store.reading() as connection:
            document = find_correction(connection, correction_id, redacted) if correction_id <= MAX_ID else None
        if document is None:
            abort(404, f"there is no correction {correction_id}")
        monitors = self._exporter.pipeline.monitors
        inputs = review_cards.decode_document_inputs(document["inputs"])
        binner = monitors.nearest_binner(document["model"], document["version"])
        value = inputs.get(name)
        file = None if value is None else image_png.png(value, name, binner.profile if binner else None)
        if file is None:
            abort(404, f"correction {correction_id} has no image {name}")
        response = Response(file, content_type="image/png")
        response.cache_control.private = True
        response.cache_control.max_age = _YEAR if "v" in request.args else 0
        response.add_etag()
        return response.make_conditional(request)

    def _render(self, args: dict[str, str], messages: list[str] | None = None, status: int = 200) -> _Page:
        """Render the page of a query; only its first page has charts and filters."""
        monitors = self._exporter.pipeline.monitors
        now = time.time()
        context: dict[str, Any] = {"models": list(monitors.models), "messages": list(messages or []), "now": now}
        try:
            query = parse_review_query(self._exporter, args, now)
        except EventError as error:
            return render_template("review.html", **context, errors=[error.detail]), 400
        if query.slice and query.slice.truncated:
            context["messages"].append("Only the newest corrections were looked at for the slice.")
        with self._exporter.store.reading() as connection:
            documents, end = list_corrections(connection, query.filter, PAGE_SIZE, query.after, query.order)
            alike = count_alike(connection, documents) if query.order == "informative" else {}
            suspects = suspect_documents(connection, documents)
            if query.after is None:
                context |= self._overview(connection, query, now)
        model = query.filter.model
        context.setdefault("regression", self._is_regression(query, [row["prediction"] for row in documents]))
        versions = {monitor.version for monitor in monitors if model in {None, monitor.config.name}}
        page = render_template(
            "review.html",
            **context,
            query=query,
            active_filters=active_filters(query),
            slices=self._slices_question(query, now),
            cards=review_cards.cards(documents, monitors),
            alike=alike,
            suspects=suspects,
            next=query.with_changes() | {"cursor": encode_cursor(query.order, end)} if end else None,
            versions=sorted(versions),
            segments=self._segments(model),
        )
        return page, status

    def _overview(self, connection: sa.Connection, query: ReviewQuery, now: float) -> dict[str, Any]:
        """Return the values of charts and filters."""
        monitors = self._exporter.pipeline.monitors
        stats = overview(connection, query.filter)
        model = self._only_model(query)
        regression = self._is_regression(query, [pair[0] for pair in stats.pairs])
        state = self._exporter.store.review_state()
        pairs = [] if regression else stats.pairs  # of numbers there are as many as corrections
        return {
            "regression": regression,
            "decided_today": count_decided(connection, now // 86400 * 86400, g.user, query.filter.model),
            "histogram": error_chart(read_errors(connection, query.filter), query) if regression else None,
            "tolerance": monitors.models[model].correction_tolerance if model else 0,
            "counts": stats.counts,
            "suspect_count": count_suspects(connection, query.filter.model),
            "unjoined": sum(count for name, count in state.unjoined.items() if query.filter.model in {None, name}),
            "confusion": review_charts.confusion_table(pairs, query) if model else None,
            "time_chart": review_charts.time_chart(stats.rates, stats.step, query, now),
            "predicted": _options([pair[0] for pair in pairs], query.filter.predicted),
            "labels": _options([pair[1] for pair in pairs], query.filter.label),
            "accuracy": _accuracy(accuracy_counts(connection, self._exporter.tolerance), query),
            "suggestions": {name: _suggestions(monitors.binners_of(name), pairs) for name in monitors.models},
            "complete": {name for name in monitors.models if _are_complete(monitors.binners_of(name))},
        }

    def _only_model(self, query: ReviewQuery) -> str | None:
        """Return the model of all corrections of a page; None if there may be several."""
        models = self._exporter.pipeline.monitors.models
        return query.filter.model or (next(iter(models)) if len(models) == 1 else None)

    def _is_regression(self, query: ReviewQuery, predictions: list[Any]) -> bool:
        """Return whether the page shows corrections of one model, and that predicts numbers."""
        monitors, model = self._exporter.pipeline.monitors, self._only_model(query)
        if model is None:
            return False
        return is_regression(monitors.models[model], monitors.nearest_binner(model, query.filter.version), predictions)

    def _slices_question(self, query: ReviewQuery, now: float) -> dict[str, str] | None:
        """Return the parameters of the slices of the corrections that the page shows; None where there are none."""
        model = self._only_model(query)
        if (
            model is None
            or query.filter.source == "sample"
            or self._exporter.pipeline.monitors.nearest_binner(model) is None
        ):
            return None
        since = query.args.get("since") if (query.filter.since or 0) < now else None
        return slices_parameters(model, query.filter.version, "corrections", since)

    def _segments(self, model: str | None) -> tuple[str, ...]:
        monitors = self._exporter.pipeline.monitors
        binner = monitors.nearest_binner(model) if model else None
        segments = Segments.from_config(monitors.models[model], binner.profile) if model and binner else None
        return tuple(segments.names) if segments else ()


def _address(args: Mapping[str, str]) -> str:
    """Return the address of the page with parameters from a client, some of whose names `url_for` reserves."""
    return f"{url_for('review.page')}?{urlencode(args)}" if args else url_for("review.page")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text[:11]) <= MAX_ID


def _accuracy(
    by_version: Mapping[tuple[str, str], AccuracyCounts], query: ReviewQuery
) -> list[tuple[str, str, IntervalEstimate, AccuracyCounts]]:
    """Return the accuracy that reviewed samples show, by the selected models and versions."""
    return [
        (model, version, counts.estimate(), counts)
        for (model, version), counts in by_version.items()
        if query.filter.model in {None, model} and query.filter.version in {None, version}
    ]


def _options(values: list[Any], selected: str | None) -> list[tuple[str, str]]:
    """Return the labels of a selection, each as in the address and for display."""
    options = {label_json(value) or "": review_cards.abbreviate(value, 40) for value in values}
    if selected is not None and selected not in options:
        options[selected] = selected[:40]
    options.pop("", None)
    return sorted(options.items(), key=lambda option: (len(option[1]), option[1]))[:MAX_SUGGESTIONS]


def _suggestions(binners: list[Binner], pairs: list[tuple[Any, Any, int]]) -> list[str]:
    """Return the labels of training and of other corrections, as suggestions for a corrected label."""
    targets = [binner.profile.prediction for binner in binners]
    names = dict.fromkeys(
        name for target in targets if isinstance(target, CategoricalFeature) for name in target.categories
    )
    names |= dict.fromkeys(review_cards.abbreviate(label, MAX_LABEL) for _, label, _ in pairs if label is not None)
    return [name for name in names if len(name) <= MAX_LABEL][:MAX_SUGGESTIONS]


def _are_complete(binners: list[Binner]) -> bool:
    """Return whether the suggestions hold all labels that the model had in training."""
    targets = [binner.profile.prediction for binner in binners]
    return bool(targets) and all(isinstance(one, CategoricalFeature) and not one.rare for one in targets)


def _image_url(card: review_cards.Card, name: str) -> str:
    """Return the address of an image input; it changes with the image, so that browsers may cache it."""
    version = zlib.crc32(f"{card.document['prediction_id']} {card.document['predicted']}".encode())
    return url_for("review.image", correction_id=card.document["id"], name=name, v=f"{version:08x}")


def store_error(exporter: Exporter, error: StoreError) -> tuple[str, int, dict[str, str]]:
    """Return the page with an error of the store."""
    models, reply = list(exporter.pipeline.monitors.models), store_problem(error)
    return render_template("review.html", models=models, errors=[str(error)]), reply.status, dict(reply.headers)


FILTERS = {
    f.__name__: f
    for f in (ago, review_cards.abbreviate, review_cards.unix_time, review_charts.format_time, scalar_text)
}
GLOBALS = {"image_url": _image_url}
"""Functions of the templates."""
