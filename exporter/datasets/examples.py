"""What a dataset is made of: reviewed examples, read in pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from exporter.features.lenient_json import lenient_inputs
from exporter.storage import Store
from exporter.storage.accepted_examples import Selection, accepted_examples
from exporter.storage.corrections import decode_label, rfc3339

PAGE = 500
"""Examples read at a time, at the most."""
PAGE_CHARACTERS = 4 * 2**20
"""Characters of inputs after which a page ends: images are large."""


class Example(msgspec.Struct, gc=False):
    """A reviewed example; ``label`` is the answer that counts."""

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
"""Gives the same pages each time it is called."""

_Kind = TypeVar("_Kind")
_encoder = msgspec.json.Encoder(order="deterministic")
_inputs = msgspec.json.Decoder(dict[str, Any])


def stored_pages(store: Store, chosen: Selection, redacted: frozenset[str]) -> Pages:
    """The pages of accepted corrections.

    Each is read by itself: a slow client must not hold the database to a state that is long gone.
    What is decided after this call is not in them.

    Parameters
    ----------
    store
        Where from.
    chosen
        Which.
    redacted
        Inputs that are left out, whatever was stored when less was redacted.
    """
    chosen = chosen._replace(reviewed_until=time.time())

    def pages() -> Iterator[Page]:
        after: int | None = 0
        while after is not None:
            page, after = _page(store, chosen, redacted, after)
            if page:
                yield page

    return pages


def _page(store: Store, chosen: Selection, redacted: frozenset[str], after: int) -> tuple[Page, int | None]:
    page: Page = []
    size = 0
    with store.reading() as connection:
        for row in accepted_examples(connection, chosen, after):
            page.append(to_example(row, redacted))
            size += len(row["inputs"] or "")
            if len(page) == PAGE or size > PAGE_CHARACTERS:
                return page, row["id"]
    return page, None


def to_example(row: Mapping[Any, Any], redacted: frozenset[str]) -> Example:
    """A row of `exporter.storage.accepted_examples.accepted_examples` as an example."""
    inputs = decode_inputs(row["inputs"])
    if inputs and redacted:
        inputs = {name: value for name, value in inputs.items() if name not in redacted}
    sampled = row["verdict"] == "sampled"  # its label is the model's own answer, no user's
    return Example(
        id=str(row["id"]),
        prediction_id=row["prediction_id"],
        model=row["model"],
        version=row["version"],
        inputs=inputs,
        label=decode_label(row["label"] if row["reviewed_label"] is None else row["reviewed_label"]),
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


def encode_lines(page: Sequence[Example]) -> bytes:
    """Examples as JSON lines in their one canonical form: members in a fixed order, names of inputs sorted."""
    return _encoder.encode_lines(page)


class ExampleId(msgspec.Struct, gc=False):
    """Which correction an example is."""

    id: str


def decode_lines(chunks: Iterator[bytes], kind: type[_Kind]) -> Iterator[list[_Kind]]:
    """JSON lines as objects, wherever they were cut into chunks; a list a chunk."""
    decoder, rest = msgspec.json.Decoder(kind), b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        if whole:
            yield [decoder.decode(line) for line in whole]


def decode_inputs(text: str | None) -> dict[str, Any] | None:
    """Stored inputs, as far as they can be read."""
    if not text:
        return None
    try:
        return _inputs.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return lenient_inputs(text.encode("utf-8", "replace"))
