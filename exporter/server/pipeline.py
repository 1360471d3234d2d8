"""Queue predictions within bounds, and count and store them in one aggregator thread."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from operator import attrgetter

import numpy as np

from exporter.config import Config
from exporter.errors import QueueFullError
from exporter.features.lenient_json import decode_inputs
from exporter.metrics.exporter import ExporterMetrics
from exporter.monitoring.confidence import are_confident
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.monitoring.shadow_answers import ShadowAnswers
from exporter.monitoring.shared_counts import SharedCounts
from exporter.monitoring.shared_time import STEP_SECONDS
from exporter.profiles.profile import image_inputs
from exporter.server.stored_inputs import prepare_inputs
from exporter.slices.recorder import BLOCK_SECONDS, BinRecorder
from exporter.storage import InputsPolicy, Store, prediction_rows
from exporter.wire.events import Prediction, make_id

log = logging.getLogger(__name__)

QUEUE_BYTES = 128 * 2**20
"""Bytes of request bodies that may be queued."""
MIN_IMAGE_BYTES = 1024
"""Images become PNG in the store if the JSON of their inputs has at least so many bytes; else PNG saves no space."""
_CHUNK = 1000
_BATCH = 5000
_GATHER_SECONDS = 0.01  # a short wait makes batches that numpy processes efficiently

_MODEL_AND_VERSION = attrgetter("model", "version")


class Pipeline:
    """A bounded queue of predictions and the thread that counts and stores them.

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
    shared
        Counts pairs of versions, in steps that this thread ends.

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
        shared: SharedCounts | None = None,
    ) -> None:
        self._state = (config, monitors)
        self._shared = shared or SharedCounts()
        self._store = store
        self.bins = BinRecorder(store)
        self.shadow = ShadowAnswers(
            lambda model, version: self.monitors.scorer(model, version),  # noqa: PLW0108 (monitors are replaced)
            store.tolerances,
        )
        self._telemetry = telemetry
        self._queue: deque[tuple[Sequence[Prediction], int]] = deque()
        self._lock = threading.Lock()
        self._submitted = self._counted = 0
        self._bytes_in = self._bytes_out = 0
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
        """Check that the queue has room, before a body is decoded.

        Raises
        ------
        QueueFullError
            When it is full.
        """
        full = self._submitted - self._counted >= self._state[0].queue.capacity
        if full or self._bytes_in - self._bytes_out >= QUEUE_BYTES or self._closing:
            raise QueueFullError("the queue is full")

    def submit(self, events: Sequence[Prediction], size: int) -> None:
        """Queue checked predictions.

        Parameters
        ----------
        events
            The predictions.
        size
            Bytes of their request body.

        Raises
        ------
        QueueFullError
            When the queue was full before these predictions.
        """
        with self._lock:
            self.check_capacity()
            self._queue.append((events, size))
            self._submitted += len(events)
            self._bytes_in += size
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
        while not (self._closing and not self._queue):
            self._wake.wait(STEP_SECONDS)
            self._wake.clear()
            if not self._closing:
                self._skip_wait.wait(_GATHER_SECONDS)
                self._skip_wait.clear()
            while self._queue:
                self._count_batch()
                self._end_step()
            self._end_step()

    def _end_step(self) -> None:
        try:
            self._shared.add_step(self.monitors, time.monotonic(), time.time())
        except Exception:  # if this thread ended, nothing would be counted any more
            log.exception("versions are not compared")
        self.bins.flush(BLOCK_SECONDS)

    def _count_batch(self) -> None:
        batch: list[Prediction] = []
        size = 0
        while self._queue and len(batch) < _BATCH:
            events, length = self._queue.popleft()
            batch += events
            size += length
        try:
            for start in range(0, len(batch), _BATCH):
                self._count(batch[start : start + _BATCH])
        except Exception:  # if this thread ended, nothing would be counted any more
            self._telemetry.dropped.inc(len(batch))
            log.exception("events were lost")
        finally:
            self._counted += len(batch)
            self._bytes_out += size

    def _count(self, events: Sequence[Prediction]) -> None:
        config, monitors = self._state
        now = time.monotonic()
        groups: dict[ModelMonitor, list[Prediction]] = {}  # versions that share a monitor are counted together
        shadows = [event for event in events if event.shadow and event.model in monitors.models]
        if shadows:  # first: what users saw is remembered only where there are shadow answers
            events = [event for event in events if not event.shadow]
            self._compare(shadows, now)
        for (name, version), run in itertools.groupby(events, _MODEL_AND_VERSION):
            if name in monitors.models:
                groups.setdefault(monitors.get(name, version, now), []).extend(run)
            else:  # removed from the configuration while the events were queued
                self._telemetry.dropped.inc(len(list(run)))
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

    def _compare(self, events: Sequence[Prediction], now: float) -> None:
        try:
            received = time.time()
            self.bins.add_pairs(self.shadow.add(events, now, received), received)
        except Exception:  # what is counted already must not be counted again
            log.exception("answers of two versions are not compared")

    def _count_group(
        self, config: Config, monitors: MonitorRegistry, monitor: ModelMonitor, group: Sequence[Prediction]
    ) -> None:
        """Count and store predictions that share a monitor; after an exception nothing has been counted."""
        model, policy = monitor.config, InputsPolicy(config.store.inputs)
        now, received = time.monotonic(), time.time()
        raw: Sequence[bytes] = [bytes(event.inputs) for event in group]
        images = image_inputs(model, monitor.binner.profile if monitor.binner else None)
        segments, binner = monitor.segments, monitor.binner
        needs_values = model.redact or images or segments
        # Where only the binner needs the inputs, it reads their JSON into columns itself, which is faster.
        columns = binner.read(raw) if binner and not needs_values else None
        decoded = decode_inputs(raw) if needs_values or (binner and columns is None) else {}
        for event in group:
            if not event.id:
                event.id = make_id()
        confident = are_confident(
            model, [event.confidence for event in group], [event.code for event in group]
        ).tolist()
        stored_inputs = policy.select(group, confident, raw)
        stored_inputs = prepare_inputs(stored_inputs, decoded, model.redact, images, MIN_IMAGE_BYTES)
        segment_indices = [segments.index_of(decoded.get(i)) for i in range(len(group))] if segments else []
        segment_names = [segments.names[index] for index in segment_indices] if segments else None
        rows = prediction_rows(group, confident, stored_inputs, received, segment_names)
        inputs = columns or list(decoded.values())
        codes = binner.empty_codes(columns.rows if columns else len(decoded)) if binner and any(stored_inputs) else None
        monitors.unknown_features[model.name] += monitor.observe(
            group, inputs, now, segment_indices, confident, codes=codes
        )
        if self.shadow.awaits(model.name, now):
            self._compare(group, now)
        for part in rows.parts(_CHUNK):
            self._telemetry.dropped.inc(self._store.add(part))
        if codes is not None:
            with_inputs = [i for i, text in enumerate(raw) if text and text != b"null"] if columns else list(decoded)
            is_stored = np.array([bool(stored_inputs[i]) for i in with_inputs], dtype=np.bool_)
            stored = [i for i in with_inputs if stored_inputs[i]]
            stored_confident = [confident[i] for i in stored]
            try:
                self.bins.add(monitor, [group[i] for i in stored], codes[:, is_stored], stored_confident, received)
            except Exception:  # what is counted already must not be counted again
                log.exception("bins of predictions are not recorded")
