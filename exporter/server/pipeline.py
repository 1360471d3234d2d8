"""Queue predictions within bounds, and count and store them in one aggregator thread."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from exporter.config import Config
from exporter.errors import QueueFullError
from exporter.features import image
from exporter.features.json_inputs import escape_prefix, escape_prefixes, pack_inputs, remove_inputs
from exporter.metrics.exposition import ExporterMetrics
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.shadow_answers import ShadowAnswers
from exporter.profiles.profile import image_inputs
from exporter.server.access import Bucket, Shares, sender
from exporter.slices.population import BLOCK_SECONDS, BinRecorder
from exporter.storage import InputsPolicy, Store
from exporter.wire.batch import Batch
from exporter.wire.events import Prediction

log = logging.getLogger(__name__)

QUEUE_BYTES = 16 * 2**20
"""Bytes of request bodies that may be queued; see `Shares`."""
MIN_IMAGE_BYTES = 1024
"""Images become PNG in the store if the JSON of their inputs has at least so many bytes; else PNG saves no space."""
IMAGES_RATE = 5.0
"""Tenths of each second in which image files are decoded, and such tenths in a row; a file beyond them is invalid."""
_BATCH = 5000
_BATCH_BYTES = 2**20  # of inputs, which take many times their size decoded
_FLUSH_SECONDS = 15.0
_GATHER_SECONDS = 0.01  # a short wait makes batches that numpy processes efficiently

_GROUP = attrgetter("model", "version", "shadow")


class Pipeline:
    """A bounded queue of predictions, which senders share, and the thread that counts and stores them.

    Parameters
    ----------
    config
        The configuration; `reconfigure` replaces it.
    monitors
        Count the predictions.
    store
        Stores them.
    telemetry
        Counts predictions that are lost.

    Attributes
    ----------
    bins : BinRecorder
        Records the bins of predictions.
    shadow : ShadowAnswers
        Compares the answers that no user saw with those that users saw.
    """

    def __init__(
        self,
        config: Config,
        monitors: MonitorRegistry,
        store: Store,
        telemetry: ExporterMetrics,
    ) -> None:
        self._state = (config, monitors)
        self._store = store
        self.bins = BinRecorder(store)
        self.shadow = ShadowAnswers(
            lambda model, version: self.monitors.scorer(model, version),  # noqa: PLW0108 (monitors are replaced)
            store.tolerances,
        )
        self._telemetry = telemetry
        self._queues: dict[str, deque[tuple[Sequence[Prediction], int]]] = {}  # by sender, in the order of their turns
        self._rows, self._bytes = Shares(), Shares()
        self._lock = threading.Lock()
        self._submitted = self._counted = 0
        self._wake = threading.Event()
        self._skip_wait = threading.Event()
        self._closing = False
        telemetry.queue_length.set_function(lambda: self._submitted - self._counted)
        telemetry.queue_capacity.set_function(lambda: self._state[0].queue.capacity)
        self._thread = threading.Thread(target=self._run, name="aggregator", daemon=True)
        self._thread.start()

    @property
    def monitors(self) -> MonitorRegistry:
        """The current monitors."""
        return self._state[1]

    @property
    def config(self) -> Config:
        """The current configuration."""
        return self._state[0]

    @property
    def alive(self) -> bool:
        """Whether the aggregator thread runs."""
        return self._thread.is_alive()

    @property
    def is_half_full(self) -> bool:
        """Whether more than half of the queue is in use, so that counting it takes more than a moment."""
        return self._submitted - self._counted > self._state[0].queue.capacity // 2

    def reconfigure(self, config: Config, monitors: MonitorRegistry) -> None:
        """Use another configuration from the next batch on."""
        self._state = (config, monitors)

    def check_capacity(self) -> None:
        """Check that the queue has room for this sender, before a body is decoded.

        Raises
        ------
        QueueFullError
            When it is full.
        """
        key, capacity = sender.get().key, self._state[0].queue.capacity
        if self._closing or self._rows.is_full(key, 2 * capacity) or self._bytes.is_full(key, QUEUE_BYTES):
            raise QueueFullError("the queue is full")

    def submit(self, events: Sequence[Prediction], size: int) -> None:
        """Queue checked predictions, after `check_capacity`.

        Parameters
        ----------
        events
            The predictions.
        size
            Bytes of their request body.

        Raises
        ------
        QueueFullError
            When the queue was full before these predictions, which are many.
        """
        key, is_large = sender.get().key, size > _BATCH_BYTES or len(events) > _BATCH
        with self._lock:
            if is_large:  # its decoding took time
                self.check_capacity()
            self._queues.setdefault(key, deque()).extend(_parts(events, size) if is_large else ((events, size),))
            self._submitted += len(events)
            self._rows.add(key, len(events))
            self._bytes.add(key, size)
        if not self._wake.is_set():
            self._wake.set()

    def settle(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for what was submitted before to be counted; return whether it was."""
        target, deadline = self._submitted, time.monotonic() + timeout
        while self._counted < target and time.monotonic() < deadline:
            self._skip_wait.set()
            time.sleep(0.001)
        return self._counted >= target

    def close(self, timeout: float) -> None:
        """Refuse new predictions, count the queued ones within ``timeout`` seconds, and end the thread."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        self.bins.flush()
        if lost := self._submitted - self._counted:
            self._telemetry.dropped.inc(lost)
            log.error("accepted events that were not counted before the exporter stopped: %d", lost)

    def _run(self) -> None:
        bucket = Bucket(IMAGES_RATE)

        def admit(seconds: float) -> bool:
            bucket.spend(10 * seconds)
            return not bucket.take(time.monotonic(), 0)

        image.admit.set(admit)
        while not (self._closing and not self._queues):
            self._wake.wait(_FLUSH_SECONDS)
            self._wake.clear()
            if not self._closing:
                self._skip_wait.wait(_GATHER_SECONDS)
                self._skip_wait.clear()
            while self._queues:
                self._count_batch()
                self.bins.flush(BLOCK_SECONDS)
            self.bins.flush(BLOCK_SECONDS)

    def _count_batch(self) -> None:
        batch, rows, sizes = self._next_batch()
        try:
            self._count(batch)
        except Exception:  # if this thread ended, nothing would be counted any more
            self._telemetry.dropped.inc(len(batch))
            log.exception("events were lost")
        finally:
            with self._lock:
                self._counted += len(batch)
                for key in rows:
                    self._rows.add(key, -rows[key])
                    self._bytes.add(key, -sizes[key])

    def _next_batch(self) -> tuple[list[Prediction], Counter[str], Counter[str]]:
        """Take an equal share of a batch from each sender, or one entry if it is larger; return also what each took."""
        batch: list[Prediction] = []
        rows, sizes = Counter[str](), Counter[str]()
        with self._lock:
            waiting = len(self._queues)
            for key, queue in list(self._queues.items()):
                while queue and (
                    not batch or (rows[key] < _BATCH / waiting and sizes[key] + queue[0][1] <= _BATCH_BYTES / waiting)
                ):
                    events, size = queue.popleft()
                    batch += events
                    rows[key] += len(events)
                    sizes[key] += size
                if rows[key]:
                    del self._queues[key]
                if queue and rows[key]:
                    self._queues[key] = queue  # behind the others
                if len(batch) >= _BATCH or sizes.total() >= _BATCH_BYTES:
                    break
        return batch, rows, sizes

    def _count(self, events: Sequence[Prediction]) -> None:
        config, monitors = self._state
        now, received = time.monotonic(), time.time()
        groups: dict[ModelMonitor, list[Prediction]] = {}  # versions that share a monitor are counted together
        shadows: dict[str, list[Prediction]] = {}
        for (name, version, shadow), run in itertools.groupby(events, _GROUP):
            some = list(run)
            if name not in monitors.models:  # removed from the configuration while the events were queued
                self._telemetry.dropped.inc(len(some))
            elif shadow:
                shadows.setdefault(name, []).extend(some)
            else:
                groups.setdefault(monitors.get(name, version, now, len(some)), []).extend(some)
        for group in shadows.values():  # first: what users saw is remembered only where there are shadow answers
            self._compare(Batch.of(group, received), now, received)
        for monitor, group in groups.items():
            try:
                self._count_group(config, monitors, monitor, group)
            except Exception:  # one unexpected event must not lose the others
                log.exception("events of %r are counted one by one after an error", monitor.config.name)
                for event in group:
                    try:
                        self._count_group(config, monitors, monitor, [event])
                    except Exception:
                        self._telemetry.dropped.inc()

    def _count_group(
        self, config: Config, monitors: MonitorRegistry, monitor: ModelMonitor, events: Sequence[Prediction]
    ) -> None:
        """Count and store predictions that share a monitor; after an exception nothing has been counted."""
        now, received = time.monotonic(), time.time()
        batch = _read(config, monitor, events, received)
        bins = monitor.observe(batch, now)
        monitors.count_unknown(monitor, batch.inputs)
        if self.shadow.awaits(batch.model, now):
            self._compare(batch, now, received)
        lost = batch.rows
        with _logged("predictions are not stored"):
            lost = self._store.add(batch)
        self._telemetry.dropped.inc(lost)
        if bins is not None:
            with _logged("bins of predictions are not recorded"):
                self.bins.add(monitor, batch, bins, received)

    def _compare(self, batch: Batch, now: float, received: float) -> None:
        with _logged("answers of two versions are not compared"):
            self.shadow.add(batch, now, received)


def _parts(events: Sequence[Prediction], size: int) -> Iterator[tuple[Sequence[Prediction], int]]:
    """Yield events in parts of at most `_BATCH`, with `_BATCH_BYTES` of inputs or a single one, and each one's size."""
    start = held = 0
    for index, event in enumerate(events):
        length = len(memoryview(event.inputs))
        held += length
        if index > start and (held > _BATCH_BYTES or index - start == _BATCH):
            yield events[start:index], size * index // len(events) - size * start // len(events)
            start, held = index, length
    yield events[start:], size - size * start // len(events)


