"""Users of the service: they send digits at a steady rate and say so when an answer is wrong.

They know the service only by ``POST /predict`` and the exporter only by ``POST /v1/feedback``.
"""

from __future__ import annotations

import heapq
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.client import Monitor
from exporter.commands.common import DIRECT
from exporter.commands.demo.model import TEACHERS, Images, teacher
from exporter.errors import ExporterError

CONFIDENT = 0.8
"""From here on the service's users expect the answer to be right, and correct it when it is not."""
CORRECTS_WRONG = 0.9
CONFIRMS_RIGHT = 0.02
SLIPS = 0.03
"""Share of corrections that are wrong themselves; a review finds them."""
WORKERS = 32


class Traffic:
    """Requests and feedback, from threads of their own.

    Parameters
    ----------
    service
        URL of the model service.
    monitor
        Hands on the feedback.
    images, labels
        What users send, shape ``(n, 8, 8)``, and the digits that they know it to be, shape ``(n,)``.
    rate
        Requests a second; they keep coming whether or not the service keeps up.
    delay
        Least and most seconds until a user gives feedback.
    say
        Told once when feedback cannot be delivered, and once when it can be again.
    seed
        Of the users' dice.

    Attributes
    ----------
    counts : Counter of str
        ``requests``, ``failed``, ``confident``, ``corrected``, ``accepted``, ``undelivered``.
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
        say: Callable[[str], None] = print,
        seed: int | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._url = service.rstrip("/") + "/predict"
        self._monitor = monitor
        self._images = images
        self._labels = labels
        self._rate = rate
        self._delay = delay
        self._say = say
        self._random = random.Random(seed)  # noqa: S311 (a demo's dice)
        self._lock = threading.Lock()
        self._later: list[tuple[float, str, str, str | None, str]] = []
        self._teachers = frozenset(TEACHERS)
        self._away = False
        self._stopping = threading.Event()
        # At twice the workers' number nobody waits any more: a service that hangs shall not fill the memory.
        self._room = threading.BoundedSemaphore(2 * WORKERS)
        self._pool = ThreadPoolExecutor(WORKERS, "user")
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def start(self) -> None:
        """Let users come."""
        self._thread.start()

    def stop(self) -> None:
        """Let no more users come, and wait for those that are there."""
        self._stopping.set()
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)

    def only(self, teachers: frozenset[str] = frozenset(TEACHERS)) -> None:
        """From now on let only these teachers' pupils come."""
        self._teachers = teachers

    def _run(self) -> None:
        due = time.monotonic()
        for place in self._places():
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            due = max(due + 1 / self._rate, time.monotonic() - 1.0)
            if self._room.acquire(blocking=False):
                self._pool.submit(self._in_room, self._ask, place)
            else:
                self._count(requests=1, failed=1)
            for word in self._due_words():
                self._pool.submit(self._tell, *word)

    def _places(self) -> Iterator[int]:
        order = list(range(len(self._images)))
        while True:
            self._random.shuffle(order)
            yield from (place for place in order if teacher(place) in self._teachers)

    def _in_room(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        finally:
            self._room.release()

    def _ask(self, place: int) -> None:
        body = json.dumps({"image": self._images[place].tolist()}).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})  # noqa: S310
        try:
            with DIRECT.open(request, timeout=10) as response:
                answer = json.load(response)
            prediction_id, digit, confident = answer["id"], answer["digit"], answer["confidence"] >= CONFIDENT
        except (OSError, ValueError, LookupError, TypeError):  # an HTTP error is an OSError
            self._count(requests=1, failed=1)
            return
        self._count(requests=1, confident=int(confident))
        truth = str(self._labels[place])
        right = digit == truth
        if confident and self._random.random() < (CONFIRMS_RIGHT if right else CORRECTS_WRONG):
            when = time.monotonic() + self._random.uniform(*self._delay)
            if not right and self._random.random() < SLIPS:
                truth = self._random.choice([other for other in map(str, range(10)) if other not in {digit, truth}])
            word = ("accepted", None) if right else ("corrected", truth)
            with self._lock:
                heapq.heappush(self._later, (when, prediction_id, *word, teacher(place)))

    def _due_words(self) -> list[tuple[str, str, str | None, str]]:
        due = []
        with self._lock:
            while self._later and self._later[0][0] <= time.monotonic():
                due.append(heapq.heappop(self._later)[1:])
        return due

    def _tell(self, prediction_id: str, verdict: str, label: str | None, user: str) -> None:
        try:
            self._monitor.feedback(prediction_id, verdict, label=label, user=user)
        except ExporterError as error:
            self._count(undelivered=1)
            self._notice(f"users' feedback is lost: {error}", away=True)
        else:
            self._count(**{verdict: 1})
            self._notice("users' feedback arrives again", away=False)

    def _count(self, **more: int) -> None:
        with self._lock:
            self.counts.update(more)

    def _notice(self, text: str, *, away: bool) -> None:
        with self._lock:
            changed, self._away = self._away != away, away
        if changed:
            self._say(text)
