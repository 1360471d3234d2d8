"""The JSON document of a correction.

Older versions, or other programs, may have written values that cannot be read: a time of the year 0, or a label that is
not JSON. Such a member is null, and the document names it, so that the correction can still be decided.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from exporter.features.png_codec import unpack_json
from exporter.features.stored_inputs import readable, remove_inputs
from exporter.storage._schema import decode_label, rfc3339

Redacted = Mapping[str, Collection[str]]
"""Names of inputs that are never shown, by model."""


_MEMBERS = (
    "id", "prediction_id", "model", "version", "segment", "joined", "verdict", "source", "inputs", "prediction",
    "confidence", "predicted", "label", "user_label", "user", "comment", "created", "status", "reviewer", "reviewed",
    "revision",
)  # fmt: skip


def correction_document(row: Mapping[Any, Any], redacted: Redacted) -> dict[str, Any]:
    """Return a correction as its JSON document; ``label`` is the effective label.

    Members that cannot be read are null, and are named in ``unreadable``, which is absent if there are none.

    Parameters
    ----------
    row
        A row of the table ``feedback``.
    redacted
        Inputs that are left out: they may have been stored when less was redacted.
    """
    stored = {
        "inputs": row["inputs"] or None,
        "prediction": row["prediction"],
        "predicted": row["predicted"],
        "label": row["label"] if row["reviewed_label"] is None else row["reviewed_label"],
        "user_label": None if row["verdict"] == "sampled" else row["label"],
        "created": row["created"],
        "reviewed": row["reviewed"],
    }
    inputs = readable(unpack_json(remove_inputs(stored["inputs"] or "", redacted.get(row["model"], ()))))
    read = {
        "inputs": msgspec.Raw(inputs.encode()) if inputs else None,
        **{name: decode_label(stored[name]) for name in ("prediction", "label", "user_label")},
        **{name: rfc3339(stored[name]) for name in ("predicted", "created", "reviewed")},
    }
    unreadable = [name for name, value in stored.items() if value not in {None, "null"} and read[name] is None]
    document = {
        **row,
        **read,
        "id": str(row["id"]),
        "joined": bool(row["joined"]),
        "source": "sample" if row["verdict"] == "sampled" else "user",
    }
    return {name: document[name] for name in _MEMBERS} | ({"unreadable": unreadable} if unreadable else {})
