"""Reviewed examples, and their JSON lines."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from exporter.features.base import decode_label
from exporter.features.json_inputs import lenient_inputs
from exporter.validation import rfc3339

if TYPE_CHECKING:
    from exporter.storage import Selection, Store


class Example(msgspec.Struct, gc=False):
    """A reviewed example; ``label`` is the effective label."""

    id: str
    prediction_id: str | None
    model: str
    version: str
    inputs: dict[str, Any] | None
    label: Any
    prediction: Any
    confidence: float | None
    user_label: Any
    user: str | None
    reviewer: str | None
    reviewed: str | None
    predicted: str | None
    source: str
    revision: int


Page = list[Example]
Pages = Callable[[], Iterator[Page]]
"""Returns the same pages at each call."""

_Type = TypeVar("_Type")
_encoder = msgspec.json.Encoder(order="deterministic")


def encode_lines(page: Sequence[Example]) -> bytes:
    """Encode examples as JSON lines in canonical form: members in a fixed order, inputs sorted by name."""
    return _encoder.encode_lines(page)


class ExampleId(msgspec.Struct, gc=False):
    """The identifier of an example's correction."""

    id: str


def decode_lines(chunks: Iterator[bytes], type_: type[_Type]) -> Iterator[list[_Type]]:
    """Decode JSON lines that were cut into chunks anywhere; yield a list for each chunk."""
    decoder, rest = msgspec.json.Decoder(type_), b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield [decoder.decode(line) for line in lines]


log = logging.getLogger(__name__)

PAGE = 500
"""Examples that are read at a time, at most."""
PAGE_CHARACTERS = 4 * 2**20
"""Characters of inputs after which a page ends, as images are large."""

_inputs = msgspec.json.Decoder(dict[str, Any])


def stored_pages(store: Store, selection: Selection, redacted: frozenset[str]) -> Pages:
    """Return the pages of accepted corrections.

    Each page is read in a transaction of its own, so that a slow client does not hold an old state of the database.
    Corrections that are decided after this call are left out.

    Parameters
    ----------
    store
        The store.
    selection
        Which corrections; those whose label cannot be read are left out.
    redacted
        Inputs that are left out: they may have been stored when less was redacted.
    """
    selection = selection._replace(reviewed_until=time.time())

    def pages() -> Iterator[Page]:
        after: int | None = 0
        while after is not None:
            page, after = _page(store, selection, redacted, after)
            if page:
                yield page

    return pages


def _page(store: Store, selection: Selection, redacted: frozenset[str], after: int) -> tuple[Page, int | None]:
    page: Page = []
    size = 0
    with contextlib.closing(store.review.examples(selection, after)) as rows:
        for row in rows:
            if (example := to_example(row, redacted)) is not None:
                page.append(example)
            size += len(row["inputs"] or "")
            if len(page) == PAGE or size > PAGE_CHARACTERS:
                return page, row["id"]
    return page, None


def to_example(row: Mapping[Any, Any], redacted: frozenset[str]) -> Example | None:
    """Convert a row of `Review.examples`; return None if its label cannot be read."""
    inputs = decode_inputs(row["inputs"])
    if inputs and redacted:
        inputs = {name: value for name, value in inputs.items() if name not in redacted}
    stored_label = row["label"] if row["reviewed_label"] is None else row["reviewed_label"]
    label = decode_label(stored_label)
    if label is None and stored_label not in {None, "null"}:
        log.warning("correction %s is left out of the dataset: its label cannot be read", row["id"])
        return None
    sampled = row["verdict"] == "sampled"  # its label is the model's prediction, not a user's label
    return Example(
        id=str(row["id"]),
        prediction_id=row["prediction_id"],
        model=row["model"],
        version=row["version"],
        inputs=inputs,
        label=label,
        prediction=decode_label(row["prediction"]),
        confidence=row["confidence"],
        user_label=None if sampled else decode_label(row["label"]),
        user=row["user"],
        reviewer=row["reviewer"],
        reviewed=rfc3339(row["reviewed"]),
        predicted=rfc3339(row["predicted"]),
        source="sample" if sampled else "user",
        revision=row["revision"],
    )


def decode_inputs(text: str | None) -> dict[str, Any] | None:
    """Decode stored inputs; of inputs that are not valid JSON, what can be read."""
    if not text:
        return None
    try:
        return _inputs.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return lenient_inputs(text.encode("utf-8", "replace"))
