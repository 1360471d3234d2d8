"""Retraining: the demo reviews, and the exporter asks the trainer for the next version."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.commands.demo import flywheel, model
from exporter.commands.demo.training_set import evaluate
from exporter.errors import StackError
from exporter.http_client.client import Client

MAX_CORRECTIONS = 5000
"""Corrections that are reviewed at most."""
SECONDS = 180.0
"""How long to wait for the next version."""
POLL_SECONDS = 0.5
_MORE = "Users of the demo correct many predictions while the camera is dark: see demo --incident=dark"


def retrain(directory: Path, exporter: Client, service: Client, say: Callable[[str], None]) -> str:
    """Review, let the exporter ask the trainer for a new version, wait until it is served, and report each step.

    Parameters
    ----------
    directory
        Of the demo.
    exporter, service
        Their HTTP clients; the trainer runs in the service.
    say
        Prints a line.

    Returns
    -------
    str
        The new version.

    Raises
    ------
    StackError
        When a step fails, or the release has no image to train on.
    """
    reviewed = flywheel.review(exporter, directory, itertools.islice(flywheel.pending(exporter), MAX_CORRECTIONS))
    say(
        f"the demo reviews, since it knows the true labels: {reviewed['accepted']} corrections accepted, "
        f"{reviewed['rejected']} rejected because the user was wrong, {reviewed['left']} left"
    )
    old = model.versions(directory)[-1]
    new = train(exporter, service, say)
    for line in evaluate(directory, old, new):
        say(line)
    return new


def train(exporter: Client, service: Client, say: Callable[[str], None]) -> str:
    """Let the exporter ask the trainer for a new version, wait until it is served, report each step and return it.

    Raises
    ------
    StackError
        When a step fails, or the release has no image to train on.
    """
    return _wait(_ask(exporter), exporter, service, say)


def _ask(exporter: Client) -> str:
    """Return the identifier of a new request; of the open one, if the exporter made one already."""
    created = exporter.request("POST", "/v1/retrain-requests", json={"model": model.NAME})
    document: dict[str, Any] = json.loads(created.body) if created.status in {201, 409} else {}
    asked = document.get("request", document).get("id")
    if not isinstance(asked, str):
        raise StackError(f"{exporter.url}/v1/retrain-requests: {created.error_message()}")
    return asked


def _wait(asked: str, exporter: Client, service: Client, say: Callable[[str], None]) -> str:
    said, until = 0, time.monotonic() + SECONDS
    while True:
        training = service.request("GET", f"/retrain/{asked}")
        progress = json.loads(training.body) if training.status == 200 else {"state": "waiting", "lines": []}
        for line in progress["lines"][said:] if progress["state"] != "failed" else progress["lines"][said:-1]:
            say(line)
            said += 1
        if progress["state"] == "done":
            return str(progress["version"])
        if progress["state"] == "failed":
            raise StackError(f"{progress['lines'][-1]}. {_MORE}")
        if time.monotonic() > until:
            page = json.loads(flywheel.request(exporter, "GET", f"/v1/retrain-requests?model={model.NAME}"))
            error = next((entry["error"] for entry in page["requests"] if entry["id"] == asked), None)
            raise StackError(
                f"no version was trained within {SECONDS:.0f} s ({error or progress['state']}); the trainer is at "
                f"{service.url}/retrain: is that retrain.url in {model.CONFIG_FILE}?"
            )
        time.sleep(POLL_SECONDS)
