"""The review page: users' corrections, decided one after another."""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
import sqlalchemy as sa
from flask import Blueprint, Response, abort, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as Answer

from exporter.config import sampled_share
from exporter.errors import EventError, StoreError
from exporter.monitoring.binner import Binner
from exporter.monitoring.segments import Segments
from exporter.profiles.profile import CategoricalFeature
from exporter.server.api.correction_query import MAX_ID, MAX_LIMIT, encode_cursor
from exporter.server.application import Exporter
from exporter.server.pages import image_png, review_cards, review_charts
from exporter.server.pages.review_filters import PAGE, Choice, choice, parameters
from exporter.stats.accuracy import Estimate, estimate_accuracy
from exporter.storage.accuracy_counts import StratumCounts, accuracy_counts
from exporter.storage.correction_stats import overview
from exporter.storage.corrections import STATUSES, Filter, find_correction, list_corrections
from exporter.storage.review_decisions import Decision, decide
from exporter.storage.review_samples import Draw, sample_for_review
from exporter.storage.schema import label_json

KNOWN_LABELS = 1000
"""Labels that the relabelling field offers."""
SHORT = 200
"""Characters of a label that stands in an address or among those offered."""
_FOREVER = 365 * 86400


def blueprint(exporter: Exporter) -> Blueprint:
    """The page ``/review``, its forms, and the images of its cards."""
    routes = Blueprint("review", __name__)
    routes.add_app_template_filter(review_charts.ago)
    routes.add_app_template_filter(review_cards.brief)
    routes.add_app_template_filter(review_cards.seconds)
    routes.add_app_template_global(_picture, "picture")

    @routes.errorhandler(StoreError)
    def failed(error: StoreError) -> tuple[str, int, dict[str, str]]:
        page = render_template("review.html", models=list(exporter.pipeline.monitors.models), wrong=[str(error)])
        return page, 503, {"Retry-After": "5"}

    @routes.get("/review")
    def page() -> tuple[str, int] | Answer:
        args = parameters(request.args)
        if any(not value.strip() for value in args.values()):  # a form sends its empty fields, too
            return redirect(_address({name: value for name, value in args.items() if value.strip()}))
        return _page(exporter, args)

    @routes.post("/review/decide")
    def decided() -> tuple[str, int] | Answer:
        form = request.form
        back = dict(parse_qsl(form.get("back", "")))
        place, revision, status = form.get("id", ""), form.get("revision", ""), form.get("status", "")
        if not (_is_number(place) and _is_number(revision) and status in STATUSES):
            abort(400, "expected id and revision as numbers, and status as one of accepted, pending and rejected")
        typed, kind = form.get("label", "").strip(), form.get("like", "string")
        label = label_json(review_cards.typed(typed, kind)) if typed and status == "accepted" else None
        decision = Decision(status, label, int(revision), g.user)
        taken, known = exporter.store.execute(lambda connection, _: decide(connection, int(place), decision))
        if taken:
            return redirect(_address(back), 303)
        who = known and (known["reviewer"] or "Another reviewer")
        told = (
            f"{who} was first: it is {known['status']} now." if known else f"There is no correction {place} any more."
        )
        return _page(exporter, back, [told], 409 if known else 404)

    @routes.post("/review/samples")
    def sample() -> tuple[str, int] | Answer:
        model, version, count = (request.form.get(name, "").strip() for name in ("model", "version", "count"))
        if model not in exporter.pipeline.monitors.models or not (_is_number(count) and 1 <= int(count) <= MAX_LIMIT):
            abort(400, f"expected model as one that is configured, and count as a number from 1 to {MAX_LIMIT}")
        chosen = Draw(model, version or None, sampled_share(exporter.config.store.inputs) is not None)
        drawn = sample_for_review(exporter.store, chosen, int(count), g.user, exporter.snapshot)
        back = {"model": model, "source": "sample"} | ({"version": version} if version else {})
        if not drawn:
            return _page(
                exporter, back, ["Nothing was drawn: no confident prediction without a user’s word was found."]
            )
        return redirect(_address(back), 303)

    @routes.get("/v1/corrections/<int:correction_id>/inputs/<path:name>.png")
    def picture(correction_id: int, name: str) -> Answer:
        with exporter.store.reading() as connection:
            known = find_correction(connection, correction_id) if correction_id <= MAX_ID else None
        if known is None:
            abort(404, f"there is no correction {correction_id}")
        model = exporter.pipeline.monitors.models.get(known["model"])
        value = review_cards.decoded(known["inputs"]).get(name) if not (model and name in model.redact) else None
        binner = exporter.pipeline.monitors.nearest_binner(known["model"], known["version"])
        file = None if value is None else image_png.png(value, name, binner.profile if binner else None)
        if file is None:
            abort(404, f"correction {correction_id} has no image {name}")
        response = Response(file, content_type="image/png")
        response.cache_control.private = True
        response.cache_control.max_age = _FOREVER if "v" in request.args else 0
        response.add_etag()
        return response.make_conditional(request)

    return routes


