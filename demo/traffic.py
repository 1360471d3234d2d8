"""Users of the service: they send digits at a steady rate and correct wrong predictions.

They reach the service only by ``POST /predict``, and the exporter only by its routes for feedback, events and labels.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from demo.model import EVENT, NAME, TEACHERS, Images, device, teacher
from exporter.client import Monitor
from exporter.errors import ExporterError
from exporter.http_client import Client

CONFIDENT = 0.8
"""From this confidence on users expect the prediction to be right, and correct it when it is not."""
CORRECTS_WRONG = 0.9
CONFIRMS_RIGHT = 0.02
WRONG_CORRECTIONS = 0.03
"""Share of corrections that are wrong themselves; a review finds them."""
DIGITS_OF_A_SHEET = 20
"""Confident predictions after which a sheet is graded, the business event."""
LABELLED = 0.2
"""Share of predictions whose true digit somebody enters later, whether the prediction was right or not."""
LABELS_SECONDS = 5.0
"""Seconds between two requests with labels."""
WORKERS = 32


class _Feedback(NamedTuple):
    """Feedback that a user will give."""

    due: float
    prediction_id: str
    verdict: str
    label: str | None
    user: str


class Traffic:
    """Sends requests and feedback, from threads of its own.

    Parameters
    ----------
    service
        URL of the model service.
    monitor
        Client of the exporter that sends the feedback.
    images, labels
        What users send, shape ``(n, 8, 8)``, and the true digits, shape ``(n,)``.
    rate
        Requests a second, whether or not the service keeps up.
    delay
        Least and most seconds until a user gives feedback.
    label_delay
        Least and most seconds until the true digit of a prediction is entered.
    exporter
        Client of the exporter that sends business events and labels; without, there are none.
    say
        Called once when feedback cannot be delivered, and once when it can be again.
    seed
        Of the users' random choices.

    Attributes
    ----------
    counts : Counter of str
        ``requests``, ``failed``, ``confident``, ``corrected``, ``accepted``, ``labelled``, ``undelivered``.
    """

    def __init__(
        self,
        service: str,
        monitor: Monitor,
        images: Images,
        labels: npt.NDArray[np.int64],
        *,
        rate: float = 10.0,
        delay: tuple[float, float] = (2.0, 20.0),
        label_delay: tuple[float, float] = (20.0, 60.0),
        exporter: Client | None = None,
        say: Callable[[str], None] = print,
        seed: int | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._service = Client(service, "--service", timeout=10, connections=WORKERS)
        self._monitor = monitor
        self._images = images
        self._labels = labels
        self._rate = rate
        self._delay = delay
        self._label_delay = label_delay
        self._exporter = exporter
        self._say = say
        self._random = random.Random(seed)  # noqa: S311 (not for security)
        self._lock = threading.Lock()
        self._scheduled: list[_Feedback] = []
        self._teachers = frozenset(TEACHERS)
        self._undeliverable = False
        self._digits = 0
        self._labels_due: list[tuple[float, str, str]] = []
        self._labels_at = 0.0
        self._stopping = threading.Event()
        # No more than twice the workers' number of requests wait: a service that hangs must not fill the memory.
        self._slots = threading.BoundedSemaphore(2 * WORKERS)
        self._pool = ThreadPoolExecutor(WORKERS, "user")
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sending, and wait for the requests that are under way."""
        self._stopping.set()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        self._service.close()

    def use_teachers(self, teachers: frozenset[str] = frozenset(TEACHERS)) -> None:
        """From now on send only images of these teachers' pupils."""
        self._teachers = teachers

    def _run(self) -> None:
        due = time.monotonic()
        for index in self._indices():
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            due = max(due + 1 / self._rate, time.monotonic() - 1.0)
            if self._slots.acquire(blocking=False):
                self._pool.submit(self._predict, index)
            else:
                self._count(requests=1, failed=1)
            if labels := self._due_labels():
                self._pool.submit(self._send_labels, labels)
            for feedback in self._due_feedback():
                self._pool.submit(self._send_feedback, feedback)

    def _indices(self) -> Iterator[int]:
        order = list(range(len(self._images)))
        while True:
            self._random.shuffle(order)
            yield from (index for index in order if teacher(index) in self._teachers)

    def _predict(self, index: int) -> None:
        try:
            response = self._service.request("POST", "/predict", json=self._request(index))
            answer = json.loads(response.body)
            prediction_id, digit, confident = answer["id"], answer["digit"], answer["confidence"] >= CONFIDENT
            version = answer["version"]
        except (ExporterError, ValueError, LookupError, TypeError):  # no response, or one without a prediction
            self._count(requests=1, failed=1)
            return
        finally:
            self._slots.release()
        self._count(requests=1, confident=int(confident))
        if confident:
            self._read_digit(version)
        label = str(self._labels[index])
        if self._random.random() < LABELLED:
            due = time.monotonic() + self._random.uniform(*self._label_delay)
            with self._lock:
                heapq.heappush(self._labels_due, (due, prediction_id, label))
        right = digit == label
        if confident and self._random.random() < (CONFIRMS_RIGHT if right else CORRECTS_WRONG):
            self._schedule_feedback(index, prediction_id, digit)

    def _request(self, index: int) -> dict[str, object]:
        return {"image": self._images[index].tolist(), "device": device(index)}

    def _read_digit(self, version: str) -> None:
        """Send the business event when a version has read the last digit of a sheet, until the exporter refuses it."""
        with self._lock:
            self._digits += 1
            exporter = self._exporter if self._digits % DIGITS_OF_A_SHEET == 0 else None
        if exporter is None:
            return
        with contextlib.suppress(ExporterError):
            event = {"event": EVENT, "model": NAME, "version": version}
            if exporter.request("POST", "/v1/events", json=event).status == 400:  # an older configuration
                self._exporter = None

    def _schedule_feedback(self, index: int, prediction_id: str, digit: str) -> None:
        due, label = time.monotonic() + self._random.uniform(*self._delay), str(self._labels[index])
        right = digit == label
        if not right and self._random.random() < WRONG_CORRECTIONS:
            label = self._random.choice([other for other in map(str, range(10)) if other not in {digit, label}])
        verdict = "accepted" if right else "corrected"
        feedback = _Feedback(due, prediction_id, verdict, None if right else label, teacher(index))
        with self._lock:
            heapq.heappush(self._scheduled, feedback)

    def _due_feedback(self) -> list[_Feedback]:
        due = []
        with self._lock:
            while self._scheduled and self._scheduled[0].due <= time.monotonic():
                due.append(heapq.heappop(self._scheduled))
        return due

    def _due_labels(self) -> list[dict[str, str]]:
        """Return the labels that are due, every `LABELS_SECONDS`."""
        now, due = time.monotonic(), []
        if self._exporter is None or now < self._labels_at:
            return []
        self._labels_at = now + LABELS_SECONDS
        with self._lock:
            while self._labels_due and self._labels_due[0][0] <= now:
                _, prediction_id, label = heapq.heappop(self._labels_due)
                due.append({"model": NAME, "prediction_id": prediction_id, "label": label})
        return due

    def _send_labels(self, labels: list[dict[str, str]]) -> None:
        if self._exporter is None:
            return
        with contextlib.suppress(ExporterError):  # while there is no exporter, labels are lost, like predictions
            if self._exporter.request("POST", "/v1/labels", json=labels).status < 300:
                self._count(labelled=len(labels))

    def _send_feedback(self, feedback: _Feedback) -> None:
        try:
            self._monitor.feedback(feedback.prediction_id, feedback.verdict, label=feedback.label, user=feedback.user)
        except ExporterError as error:
            self._count(undelivered=1)
            self._report_delivery(f"users' feedback is lost: {error}", undeliverable=True)
        else:
            self._count(**{feedback.verdict: 1})
            self._report_delivery("users' feedback arrives again", undeliverable=False)

    def _count(self, **more: int) -> None:
        with self._lock:
            self.counts.update(more)

    def _report_delivery(self, text: str, *, undeliverable: bool) -> None:
        with self._lock:
            changed, self._undeliverable = self._undeliverable != undeliverable, undeliverable
        if changed:
            self._say(text)
