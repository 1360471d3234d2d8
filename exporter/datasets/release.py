"""Make releases: the dataset of a model, frozen for a training run, with counts of its origins."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from exporter.datasets import Example, ExampleId, Page, Pages, decode_lines, encode_lines, to_example
from exporter.errors import StoreError
from exporter.features.base import scalar_text
from exporter.storage import ADDED, Mix, PublishResult, ReleaseRow, Store
from exporter.validation import rfc3339
from exporter.version import version

log = logging.getLogger(__name__)

PAGE_CHARACTERS = 2**16
"""Characters of inputs after which a page ends."""
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
    profile: str | None = None,
    exclude_suspects: bool = False,
    include: Collection[str] = (),
) -> PublishResult:
    """Freeze a model's accepted corrections as they are now, and what is added to them.

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
    profile
        Hash of the profile of the version that serves; None without one.
    exclude_suspects
        Whether to leave out corrections whose label may be wrong.
    include
        Which of `exporter.storage.ADDED` are added.

    Raises
    ------
    EmptyError
        When there is no example.
    BusyError
        When another release is being made.
    StoreError
        When the database fails, or has no room for a new release.
    """
    if not _lock.acquire(blocking=False):
        raise BusyError("another release is being made; try again when it is done")
    try:
        _finish_interrupted(store)
        lineage = Lineage(profile, [one for one in ADDED if one in include], excludes_suspects=exclude_suspects)
        return _make(store, model, name, by, redacted=redacted, lineage=lineage)
    finally:
        _lock.release()


def _make(
    store: Store, model: str, name: str | None, by: str | None, *, redacted: frozenset[str], lineage: Lineage
) -> PublishResult:
    build = uuid.uuid4().hex
    result: PublishResult | None = None
    try:
        content = store.releases.write(build, _encode(store, model, redacted, lineage))
        if not lineage.examples:
            exception = ", except suspects" if lineage.excludes_suspects else ""
            raise EmptyError(f"no correction of {model} is accepted{exception}: review its corrections first")
        values = {
            "id": content.sha256[:12],
            "name": name or f"{slug(model)}-{content.sha256[:12]}",
            "model": model,
            "examples": lineage.examples,
            "created": time.time(),
            "by": by,
            "lineage": msgspec.json.encode(lineage.document()).decode(),
        }
        result = store.releases.publish(values, content)
        if result.conflict == "content" and name is None:  # the existing release has a name of its own
            result = result._replace(conflict="")
    finally:
        if result is None or not result.new:
            store.releases.delete_chunks(build)
    if result.new:
        _mark_examples(store, result.row)
    return result


def _encode(store: Store, model: str, redacted: frozenset[str], lineage: Lineage) -> Iterator[bytes]:
    """Yield the release's lines, from one query: decisions that are made meanwhile are left out."""
    page: Page = []
    lineage.parent = next((row["id"] for row in store.releases.list(model, 1)), None)
    with store.review.training_set(model, lineage.include) as found:
        lineage.checked, lineage.sampling, lineage.mix = found.checked, found.sampling, found.mix
        for row in found.examples:
            if (example := to_example(row, redacted)) is None:
                continue
            if row["id"] in found.suspects:
                lineage.suspects += 1
                if lineage.excludes_suspects:
                    continue
            lineage.add(example, row["predicted"])
            page.append(example)
            if len(page) == RELEASE_PAGE or len(row["inputs"] or "") > PAGE_CHARACTERS:
                yield encode_lines(page)
                page.clear()
    if page:
        yield encode_lines(page)


def _mark_examples(store: Store, row: ReleaseRow) -> None:
    """Mark a release's examples as released; they are read from it, so that this can be repeated after a crash."""
    for examples in decode_lines(store.releases.chunks(row), ExampleId):
        store.releases.mark_examples([int(example.id) for example in examples if example.source not in ADDED])
    store.releases.set_marked(row["seq"])


def _finish_interrupted(store: Store) -> None:
    """Finish what a crash or a failing database interrupted: mark examples, and delete unfinished releases."""
    for row in store.releases.unmarked():
        _mark_examples(store, row)
    for build in store.releases.unfinished_builds(time.time()):
        log.info("deleting a release that was never finished")
        store.releases.delete_chunks(build)


def frozen_pages(store: Store, row: ReleaseRow, redacted: frozenset[str]) -> Pages:
    """Return the pages of a release's examples, without inputs that were redacted since."""
    return lambda: redacted_pages(store.releases.chunks(row), redacted)


