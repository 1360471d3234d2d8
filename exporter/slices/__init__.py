"""Slices: combinations of at most two bins that hold more than their share of corrections, errors, loss or drift."""

from __future__ import annotations

from typing import Literal, get_args

Of = Literal["corrections", "drift", "errors", "estimated_loss"]
QUESTIONS: tuple[Of, ...] = get_args(Of)
"""What the slices may be searched for."""
DEFAULT_LIMIT, MAX_LIMIT = 10, 50
"""Slices of an answer: unless the client asks for another number, and at most."""
