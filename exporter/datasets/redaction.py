"""Remove inputs from releases that were made before these were redacted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from exporter.datasets.examples import Example, Page, decode_lines


def holds(chunks: Iterable[bytes], names: Collection[str]) -> bool:
    """Return whether the content of a release may hold one of these inputs: true if it does, and for few others.

    A release is canonical JSON, in which a name is written in one way. The content may be cut anywhere.

    >>> holds([b'{"inputs":{"na', b'me":"Ada"}}'], ["name"]), holds([b'{"inputs":{"age":41}}'], ["name"])
    (True, False)
    """
    members = [msgspec.json.encode(name) + b":" for name in names]
    overlap = max(map(len, members), default=1) - 1
    end = b""
    for chunk in chunks:
        text = end + chunk
        if any(member in text for member in members):
            return True
        end = text[-overlap:] if overlap else b""
    return False


def redacted_lineage(lineage: Mapping[str, Any], redacted: Collection[str]) -> dict[str, Any]:
    """Return the lineage of a release without the slices of redacted inputs: a bin may be named after a value.

    >>> redacted_lineage({"slices": [{"input": "name", "where": {"name": "00 Ada"}}]}, ["name"])
    {'slices': []}
    """
    slices = lineage.get("slices")
    if not slices:
        return dict(lineage)
    return {**lineage, "slices": [one for one in slices if one["input"] not in redacted]}


def redacted_pages(chunks: Iterator[bytes], redacted: Collection[str]) -> Iterator[Page]:
    """Yield the examples of a release without redacted inputs."""
    for page in decode_lines(chunks, Example):
        for example in page if redacted else ():
            if example.inputs:
                example.inputs = {name: value for name, value in example.inputs.items() if name not in redacted}
        yield page
