"""Read the values of ``--type``, which several commands have."""

from __future__ import annotations

from exporter.errors import UsageError
from exporter.features.types import INPUT_TYPES
from exporter.validation import preview, suggestion


def column_type(text: str) -> tuple[str, str]:
    """Return the column and its type in the value of ``--type``.

    Raises
    ------
    UsageError
        When it is not valid.
    """
    name, equals, type_name = text.rpartition("=")
    if not equals or not name:
        raise UsageError(f"--type: expected NAME=TYPE such as zip=categorical, got {text}")
    if type_name not in INPUT_TYPES:
        raise UsageError(f"--type: {preview(type_name)} is not a valid type; {suggestion(type_name, INPUT_TYPES)}")
    return name, type_name