def _address(args: Mapping[str, str]) -> str:
    """The page with parameters that a client named: `url_for` has a meaning of its own for some names."""
    return f"{url_for('review.page')}?{urlencode(args)}" if args else url_for("review.page")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text[:11]) <= MAX_ID


def _page(
    exporter: Exporter, args: dict[str, str], told: list[str] | None = None, status: int = 200
) -> tuple[str, int]:
    """The page of a choice; its first page has everything at a glance, the others are there to be read on."""
    monitors = exporter.pipeline.monitors
    models = monitors.models
    now = time.time()
    context: dict[str, Any] = {"models": list(models), "told": told or [], "now": now}
    try:
        asked = choice(exporter, args, now)
    except EventError as error:
        return render_template("review.html", **context, wrong=[error.detail]), 400
    with exporter.store.reading() as connection:
        documents, end = list_corrections(connection, asked.filter, PAGE, asked.after, asked.order)
        if asked.after is None:
            seen = overview(connection, asked.filter)
            pairs = seen.pairs
            context |= {
                "counts": seen.counts,
                "confusion": review_charts.confused(pairs, asked) if asked.filter.model or len(models) == 1 else None,
                "bars": review_charts.over_time(seen.rates, seen.step, asked, now),
                "predicted": _options([pair[0] for pair in pairs], asked.filter.predicted),
                "labels": _options([pair[1] for pair in pairs], asked.filter.label),
                "accuracy": _accuracy(connection, asked),
                "offered": {name: _offered(monitors.binners_of(name), pairs) for name in models},
            }
    found = review_cards.cards(documents, monitors)
    versions = {monitor.version for monitor in monitors if asked.filter.model in {None, monitor.config.name}}
    model = asked.filter.model
    binner = monitors.nearest_binner(model) if model else None
    segments = Segments.from_config(models[model], binner.profile) if model and binner else None
    return (
        render_template(
            "review.html",
            **context,
            choice=asked,
            chips=_chips(asked),
            cards=found,
            next=asked.but() | {"cursor": encode_cursor(asked.order, end)} if end else None,
            versions=sorted(versions),
            segments=segments.names if segments else (),
        ),
        status,
    )


def _accuracy(connection: sa.Connection, asked: Choice) -> list[tuple[str, str, Estimate, StratumCounts]]:
    """What reviewed samples say, by model and version, of those that are chosen."""
    return [
        (model, version, estimate_accuracy(*msgspec.structs.astuple(found)), found)
        for (model, version), found in accuracy_counts(connection).items()
        if asked.filter.model in {None, model} and asked.filter.version in {None, version}
    ]


def _options(values: list[Any], chosen: str | None) -> list[tuple[str, str]]:
    """Labels to choose from, as the address and as people spell them."""
    found = {label_json(value) or "": review_cards.brief(value, 40) for value in values}
    if chosen is not None and chosen not in found:
        found[chosen] = chosen[:40]
    found.pop("", None)
    return sorted(found.items(), key=lambda one: (len(one[1]), one[1]))[:KNOWN_LABELS]


def _offered(binners: list[Binner], pairs: list[tuple[Any, Any, int]]) -> list[str]:
    trained = [binner.profile.prediction for binner in binners]
    names = dict.fromkeys(name for one in trained if isinstance(one, CategoricalFeature) for name in one.categories)
    names |= dict.fromkeys(review_cards.brief(label, SHORT) for _, label, _ in pairs if label is not None)
    return [name for name in names if len(name) <= SHORT][:KNOWN_LABELS]


def _chips(asked: Choice) -> list[tuple[str, dict[str, str]]]:
    """What is filtered by, in words, and the address without it."""
    words = {
        "since": lambda: f"since {review_charts.clock(asked.filter.since or 0)} UTC",
        "until": lambda: f"until {review_charts.clock(asked.filter.until or 0)} UTC",
        "confidence_from": lambda: f"confidence from {asked.args['confidence_from']}",
        "confidence_to": lambda: f"confidence up to {asked.args['confidence_to']}",
        "q": lambda: f"with “{asked.args['q'][:40]}”",
        "source": lambda: {"sample": "drawn samples", "all": "corrections and samples"}[asked.filter.source],
    }
    return [
        (words[name]() if name in words else f"{name} {asked.args[name][:40]}", asked.but(**{name: None}))
        for name in Filter._fields
        if name in asked.args and name != "status"
    ]


def _picture(card: review_cards.Card, name: str) -> str:
    """The address of an image input; it changes with the picture, so that browsers may keep it."""
    version = zlib.crc32(f"{card.known['prediction_id']} {card.known['predicted']}".encode())
    return url_for("review.picture", correction_id=card.known["id"], name=name, v=f"{version:08x}")
