"""Pair the answers of two versions to the same request, and count how often they differ."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

from exporter.monitoring.quality import Scorer
from exporter.monitoring.registry import OTHER_VERSION
from exporter.validation import Tolerance
from exporter.wire.batch import Batch
from exporter.wire.events import NO_VERSION

WAIT_SECONDS = 300.0
"""How long an answer waits for the one of the other version."""
MAX_REQUESTS = 50_000
"""Requests whose answers wait, of all models together; the oldest make room."""
MAX_PAIRS, MAX_VERSIONS = 10, 20
"""Pairs of versions, and versions without users, that are counted by name for each model; the others are ``other``."""
UNUSED_SECONDS = 86400.0
"""A name that was not used for so long makes room for another one."""
_MAX_ANSWERS = 4  # versions whose answers to the same request are compared
_MAX_TEXT = 64
_Answer = str | int | float | bool


class PairCounts:
    """Counts of the answers of two versions to the same requests.

    Attributes
    ----------
    pairs, disagreements
        Requests that both answered, and those of them with different answers: another class, or a number that differs
        by more than the model's tolerance.
    numbers, absolute, squared
        Pairs of numbers, and the sums of their differences in the unit of the prediction, absolute and squared.
    first, last
        When the first and the last pair was complete, Unix time in seconds.
    """

    __slots__ = ("absolute", "disagreements", "first", "last", "numbers", "pairs", "squared")

    def __init__(self, now: float) -> None:
        self.pairs = self.disagreements = self.numbers = 0
        self.absolute = self.squared = 0.0
        self.first = self.last = now

    def add(self, distance: float | None, differs: bool, now: float) -> None:
        """Count a pair, given the distance of two numbers."""
        self.pairs += 1
        self.disagreements += differs
        if distance is not None:
            self.numbers += 1
            self.absolute += distance
            self.squared += distance * distance
        self.last = now


class VersionCounts:
    """Counts of a version in shadow mode.

    Attributes
    ----------
    answers, errors
        Its answers, and those with a 5xx code.
    unpaired
        Answers that were compared with none: the other one did not come in time, or is of another type or the same
        version, or too many versions answered the request.
    last
        When the last answer arrived, Unix time in seconds.
    """

    __slots__ = ("answers", "errors", "last", "unpaired")

    def __init__(self, now: float) -> None:
        self.answers = self.errors = self.unpaired = 0
        self.last = now


class _Request:
    """The answers to a request that have arrived."""

    __slots__ = ("arrived", "done", "served", "waiting")

    def __init__(self, now: float) -> None:
        self.arrived = now
        self.served: tuple[str, _Answer] | None = None
        self.waiting: dict[str, _Answer] = {}
        self.done: set[str] = set()


class ShadowAnswers:
    """Answers that no user saw, with ``shadow`` set, and what they are compared with; safe between threads.

    A shadow answer is compared with the first answer of another version to the request with the same identifier.
    Answers that users saw are remembered only while shadow answers of the model arrive.

    Parameters
    ----------
    scorer
        Takes a model and a version; returns what compares its predictions.
    tolerance
        Takes a model; returns by how much two numbers may differ.
    """

    def __init__(self, scorer: Callable[[str, str], Scorer], tolerance: Callable[[str], Tolerance]) -> None:
        self._scorer = scorer
        self._tolerance = tolerance
        self._requests: OrderedDict[tuple[str, str], _Request] = OrderedDict()
        self._seen: dict[str, float] = {}
        self._pairs: dict[str, dict[tuple[str, str], PairCounts]] = {}
        self._versions: dict[str, dict[str, VersionCounts]] = {}
        self._time = 0.0
        self._lock = threading.Lock()

    def awaits(self, model: str, now: float) -> bool:
        """Return whether shadow answers of a model have arrived lately, at the monotonic time ``now`` in seconds."""
        return now - self._seen.get(model, -WAIT_SECONDS) < WAIT_SECONDS

    def add(self, batch: Batch, now: float, unix_time: float) -> None:
        """Count shadow answers, and the pairs that are complete now.

        Parameters
        ----------
        batch
            Predictions of one model, with ``shadow`` set or not.
        now, unix_time
            Monotonic and Unix time in seconds.
        """
        with self._lock:
            self._expire(now)
            self._time = unix_time
            if batch.shadow:
                self._seen[batch.model] = now
            for id_, version, code, prediction in zip(
                batch.ids, batch.versions, batch.codes, batch.predictions, strict=True
            ):
                failed = code >= 500
                if batch.shadow:
                    counts = self._version(batch.model, version)
                    counts.answers += 1
                    counts.errors += failed
                    counts.last = unix_time
                if prediction is not None and not failed:
                    self._answer((batch.model, id_), version, _compact(prediction), batch.shadow, now)

    def _answer(self, key: tuple[str, str], version: str, answer: _Answer, is_shadow: bool, now: float) -> None:
        request = self._requests.get(key)
        if request is None:
            request = self._requests[key] = _Request(now)
            if len(self._requests) > MAX_REQUESTS:
                self._drop(*self._requests.popitem(last=False))
        if not is_shadow:
            if request.served is None:  # feedback refers to the first one, too
                request.served = version, answer
                for other, shadow in request.waiting.items():
                    self._pair(key[0], request, other, shadow)
                request.waiting = {}
        elif version in request.done or version in request.waiting:
            return
        elif len(request.done) + len(request.waiting) >= _MAX_ANSWERS:
            self._version(key[0], version).unpaired += 1
        elif request.served is None:
            request.waiting[version] = answer
        else:
            self._pair(key[0], request, version, answer)

    def _pair(self, model: str, request: _Request, version: str, shadow: _Answer) -> None:
        served, answer = request.served or (NO_VERSION, "")
        request.done.add(version)
        scorer = self._scorer(model, served)
        distance = scorer.loss(answer, shadow)
        if distance is None or served == version:
            self._version(model, version).unpaired += 1
            return
        differs = distance > 0
        if scorer.is_number(answer):
            differs = not self._tolerance(model).accepts(float(answer), float(shadow))
        else:
            distance = None
        pairs = self._pairs.setdefault(model, {})
        names = (served, version)
        if names not in pairs and not self._has_room(pairs, MAX_PAIRS):
            names = (OTHER_VERSION, OTHER_VERSION)
        pairs.setdefault(names, PairCounts(self._time)).add(distance, differs, self._time)

    def _version(self, model: str, version: str) -> VersionCounts:
        versions = self._versions.setdefault(model, {})
        if version not in versions and not self._has_room(versions, MAX_VERSIONS):
            version = OTHER_VERSION
        return versions.setdefault(version, VersionCounts(self._time))

    def _has_room(self, counted: dict[Any, Any], most: int) -> bool:
        """Return whether one more name may be counted; the one that was last used before all others may make room."""
        names = [name for name in counted if name not in (OTHER_VERSION, (OTHER_VERSION, OTHER_VERSION))]
        if len(names) < most:
            return True
        oldest = min(names, key=lambda name: counted[name].last)
        if self._time - counted[oldest].last < UNUSED_SECONDS:
            return False
        del counted[oldest]
        return True

    def _expire(self, now: float) -> None:
        while self._requests and now - next(iter(self._requests.values())).arrived > WAIT_SECONDS:
            self._drop(*self._requests.popitem(last=False))

    def _drop(self, key: tuple[str, str], request: _Request) -> None:
        for version in request.waiting:
            self._version(key[0], version).unpaired += 1

    def read(self, now: float) -> dict[str, tuple[dict[str, VersionCounts], dict[tuple[str, str], PairCounts]]]:
        """Return what was counted, by model: of each version, and of each pair of the version users saw and another."""
        with self._lock:
            self._expire(now)
            return {
                model: (dict(versions), {pair: copy(counts) for pair, counts in self._pairs.get(model, {}).items()})
                for model, versions in self._versions.items()
            }

    def pair(self, model: str, before: str | None, after: str | None) -> tuple[str, str, PairCounts] | None:
        """Return the counts of two versions, or of the pair with the last answers; None without any."""
        with self._lock:
            found = [
                (counts.last, pair, copy(counts))
                for pair, counts in self._pairs.get(model, {}).items()
                if before in {None, pair[0]} and after in {None, pair[1]}
            ]
        if not found:
            return None
        _, pair, counts = max(found, key=lambda one: one[0])
        return (*pair, counts)

    def forget(self, models: Sequence[str]) -> None:
        """Forget the models that are no longer configured."""
        with self._lock:
            for counted in (self._pairs, self._versions, self._seen):
                for model in counted.keys() - set(models):
                    del counted[model]
            for key in [key for key in self._requests if key[0] not in models]:
                del self._requests[key]


def _compact(answer: _Answer) -> _Answer:
    """Return an answer, or the hash of a long text, which is equal where the texts are."""
    if isinstance(answer, str) and len(answer) > _MAX_TEXT:
        return hashlib.sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()
    return answer
