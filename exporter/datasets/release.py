"""Make releases: the accepted corrections of a model, frozen for a training run."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from exporter.datasets.examples import Example, ExampleId, Page, Pages, decode_lines, encode_lines, to_example
from exporter.datasets.lineage import Details, Lineage
from exporter.errors import StoreError, StoreFullError
from exporter.storage import Store
from exporter.storage import _releases as releases
from exporter.storage._releases import PublishResult
from exporter.storage._schema import rfc3339
from exporter.storage.review.accepted_examples import Selection, accepted_examples
from exporter.storage.review.accuracy_counts import sampled_strata
from exporter.storage.review.suspects import last_check, suspect_ids
from exporter.storage.review.user_stats import suspicious_users

log = logging.getLogger(__name__)

CHUNK = 2**20
"""Bytes in a chunk before it is compressed."""
RELEASE_PAGE = 256
"""Examples that are encoded at a time, at most."""
NAME = re.compile(r"(?![0-9a-f]{12}\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""A valid name of a release: a file can have it, and it is not an identifier."""

_lock = threading.Lock()


class BusyError(StoreError):
    """Another release is being made."""


class EmptyError(StoreError):
    """No correction is accepted."""


def slug(text: str) -> str:
    """Return a name for files and releases from any text.

    >>> slug('bare "model" 模型'), slug("模型")
    ('bare-model', 'model')
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")[:60] or "model"


def make_release(
    store: Store,
    model: str,
    name: str | None,
    by: str | None,
    redacted: frozenset[str],
    *,
    details: Details | None = None,
    hold_back: bool = False,
    exclude_suspects: bool = False,
) -> PublishResult:
    """Freeze a model's accepted corrections as they are now.

    Parameters
    ----------
    store
        The store with the corrections, which gets the release.
    model
        The model.
    name
        The release's name; None names it after the model and its content.
    by
        The user who makes the release.
    redacted
        Inputs that are left out.
    details
        What counts the examples in more ways than `Lineage`.
    hold_back
        Whether to leave out users who corrected far more than others.
    exclude_suspects
        Whether to leave out corrections whose label may be wrong; see `exporter.storage.review.suspects`.

    Raises
    ------
    EmptyError
        When no correction is accepted.
    BusyError
        When another release is being made.
    StoreError
        When the database fails, or has no room for a new release.
    """
    if not _lock.acquire(blocking=False):
        raise BusyError("another release is being made; try again when it is done")
    try:
        _finish_interrupted(store)
        lineage = Lineage(details, holds_back=hold_back, excludes_suspects=exclude_suspects)
        return _make(store, model, name, by, redacted=redacted, lineage=lineage)
    finally:
        _lock.release()


def _make(
    store: Store, model: str, name: str | None, by: str | None, *, redacted: frozenset[str], lineage: Lineage
) -> PublishResult:
    build = uuid.uuid4().hex
    result: PublishResult | None = None
    refused: StoreFullError | None = None

    def write(number: int, data: bytes) -> None:
        nonlocal refused
        if refused is None:
            try:
                store.execute(lambda connection, _: releases.write_chunk(connection, build, number, data), len(data))
            except StoreFullError as error:  # the same release may exist: its hash will tell
                refused = error

    try:
        sha256, size = write_content(_encode(store, model, redacted, lineage), write)
        if not lineage.examples:
            exception = f", except those that are {lineage.left_out}" if lineage.left_out else ""
            raise EmptyError(f"no correction of {model} is accepted{exception}: review its corrections first")
        values = {
            "id": sha256[:12],
            "name": name or f"{slug(model)}-{sha256[:12]}",
            "model": model,
            "sha256": sha256,
            "examples": lineage.examples,
            "bytes": size,
            "created": time.time(),
            "by": by,
            "lineage": msgspec.json.encode(lineage.document()).decode(),
            "build": build,
        }
        result = releases.publish(store, values, refused)
        if result.conflict == "content" and name is None:  # the existing release has a name of its own
            result = result._replace(conflict="")
    finally:
        if result is None or not result.new:
            releases.delete_chunks(store, build)
    if result.new:
        _mark_examples(store, result.row)
    return result


def write_content(content: Iterator[bytes], write: Callable[[int, bytes], object]) -> tuple[str, int]:
    """Write a release's content in chunks with their numbers; return its SHA-256 and its size in bytes."""
    digest, size, number = hashlib.sha256(), 0, 0
    waiting = bytearray()
    for text in content:
        digest.update(text)
        size += len(text)
        waiting += text
        while len(waiting) >= CHUNK:
            write(number, bytes(waiting[:CHUNK]))
            del waiting[:CHUNK]
            number += 1
    if waiting:
        write(number, bytes(waiting))
    return digest.hexdigest(), size


def _encode(store: Store, model: str, redacted: frozenset[str], lineage: Lineage) -> Iterator[bytes]:
    """Yield the release's lines, from one query: decisions that are made meanwhile are left out."""
    page: Page = []
    with store.reading() as connection:
        held_back = suspicious_users(connection, model) if lineage.holds_back else set()
        suspects, check = suspect_ids(connection, model), last_check(connection, model)
        lineage.checked = check.time if check else None
        lineage.sampling = sampled_strata(connection, model)
        lineage.parent = next((row["id"] for row in releases.list_releases(connection, model, 1, None)), None)
        for row in accepted_examples(connection, Selection(model)):
            if row["user"] in held_back:
                lineage.hold_back(row["user"])
                continue
            if (example := to_example(row, redacted)) is None:
                continue
            if row["id"] in suspects:
                lineage.suspects += 1
                if lineage.excludes_suspects:
                    continue
            lineage.add(example, row["predicted"])
            page.append(example)
            if len(page) == RELEASE_PAGE or len(row["inputs"] or "") > CHUNK // 16:
                lineage.add_page(page)
                yield encode_lines(page)
                page.clear()
    if page:
        lineage.add_page(page)
        yield encode_lines(page)


def _mark_examples(store: Store, row: releases.Row) -> None:
    """Mark a release's examples as released; they are read from it, so that this can be repeated after a crash."""
    for examples in decode_lines(releases.read_chunks(store.reading, row), ExampleId):
        releases.mark_released(store, [int(example.id) for example in examples])
    releases.set_marked(store, row["seq"])


def _finish_interrupted(store: Store) -> None:
    """Finish what a crash or a failing database interrupted: mark examples, and delete unfinished releases."""
    with store.reading() as connection:
        unmarked = releases.unmarked_releases(connection)
        unfinished = releases.unfinished_builds(connection, time.time())
    for row in unmarked:
        _mark_examples(store, row)
    for build in unfinished:
        log.info("deleting a release that was never finished")
        releases.delete_chunks(store, build)


def frozen_pages(store: Store, row: releases.Row, redacted: frozenset[str]) -> Pages:
    """Return the pages of a release's examples, without inputs that were redacted since."""
    return lambda: redacted_pages(releases.read_chunks(store.reading, row), redacted)


def release_document(row: releases.Row, redacted: Collection[str]) -> dict[str, Any]:
    """Return a release as its JSON document, without what is known of redacted inputs."""
    keys = ("id", "name", "model", "sha256", "examples", "bytes")
    return {
        **{key: row[key] for key in keys},
        "created": rfc3339(row["created"]),
        "by": row["by"],
        "lineage": redacted_lineage(msgspec.json.decode(row["lineage"]), redacted),
    }


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
