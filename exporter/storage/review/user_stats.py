"""Count corrections by user, to find users who correct far more than others."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from exporter.storage._schema import feedback
from exporter.storage.review.corrections import STATUSES, Filter, conditions

MAX_USERS = 1000
"""Users that are returned, the most active."""
SUSPICIOUS_RATIO = 10.0
"""A user with more than this times the median user's corrections is suspicious."""
MIN_SUSPICIOUS = 20
"""A user with fewer corrections is never suspicious."""


def user_stats(connection: sa.Connection, model: str) -> dict[str, Any]:
    """Count a model's corrections by user, the most active first.

    Returns
    -------
    dict
        ``users`` (each with ``user``, None for feedback without one, ``corrections``, their ``share``, the number
        of each status, and ``suspicious``: far more than the median user), ``total`` and ``median``.
    """
    of_model = conditions(Filter(model=model))
    number = sa.func.count().label("number")
    named = sa.select(number).where(*of_model, feedback.c.user.is_not(None)).group_by(feedback.c.user).subquery()
    user_count = connection.execute(sa.select(sa.func.count()).select_from(named)).scalar_one()
    middle = sa.select(named.c.number).order_by(named.c.number).offset(max(user_count - 1, 0) // 2).limit(1)
    median = connection.execute(middle).scalar() or 0
    total = connection.execute(sa.select(sa.func.count()).select_from(feedback).where(*of_model)).scalar_one()
    by_status = [sa.func.sum(sa.case((feedback.c.status == status, 1), else_=0)).label(status) for status in STATUSES]
    query = (
        sa.select(feedback.c.user, number, *by_status)
        .where(*of_model)
        .group_by(feedback.c.user)
        .order_by(number.desc(), feedback.c.user.is_(None), feedback.c.user)
        .limit(MAX_USERS)
    )
    entries = [
        {
            "user": row.user,
            "corrections": row.number,
            "share": row.number / total,
            **{status: int(getattr(row, status)) for status in STATUSES},
            "suspicious": row.user is not None
            and row.number >= MIN_SUSPICIOUS
            and row.number > SUSPICIOUS_RATIO * median,
        }
        for row in connection.execute(query)
    ]
    return {"users": entries, "total": total, "median": median}


def suspicious_users(connection: sa.Connection, model: str) -> set[str]:
    """Return the users who corrected far more than others."""
    return {entry["user"] for entry in user_stats(connection, model)["users"] if entry["suspicious"]}