def _read(config: Config, monitor: ModelMonitor, events: Sequence[Prediction], received: float) -> Batch:
    """Return predictions that share a monitor as a batch, with the inputs that are to be stored."""
    redacted = monitor.config.redact
    images = image_inputs(monitor.config, monitor.binner.profile if monitor.binner else None)
    batch = monitor.prepare(Batch.of(events, received), decoded=bool(redacted or images))
    kept = InputsPolicy(config.store.inputs).select(batch)
    kept = prepare_inputs(kept, batch.inputs.decoded, redacted, images, MIN_IMAGE_BYTES)
    return msgspec.structs.replace(batch, kept=kept)


@contextlib.contextmanager
def _logged(failure: str) -> Iterator[None]:
    """Log an error: what is counted already must not be counted again."""
    try:
        yield
    except Exception:
        log.exception(failure)


def prepare_inputs(
    raw: Sequence[bytes],
    decoded: Mapping[int, dict[str, Any]],
    redacted: frozenset[str],
    images: frozenset[str],
    min_image_bytes: int = 0,
) -> list[bytes]:
    """Return the JSON of events' inputs without redacted inputs, and with images as PNG.

    Parameters
    ----------
    raw
        The JSON of each event's inputs as it was received; empty for an event whose inputs are not stored.
    decoded
        The decoded inputs by the index of their event; may be empty where nothing is redacted and no input is an image.
    redacted, images
        Names of inputs.
    min_image_bytes
        Images become PNG where the JSON has at least so many bytes.
    """
    prepared = [b""] * len(raw) if redacted else escape_prefixes(raw)
    indices = [index for index in decoded if raw[index]]
    inputs = {index: without(decoded[index], redacted) if redacted else decoded[index] for index in indices}
    large = [i for i in indices if len(raw[i]) >= min_image_bytes and not images.isdisjoint(inputs[i])]
    packed = dict(zip(large, pack_inputs([inputs[index] for index in large], images), strict=True))
    for index in indices if redacted else [index for index in large if packed[index]]:
        prepared[index] = _encode(inputs[index], packed.get(index, {}))
    return prepared


