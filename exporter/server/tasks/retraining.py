"""Ask the user's trainer for a new version of a model: when its accuracy falls, or enough corrections are accepted.

A request is recorded in the store first. It is then prepared (the corrections are released, versions are compared),
and sent until the trainer takes it. Each step is repeated after a crash; the trainer sees the same identifier again.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from exporter.comparison.measures import Comparison, document
from exporter.config import Config, RetrainConfig
from exporter.datasets.release import BusyError, EmptyError, make_release, release_document
from exporter.errors import CompareError, ConfigError, ExporterError, SlicesError, StoreError, StoreFullError
from exporter.metrics.exposition import ExporterMetrics
from exporter.metrics.lines import FamilyLines
from exporter.metrics.models import RETRAINING
from exporter.scheduler import Task
from exporter.secret_file import read_secret, signed_headers
from exporter.server.alerts import Alert, Alerts
from exporter.server.text import parse_time
from exporter.storage import ADDED, RetrainRow, Store
from exporter.validation import rfc3339

ACCURACY_ALERT = "ModelAccuracyLow"


class Trigger(NamedTuple):
    """Why a model should be retrained."""

    reason: str
    detail: str
    alert: Alert | None = None

    def alert_document(self) -> dict[str, Any] | None:
        """Return the alert as its JSON document; None without one."""
        if self.alert is None:
            return None
        return {
            "name": self.alert.name,
            "version": self.alert.labels.get("version"),
            "starts_at": self.alert.starts_at,
            "summary": self.alert.annotations.get("summary"),
            "description": self.alert.annotations.get("description"),
        }


def accuracy_trigger(firing: Sequence[Alert], model: str, asked: float) -> Trigger | None:
    """Return the trigger of a model's low accuracy, once an incident.

    Parameters
    ----------
    firing
        The alerts that fire.
    model
        The model.
    asked
        Unix time in seconds of the last request for this reason: alerts that began before were the same incident.
    """
    for alert in firing:
        began = parse_time(alert.starts_at)
        if alert.name != ACCURACY_ALERT or alert.labels.get("model") != model or began is None:
            continue
        if began.timestamp() > asked:
            return Trigger("accuracy", alert.annotations.get("summary") or f"{ACCURACY_ALERT} fires", alert)
    return None


def corrections_trigger(enough: int, corrections: int) -> Trigger | None:
    """Return the trigger of accepted corrections that are in no release yet; ``enough`` is 0 for never.

    >>> corrections_trigger(200, 199), corrections_trigger(0, 199)
    (None, None)
    """
    if not enough or corrections < enough:
        return None
    return Trigger("corrections", f"{corrections:,} accepted corrections are in no release yet")


log = logging.getLogger(__name__)

SECONDS = 15.0
"""Time between two looks at the alerts and at the corrections."""
DUE_SECONDS = 2.0
BUDGET_SECONDS = 60.0
"""Time of sending; the next call sends what is left."""
"""Time between two looks for a request that is due."""
FAILURE_SECONDS = 60.0
"""Time until the next look after one that failed."""
LEASE_SECONDS = 300.0
"""How long one exporter has for preparing and sending a request, before another one tries."""
TIMEOUT_SECONDS = 10.0
"""Time that the trainer has for each part of its response."""
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 10.0, 3600.0
"""Time from a failed attempt to the next; it doubles each time."""
GIVE_UP_SECONDS = 3 * 86400.0
"""How long a request is repeated."""
SLICES_SECONDS = 7 * 86400.0
"""How far back the slices of corrections are searched."""
MAX_ANSWER = 1000
"""Bytes of the trainer's response that are read, for the message of an error."""
GONE = 410
"""The status by which a receiver says that it takes no more requests of this kind."""


