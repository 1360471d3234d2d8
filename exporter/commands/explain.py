"""Find the combinations of at most two bins that hold the most of the corrections, errors, estimated loss or drift of a
model.

Example::

    model-exporter explain --model=loans --of=corrections --since=6h

See docs/slices.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from exporter.commands.common import add_exporter_options, aligned, ask, exporter_client, moment, whole_number
from exporter.errors import printable
from exporter.slices import DEFAULT_LIMIT, MAX_LIMIT, QUESTIONS
from exporter.validation import parse_duration

TIMEOUT = 120.0
"""Seconds to wait for a response: searches of other clients may come first."""
_LOOKED_AT = {
    "corrections": "confident predictions",
    "errors": "predictions with a label",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add_exporter_options(parser)
    add("--model", metavar="NAME", help="model; default: the only one that is configured")
    add("--version", metavar="VERSION", help="version; default: all that have the same profile")
    add("--of", choices=QUESTIONS, default="corrections", help="what the slices hold")
    text = "predictions since then: a duration such as 6h, or a time, RFC 3339; default: the last day"
    add("--since", type=_since, metavar="TIME", help=text)
    limit = whole_number(1, MAX_LIMIT)
    add("--limit", type=limit, default=DEFAULT_LIMIT, metavar="N", help="maximum number of slices")
    add("--format", choices=("table", "json"), default="table", help="format of the output")


def run(options: argparse.Namespace) -> int:
    """Ask the exporter, and print its answer; return the exit status."""
    names = ("model", "version", "of", "since", "limit")
    query = {name: value for name in names if (value := getattr(options, name)) is not None}
    with exporter_client(options, TIMEOUT) as client:
        document = ask(client, "GET", f"/v1/slices?{urlencode(query)}")
    as_json = options.format == "json"
    print(printable(json.dumps(document, indent=2, ensure_ascii=False) if as_json else table(document)))
    return 0


def table(document: dict[str, Any]) -> str:
    """Return an answer as a table with sentences."""
    what = document["of"].replace("_", " ")
    version = f", version {document['version']}" if document["version"] else ""
    head = f"{document['model']}{version}: {what} from {document['since']} to {document['until']}"
    looked_at = _LOOKED_AT.get(document["of"], "predictions")
    looked = f"{document['total']:,.6g} of {document['predictions']:,} {looked_at}"
    if document["of"] in {"errors", "estimated_loss"} and document["total"] % 1:
        looked = f"a loss of {document['total']:,.6g} in {document['predictions']:,} {looked_at}"
    lines = [head, looked, *document["remarks"]]
    if document["truncated"]:
        lines.append("Older predictions were left out: the search is limited in memory.")
    if not document["slices"]:
        none = f"No combination of at most two bins holds significantly more {what} than its share."
        return "\n".join([*lines, "", none])
    rows = [("slice", "share", document["compared_with"], "ratio", "size", "q-value")]
    rows += [
        (
            " and ".join(f"{feature} {name}" for feature, name in one["where"].items()),
            f"{one['share']:.1%}",
            f"{one['traffic_share']:.2%}",
            f"{one['ratio']:.3g}",
            f"{one['size']:,}",
            f"{one['q_value']:.1g}",
        )
        for one in document["slices"]
    ]
    lines += ["", *aligned(rows), ""]
    lines += [one["sentence"] for one in document["slices"]]
    if segment := document["slices"][0]["segment_by"]:
        lines.append(f"To watch the first one from now on, configure segment_by: {segment}")
    return "\n".join(lines)


def _since(text: str) -> str:
    """
    >>> _since("2026-11-24T10:00:00Z")
    '2026-11-24T10:00:00Z'
    """
    since: datetime | None = None
    with contextlib.suppress(ValueError, OverflowError):
        since = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    with contextlib.suppress(argparse.ArgumentTypeError):
        since = since or moment(text)
    if since is None:
        expected = "expected a duration such as 6h, or a time such as 2026-11-24T10:00:00Z"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
    return since.isoformat(timespec="seconds").replace("+00:00", "Z")