def release_document(row: ReleaseRow) -> dict[str, Any]:
    """Return a release as its JSON document."""
    keys = ("id", "name", "model", "sha256", "examples", "bytes")
    return {
        **{key: row[key] for key in keys},
        "created": rfc3339(row["created"]),
        "by": row["by"],
        "lineage": msgspec.json.decode(row["lineage"]),
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


def redacted_pages(chunks: Iterator[bytes], redacted: Collection[str]) -> Iterator[Page]:
    """Yield the examples of a release without redacted inputs."""
    for page in decode_lines(chunks, Example):
        for example in page if redacted else ():
            if example.inputs:
                example.inputs = {name: value for name, value in example.inputs.items() if name not in redacted}
        yield page


ENTRIES = 1000
"""Labels, versions and reviewers that a lineage counts by name, at most; others are counted under ``…``."""
MAX_NAME = 200
"""Characters of a label in a lineage, at most."""
OUTCOMES = 100
"""Pairs of a label and a prediction that a lineage counts, at most."""


class Lineage:
    """Counts where the examples of a release come from, in bounded memory.

    Parameters
    ----------
    profile
        Hash of the profile of the version that serves; None without one.
    include
        What was asked for beside corrections and samples.
    excludes_suspects
        Whether the examples whose label may be wrong are left out.

    Attributes
    ----------
    examples, suspects
        The number of examples, and of those whose label may be wrong.
    checked
        When labels were checked last, Unix time in seconds.
    parent
        Identifier of the model's release before this one.
    sampling
        What weights the samples, by version: the numbers of confident predictions, and of the ones with feedback.
    mix
        What the rows stand for.
    """

    def __init__(self, profile: str | None, include: Sequence[str], *, excludes_suspects: bool) -> None:
        self.examples = self.suspects = self._without_inputs = 0
        self.excludes_suspects, self.include, self._profile = excludes_suspects, include, profile
        self.checked: float | None = None
        self.parent: str | None = None
        self.sampling: dict[str, dict[str, int]] = {}
        self.mix = Mix()
        self._weights: dict[str, float] = {}
        names = ("versions", "labels", "predictions", "sources", "reviewers")
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in names}
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._first, self._last = math.inf, -math.inf

    def add(self, example: Example, predicted: float | None) -> None:
        """Count an example, and the Unix time of its prediction in seconds."""
        self.examples += 1
        self._without_inputs += example.inputs is None
        self._count("versions", example.version)
        pair = self._count("labels", _text(example.label)), self._count("predictions", _text(example.prediction))
        self._outcomes[pair if pair in self._outcomes or len(self._outcomes) < OUTCOMES else ("…", "…")] += 1
        self._count("sources", example.source)
        self._weights[example.source] = self._weights.get(example.source, 0.0) + example.weight
        if example.reviewer is not None:
            self._count("reviewers", example.reviewer)
        if predicted is not None:
            self._first, self._last = min(self._first, predicted), max(self._last, predicted)

    def _count(self, kind: str, name: str) -> str:
        """Count a name; return the one under which it is counted."""
        counter = self._counts[kind]
        short = name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}…"
        counted = short if short in counter or len(counter) < ENTRIES else "…"
        counter[counted] += 1
        return counted

    def document(self) -> dict[str, Any]:
        """Return the JSON document; ``from`` and ``to`` are the times of the first and the last prediction."""
        outcomes: dict[str, dict[str, int]] = {}
        for (label, prediction), number in sorted(self._outcomes.items()):
            outcomes.setdefault(label, {})[prediction] = number
        first, last = (unix_time if math.isfinite(unix_time) else None for unix_time in (self._first, self._last))
        suspects = {"found": self.suspects, "excluded": self.excludes_suspects, "checked": rfc3339(self.checked)}
        return {
            **{name: dict(sorted(counter.items())) for name, counter in self._counts.items()},
            "weights": {source: round(total, 3) for source, total in sorted(self._weights.items())},
            "traffic": self.mix.traffic,
            "use": self._use(),
            "outcomes": outcomes,
            "without_inputs": self._without_inputs,
            "suspects": suspects,
            **({"sampling": self.sampling} if self._counts["sources"]["sampled"] else {}),
            "from": rfc3339(first),
            "to": rfc3339(last),
            "profile": self._profile,
            "parent": self.parent,
            "exporter_version": version(),
        }

    def _use(self) -> str:
        """Return what the release contains and how to use it, in a sentence."""
        rows = ", ".join(f"{source} {number:,}" for source, number in sorted(self._counts["sources"].items()))
        if self.mix.traffic is None:
            missing = f"; there is no prediction to add as {' or '.join(self.include)}" if self.include else ""
            return f"Rows: {rows}; train on them together with earlier data, not alone{missing}."
        bound = f" (roughly, as no weight exceeds {max(self.mix[:2]):,.0f})" if self.mix.limited else ""
        mix = f"weights give the mix of the {self.mix.traffic:,} stored predictions{bound}"
        return f"Rows: {rows}; {mix}; train on them together with earlier data."


def _text(value: Any) -> str:
    return "null" if value is None else scalar_text(value)