class Retrainer(Task):
    """Records, prepares and sends the requests, in a thread of its own.

    Parameters
    ----------
    config
        Returns the current configuration.
    store
        Keeps the requests, and the corrections.
    telemetry
        Counts the requests.
    alerts
        Returns the alerts that are known.
    compare
        Compares the last two versions of a model.
    slices
        Returns the slices of a model's corrections since a Unix time in seconds, as in ``GET /v1/slices``.
    profile
        Returns the hash of the profile of a model's version that serves; None without one.
    external_url
        Returns what links to the exporter begin with.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        store: Store,
        telemetry: ExporterMetrics,
        alerts: Callable[[], Alerts],
        *,
        compare: Callable[[str], Comparison],
        slices: Callable[[str, float], list[dict[str, Any]]],
        profile: Callable[[str], str | None],
        external_url: Callable[[], str],
    ) -> None:
        super().__init__("retrain", "requests for retraining wait", DUE_SECONDS, lane="trainer", budget=BUDGET_SECONDS)
        self._config = config
        self._store = store
        self._telemetry = telemetry
        self._alerts = alerts
        self._compare = compare
        self._slices = slices
        self._profile = profile
        self._external_url = external_url
        self._looked = -math.inf

    def request(self, model: str) -> RetrainRow | None:
        """Record a request that a person or a program made; None while another one of the model is open.

        Raises
        ------
        StoreError
            When it could not be stored.
        """
        return self._record(model, Trigger("manual", "requested by hand"), last=None)

    def look(self, now: float) -> None:
        """Record a request for each model that should be retrained, at the Unix time ``now`` in seconds.

        Raises
        ------
        StoreError
            When the database fails.
        """
        config = self._config()
        settings = config.retrain
        if settings is None:
            return
        firing = self._alerts().firing if settings.accuracy else []
        for model in (model.name for model in config.models if settings.concerns(model.name)):
            last = next(iter(self._store.retrain_requests.list(model, 1)), None)
            last_created = last["created"] if last else -math.inf
            if last and (last["next_attempt"] is not None or now - last_created < settings.interval_seconds()):
                continue
            corrections = self._store.retrain_requests.count_unreleased(model) if settings.corrections else 0
            accuracy = next(iter(self._store.retrain_requests.list(model, 1, "accuracy")), None)
            asked = accuracy["created"] if accuracy else -math.inf
            trigger = accuracy_trigger(firing, model, asked) or corrections_trigger(settings.corrections, corrections)
            if trigger and self._record(model, trigger, last=last_created):
                log.info("retraining of %s is requested: %s", model, trigger.detail)

    def lines(self) -> list[FamilyLines]:
        """Return the lines of ``/metrics``.

        Raises
        ------
        StoreError
            When the database cannot be read.
        """
        config, now = self._config(), time.time()
        if config.retrain is None:
            return []
        since = self._store.review.state().undelivered
        asked = [model.name for model in config.models if config.retrain.concerns(model.name) and model.name in since]
        return list(RETRAINING.lines({model: max(now - since[model], 0.0) for model in asked}))

    def send_due(self, now: float) -> bool:
        """Prepare and send the next request that is due at the Unix time ``now``; return whether there was one.

        Raises
        ------
        ExporterError
            When the database fails, or the secret cannot be read.
        """
        settings = self._config().retrain
        row = self._store.retrain_requests.claim_due(now, now + LEASE_SECONDS) if settings else None
        if settings is None or row is None:
            return False
        began = time.monotonic()
        try:
            body = row["body"] or self._prepare(row)
            status, error = self._send(settings, row["id"], body)
        except BusyError:  # another release is being made
            self._store.retrain_requests.update(row["seq"], next_attempt=now + DUE_SECONDS)
            return True
        now += time.monotonic() - began  # the pause begins when the trainer has answered, or has not for too long
        if not error:
            self._store.retrain_requests.update(row["seq"], next_attempt=None, delivered=now, error=None)
            self._count("delivered")
            log.info("retraining of %s: the trainer took request %s", row["model"], row["id"])
            return True
        attempts = row["attempts"] + 1
        pause = min(FIRST_RETRY_SECONDS * 2 ** min(attempts - 1, 20), LONGEST_RETRY_SECONDS)
        is_given_up = status == GONE or now + pause - row["created"] > GIVE_UP_SECONDS
        next_attempt = None if is_given_up else now + pause
        self._store.retrain_requests.update(row["seq"], next_attempt=next_attempt, attempts=attempts, error=error[:500])
        self._count("abandoned" if is_given_up else "failed")
        after = "given up" if is_given_up else f"the next attempt is in {pause:.0f} s"
        log.warning("retraining of %s: attempt %d to send request %s: %s; %s",
                    row["model"], attempts, row["id"], error, after)  # fmt: skip
        return True

    def _record(self, model: str, trigger: Trigger, last: float | None) -> RetrainRow | None:
        context: dict[str, Any] = {"detail": trigger.detail, "alert": trigger.alert_document()}
        text = msgspec.json.encode(context).decode()
        row = self._store.retrain_requests.add(model, trigger.reason, text, last)
        if row is not None:
            self._count("requested")
        return row

    def _prepare(self, row: RetrainRow) -> str:
        """Release the corrections, compare the versions, and store the document to send."""
        model = row["model"]
        data = {
            "id": row["id"],
            "model": model,
            "reason": row["reason"],
            **msgspec.json.decode(row["context"]),
            "release": self._release(model),
            "comparison": self._comparison(model),
            "slices": self._correction_slices(model),
            "exporter_url": self._external_url(),
        }
        message = {"type": "model.retrain", "timestamp": rfc3339(row["created"]), "data": data}
        body = msgspec.json.encode(message).decode()
        self._store.retrain_requests.update(row["seq"], body=body)
        return body

    def _release(self, model: str) -> dict[str, Any] | None:
        redacted = next((entry.redact for entry in self._config().models if entry.name == model), frozenset())
        try:
            profile = self._profile(model)
            row = make_release(self._store, model, None, None, redacted, profile=profile, include=ADDED).row
        except EmptyError:
            return None
        except StoreFullError as error:
            log.warning("retraining of %s: its corrections are not released: %s", model, error)
            return None
        return {**release_document(row), "url": f"{self._external_url()}/v1/dataset/releases/{row['id']}"}

    def _comparison(self, model: str) -> dict[str, Any] | None:
        try:
            return document(self._compare(model))
        except CompareError:  # one version, or two that never served together
            return None
        except StoreError:
            raise
        except ExporterError as error:
            log.warning("retraining of %s: its versions are not compared: %s", model, error)
            return None

    def _correction_slices(self, model: str) -> list[dict[str, Any]]:
        try:
            return self._slices(model, time.time() - SLICES_SECONDS)
        except SlicesError:  # no profile, or no stored inputs
            return []

    def _send(self, settings: RetrainConfig, request_id: str, body: str) -> tuple[int, str]:
        """Send a request; return the status of the response, 0 without one, and what went wrong, empty for nothing."""
        from exporter.http_client import Client, RequestError, Response  # urllib3 takes time to load

        content = body.encode()
        try:
            secret = read_secret(settings.secret_file, "retrain.secret_file")
            client = Client(settings.url, "retrain.url", timeout=TIMEOUT_SECONDS)
            headers = signed_headers(secret, request_id, int(time.time()), content)
            path = "/" if settings.url.endswith("/") or not urlsplit(settings.url).path else ""
            with client, client.open("POST", path, content, headers=headers) as response:
                status = response.status
                answer = response.read1(MAX_ANSWER)  # what is there: a slow response must not hold the thread
        except (ConfigError, RequestError) as error:
            return 0, error.reason if isinstance(error, RequestError) else str(error)
        return status, "" if status < 300 else Response(status, answer).error_message()

    def _count(self, status: str) -> None:
        self._telemetry.retrain_requests.labels(status).inc()

    def refresh(self) -> None:
        """Look for a reason to ask for a new version, and send the requests that are due."""
        if time.monotonic() - self._looked >= SECONDS:
            self._looked = time.monotonic()
            self.look(time.time())
        while not self.must_stop() and self.send_due(time.time()):
            pass
        self.seconds = DUE_SECONDS

    def on_error(self, error: Exception) -> None:
        """Log an error, and wait longer."""
        self.seconds = FAILURE_SECONDS
        if isinstance(error, ExporterError):
            log.warning("requests for retraining wait: %s", error)
        else:
            super().on_error(error)


def request_document(row: RetrainRow) -> dict[str, Any]:
    """Return a request as its JSON document."""
    status = "waiting" if row["next_attempt"] is not None else "abandoned"
    if row["delivered"] is not None:
        status = "delivered"
    return {
        "id": row["id"],
        "model": row["model"],
        "reason": row["reason"],
        "detail": msgspec.json.decode(row["context"])["detail"],
        "status": status,
        "created": rfc3339(row["created"]),
        "delivered": rfc3339(row["delivered"]),
        "attempts": row["attempts"] + (status == "delivered"),
        "error": row["error"],
    }
