"""A release: the accepted corrections of a model so far, frozen for a training run."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from exporter.datasets.examples import Example, ExampleId, Page, Pages, decode_lines, encode_lines, to_example
from exporter.errors import StoreError
from exporter.features.extract import scalar_text
from exporter.storage import Store, releases
from exporter.storage.accepted_examples import Selection, accepted_examples
from exporter.storage.corrections import rfc3339
from exporter.storage.releases import PublishResult
from exporter.storage.user_stats import suspicious_users

log = logging.getLogger(__name__)

CHUNK = 2**20
"""Bytes in a chunk before it is compressed."""
PAGE = 256
"""Examples that are encoded at a time."""
ENTRIES = 1000
"""Labels, versions and reviewers that a lineage counts apart; the rest is counted under ``…``."""
LONGEST = 200
"""Characters of a label in a lineage."""
NAME = re.compile(r"(?![0-9a-f]{12}\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a release may be called: a file can have that name, and it is no identifier."""

_making = threading.Lock()


class BusyError(StoreError):
    """Another release is being made."""


class EmptyError(StoreError):
    """Nothing is accepted."""


def slug(text: str) -> str:
    """A name for files and releases out of any text.

    >>> slug('bare "model" 模型'), slug("模型")
    ('bare-model', 'model')
    """
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-._")[:60] or "model"


def make_release(
    store: Store, model: str, name: str | None, by: str | None, redacted: frozenset[str], *, hold_back: bool = False
) -> PublishResult:
    """Freeze what is accepted of a model at this moment.

    Parameters
    ----------
    store
        Where from, and where to.
    model
        Whose corrections.
    name
        What it is called; None names it after the model and its content.
    by
        Who wants it.
    redacted
        Inputs that are left out.
    hold_back
        Whether users who corrected far more than others are left out, too.

    Raises
    ------
    EmptyError
        When nothing is accepted.
    BusyError
        When another one is being made.
    StoreError
        When the database fails.
    """
    if not _making.acquire(blocking=False):
        raise BusyError("another release is being made; try again when it is done")
    try:
        _tidy(store)
        return _make(store, model, name, by, redacted, hold_back=hold_back)
    finally:
        _making.release()


def _make(
    store: Store, model: str, name: str | None, by: str | None, redacted: frozenset[str], *, hold_back: bool
) -> PublishResult:
    build, lineage = uuid.uuid4().hex, _Lineage(hold_back)
    digest, size, number = hashlib.sha256(), 0, 0
    taken: PublishResult | None = None
    try:
        waiting = bytearray()
        for text in _frozen(store, model, redacted, lineage):
            digest.update(text)
            size += len(text)
            waiting += text
            while len(waiting) >= CHUNK:
                releases.write_chunk(store, build, number, bytes(waiting[:CHUNK]))
                del waiting[:CHUNK]
                number += 1
        if not lineage.examples:
            but = " but what is held back" if lineage.holds_back else ""
            raise EmptyError(f"nothing of {model} is accepted{but}: review its corrections first")
        if waiting:
            releases.write_chunk(store, build, number, bytes(waiting))
        sha256 = digest.hexdigest()
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
        taken = releases.publish(store, values)
        if taken.conflict == "content" and name is None:  # it was named when it was made
            taken = taken._replace(conflict="")
    finally:
        if taken is None or not taken.new:
            releases.delete_chunks(store, build)
    if taken.new:
        _mark(store, taken.row)
    return taken


def _frozen(store: Store, model: str, redacted: frozenset[str], lineage: _Lineage) -> Iterator[bytes]:
    """The lines, out of one query: decisions that are made meanwhile are not in them."""
    page: Page = []
    with store.reading() as connection:
        held = suspicious_users(connection, model) if lineage.holds_back else set()
        for row in accepted_examples(connection, Selection(model)):
            if row["user"] in held:
                lineage.hold(row["user"])
                continue
            one = to_example(row, redacted)
            lineage.add(one, row["predicted"])
            page.append(one)
            if len(page) == PAGE or len(row["inputs"] or "") > CHUNK // 16:
                yield encode_lines(page)
                page.clear()
    if page:
        yield encode_lines(page)


def _mark(store: Store, row: releases.Row) -> None:
    """Mark a release's examples, which it names itself: so this can be done again after a crash."""
    for places in decode_lines(releases.read_chunks(store, row["build"]), ExampleId):
        releases.mark_released(store, [int(one.id) for one in places])
    releases.set_marked(store, row["seq"])


def _tidy(store: Store) -> None:
    """Do what a crash, or a database that failed, left undone."""
    with store.reading() as connection:
        left, given_up = releases.unmarked_releases(connection), releases.unfinished_builds(connection, time.time())
    for row in left:
        _mark(store, row)
    for build in given_up:
        log.info("a release that was never finished is deleted")
        releases.delete_chunks(store, build)


def frozen_pages(store: Store, row: releases.Row) -> Pages:
    """The examples of a release."""
    return lambda: decode_lines(releases.read_chunks(store, row["build"]), Example)


def release_document(row: releases.Row) -> dict[str, Any]:
    """A release as its JSON document."""
    keys = ("id", "name", "model", "sha256", "examples", "bytes")
    known = {key: row[key] for key in keys}
    return {
        **known,
        "created": rfc3339(row["created"]),
        "by": row["by"],
        "lineage": msgspec.Raw(row["lineage"].encode()),
    }


class _Lineage:
    """Where the examples of a release come from, in bounded memory."""

    def __init__(self, holds_back: bool) -> None:
        self.examples = 0
        self.holds_back = holds_back
        self._held: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._reviewers: Counter[str] = Counter()
        self._first: float | None = None
        self._last: float | None = None

    def add(self, one: Example, predicted: float | None) -> None:
        """Count an example."""
        self.examples += 1
        _count(self._versions, one.version)
        _count(self._labels, "null" if one.label is None else scalar_text(one.label))
        if one.reviewer is not None:
            _count(self._reviewers, one.reviewer)
        if predicted is not None:
            self._first = predicted if self._first is None else min(self._first, predicted)
            self._last = predicted if self._last is None else max(self._last, predicted)

    def hold(self, user: str) -> None:
        """Count an example that is held back."""
        _count(self._held, user)

    def document(self) -> dict[str, Any]:
        """As JSON has it; ``from`` and ``to`` are the first and the last prediction's times."""
        counts = {"versions": self._versions, "labels": self._labels, "reviewers": self._reviewers}
        if self.holds_back:
            counts["held_back"] = self._held
        sorted_counts = {name: dict(sorted(counter.items())) for name, counter in counts.items()}
        return {**sorted_counts, "from": rfc3339(self._first), "to": rfc3339(self._last)}


def _count(counter: Counter[str], name: str) -> None:
    short = name if len(name) <= LONGEST else f"{name[:LONGEST]}…"
    counter[short if short in counter or len(counter) < ENTRIES else "…"] += 1
