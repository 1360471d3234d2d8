"""Find and clean rows that were stored before an input was redacted."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import sqlalchemy as sa

MAX_NAMES = 200
"""Names that one condition looks for; with more, every row may hold one of them."""


def may_hold(inputs: sa.ColumnElement[str | None], names: Collection[str]) -> sa.ColumnElement[bool]:
    """Return whether a column of inputs may hold one of these: true if it does, and for few others.

    Inputs that were stored while something is redacted are canonical JSON, in which a name is written in one way. Of
    others, only those with an escape sequence may write it differently.
    """
    if len(names) > MAX_NAMES:
        return sa.true()
    texts = ["\\u", *(["\\/"] if any("/" in name for name in names) else [])]
    texts += [msgspec.json.encode(name).decode() for name in names]
    return sa.or_(*(inputs.contains(text, autoescape=True) for text in texts))