def _encode(inputs: Mapping[str, Any], packed: Mapping[str, str]) -> bytes:
    """Encode a client's inputs, some of which are packed images."""
    rest = {name: value for name, value in inputs.items() if name not in packed}
    parts = [escape_prefix(msgspec.json.encode(rest))[1:-1], msgspec.json.encode(packed)[1:-1]]
    return b"{%s}" % b",".join(filter(None, parts))


def feedback_inputs(monitors: MonitorRegistry, name: str, text: str | None) -> str | None:
    """Return stored inputs of a model as feedback stores them: without redacted ones, and with all images as PNG."""
    model, binner = monitors.models.get(name), monitors.nearest_binner(name)
    if not text or model is None:
        return text
    text, images = remove_inputs(text, model.redact), image_inputs(model, binner.profile if binner else None)
    try:
        members = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        arrays = {name: msgspec.json.decode(raw) for name, raw in members.items() if name in images}
    except (msgspec.MsgspecError, RecursionError):
        return text or None
    (packed,) = pack_inputs([arrays], images)
    return msgspec.json.encode({**members, **packed}).decode() if packed else text


def without(inputs: Mapping[str, Any], redacted: frozenset[str]) -> dict[str, Any]:
    """Return the inputs that are not redacted."""
    return {name: value for name, value in inputs.items() if name not in redacted}
