"""Who corrected what: a few busy users must not decide what the next model learns."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from exporter.storage.corrections import STATUSES, Filter, conditions
from exporter.storage.schema import feedback

MOST_USERS = 1000
"""Users in one answer, the busiest."""
OFTEN = 10.0
"""How many times the median user's corrections are far more than others'."""
LEAST = 20
"""Corrections below which nobody is suspicious."""


def users(connection: sa.Connection, model: str) -> dict[str, Any]:
    """Corrections of a model by user, the busiest first.

    Returns
    -------
    dict
        ``users`` (each with ``user``, None for words without one, ``corrections``, their ``share``, how many are
        of each status, and ``suspicious``: far more than the median user's), ``total`` and ``median``.
    """
    mine = conditions(Filter(model=model))
    number = sa.func.count().label("number")
    named = sa.select(number).where(*mine, feedback.c.user.is_not(None)).group_by(feedback.c.user).subquery()
    known = connection.execute(sa.select(sa.func.count()).select_from(named)).scalar_one()
    middle = sa.select(named.c.number).order_by(named.c.number).offset(max(known - 1, 0) // 2).limit(1)
    median = connection.execute(middle).scalar() or 0
    total = connection.execute(sa.select(sa.func.count()).select_from(feedback).where(*mine)).scalar_one()
    by_status = [sa.func.sum(sa.case((feedback.c.status == status, 1), else_=0)).label(status) for status in STATUSES]
    query = (
        sa.select(feedback.c.user, number, *by_status)
        .where(*mine)
        .group_by(feedback.c.user)
        .order_by(number.desc(), feedback.c.user.is_(None), feedback.c.user)
        .limit(MOST_USERS)
    )
    found = [
        {
            "user": row.user,
            "corrections": row.number,
            "share": row.number / total,
            **{status: int(getattr(row, status)) for status in STATUSES},
            "suspicious": row.user is not None and row.number >= LEAST and row.number > OFTEN * median,
        }
        for row in connection.execute(query)
    ]
    return {"users": found, "total": total, "median": median}


def suspicious(connection: sa.Connection, model: str) -> set[str]:
    """Users who corrected far more than others."""
    return {one["user"] for one in users(connection, model)["users"] if one["suspicious"]}
