"""How far reviewers agree, from the second opinions that are stored."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import sqlalchemy as sa

from exporter.stats.agreement import Agreement, agreement
from exporter.storage._schema import second_opinions
from exporter.storage.review.second_opinions import in_state

MAX_OPINIONS = 10_000
"""The latest second opinions of a model, from which the agreement is computed."""
OPEN_STATES = ("awaited", "disputed")
"""The states in which a correction waits for another reviewer."""
MAX_REVIEWERS = 100
"""Pairs of reviewers that are returned, those with the most second opinions."""

_table = second_opinions.c


def read_agreement(connection: sa.Connection) -> dict[str, Agreement]:
    """Return how far reviewers agree, by model; see `MAX_OPINIONS`."""
    models = sa.select(_table.model).where(_table.second_time.is_not(None), _table.model.is_not(None)).distinct()
    found = {
        model: agreement((row.first_category, row.second_category) for row in _latest(connection, model))
        for model in connection.execute(models).scalars().all()
    }
    return {model: one for model, one in found.items() if one.pairs}  # opinions may be taken back between two queries


def reviewer_agreement(connection: sa.Connection, model: str) -> dict[str, Any]:
    """Return how far the reviewers of a model agree, all together and each pair of them, as a JSON document.

    Kappa of all compares first with second opinions; that of two reviewers compares one with the other, whoever was
    first.
    """
    pairs: list[tuple[str, str]] = []
    of_two: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for row in _latest(connection, model):
        categories = (row.first_category, row.second_category)
        pairs.append(categories)
        names = (row.first_reviewer, row.second_reviewer)
        of_two[min(names), max(names)].append(categories if names[0] < names[1] else categories[::-1])
    most = sorted(of_two.items(), key=lambda item: (-len(item[1]), item[0]))[:MAX_REVIEWERS]
    return {
        "model": model,
        **_document(agreement(pairs)),
        **{state: _count(connection, model, state) for state in OPEN_STATES},
        "reviewers": [{"reviewers": names, **_document(agreement(given))} for names, given in most],
    }


def count_open(connection: sa.Connection) -> dict[str, dict[str, int]]:
    """Return how many corrections wait for another reviewer: for each of `OPEN_STATES`, the number by model."""
    return {state: _count_by_model(connection, state) for state in OPEN_STATES}


def _count_by_model(connection: sa.Connection, state: str) -> dict[str, int]:
    counts = in_state(state).with_only_columns(_table.model, sa.func.count()).group_by(_table.model)
    return {model: count for model, count in connection.execute(counts) if model is not None}


def _latest(connection: sa.Connection, model: str) -> sa.CursorResult[Any]:
    columns = (_table.first_reviewer, _table.second_reviewer, _table.first_category, _table.second_category)
    query = sa.select(*columns).where(_table.model == model, _table.second_time.is_not(None))
    return connection.execute(query.order_by(_table.second_time.desc()).limit(MAX_OPINIONS))


def _count(connection: sa.Connection, model: str, state: str) -> int:
    query = in_state(state).with_only_columns(sa.func.count()).where(_table.model == model)
    return connection.execute(query).scalar_one()


def _document(found: Agreement) -> dict[str, Any]:
    bounds = {"kappa": found.kappa, "kappa_lower": found.lower, "kappa_upper": found.upper}
    return {"corrections": found.pairs, "agreed": found.agreed, **bounds}
