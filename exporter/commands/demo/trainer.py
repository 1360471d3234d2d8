"""The demo's trainer: takes the exporter's request for retraining, trains the next version, and serves it.

It runs in the service's process. A real trainer starts a pipeline instead; what it receives and checks is the same.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from exporter.commands.demo import flywheel, model
from exporter.commands.demo.training_set import training_images
from exporter.commands.demo.versions import Versions
from exporter.errors import ExporterError, StackError
from exporter.http_client.client import Client
from exporter.secret_file import is_signed, read_secret

TOLERANCE_SECONDS = 300.0
"""How old a request may be: an older one may be recorded and sent again by somebody else."""
KNOWN = 100
"""Requests whose progress is kept."""


class RefusedError(StackError):
    """A request that is not genuine, or cannot be read."""


class Training(NamedTuple):
    """The progress of a training.

    Attributes
    ----------
    state
        ``running``, ``done`` or ``failed``.
    lines
        What was done so far.
    version
        The new version, once it is served.
    announced
        Whether the lines are printed as well: the exporter asked by itself, and nobody waits for them.
    """

    state: str
    lines: tuple[str, ...] = ()
    version: str | None = None
    announced: bool = False


class Trainer:
    """Trains one version at a time, in a thread of its own; safe to use from many threads.

    Parameters
    ----------
    directory
        Of the demo.
    exporter
        HTTP client of the exporter.
    versions
        Serves the new version.
    say
        Prints a line.
    """

    def __init__(self, directory: Path, exporter: Client, versions: Versions, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._exporter = exporter
        self._versions = versions
        self._say = say
        self._lock, self._training = threading.Lock(), threading.Lock()
        self._known: dict[str, Training] = {}

    def take(self, headers: Mapping[str, str], body: bytes) -> None:
        """Begin what a request asks for; one that is known already is ignored.

        Raises
        ------
        RefusedError
            When it is not signed with the secret, is too old, or cannot be read.
        """
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        message_id, timestamp, signatures = (headers.get(name, "") for name in names)
        secret = read_secret(str(self._directory / model.SECRET_FILE), "retrain.secret_file")
        if not is_signed(secret, message_id, timestamp, body, signatures):
            raise RefusedError("the signature is not that of the body")
        try:
            is_recent = abs(time.time() - int(timestamp)) <= TOLERANCE_SECONDS
            data = json.loads(body)["data"]
            release = data["release"]
        except (ValueError, LookupError, TypeError):
            raise RefusedError("expected a request for retraining") from None
        if not is_recent:
            raise RefusedError("the request is too old")
        with self._lock:
            if message_id in self._known:
                return
            if len(self._known) == KNOWN:
                del self._known[next(iter(self._known))]
            announced = data.get("reason") not in {None, "manual"}
            self._known[message_id] = Training("running", announced=announced)
        if announced:
            self._say(f"the exporter asks for the next version: {data.get('detail')}")
        threading.Thread(target=self._train, args=(message_id, release), name="trainer", daemon=True).start()

    def progress(self, request_id: str) -> Training | None:
        """Return the progress of a request; None if it did not arrive."""
        with self._lock:
            return self._known.get(request_id)

    def _train(self, request_id: str, release: dict[str, Any] | None) -> None:
        with self._training:
            try:
                version = self._train_version(request_id, release)
            except (ExporterError, OSError) as error:
                self._report(request_id, str(error), state="failed")
            except Exception:
                self._report(request_id, "the training failed; see the service's log", state="failed")
                raise
            else:
                with self._lock:
                    self._known[request_id] = self._known[request_id]._replace(state="done", version=version)

    def _train_version(self, request_id: str, release: dict[str, Any] | None) -> str:
        if release is None:
            raise StackError(f"the request has no release: no correction of {model.NAME} is accepted")
        examples = flywheel.download(self._exporter, release)
        images, labels = training_images(examples)
        teachers = ", ".join(sorted(set(model.TEACHERS) - model.HELD_BACK))
        what = f"release {release['name']} ({release['sha256'][:12]}): {len(examples)} examples"
        self._report(request_id, f"{what}; {len(images)} different images of {teachers} for training")
        if not len(images):
            raise StackError("the release has no image to train on")
        old = model.versions(self._directory)[-1]
        new = str(int(old) + 1)
        with np.load(self._directory / model.files_of(model.VERSION).training) as first:
            images = np.concatenate([first["image"], images])
            labels = np.concatenate([first["label"].astype(np.int64), labels])
        model.train(self._directory, new, images, labels)
        model.configure(self._directory)
        flywheel.request(self._exporter, "POST", "/-/reload")
        self._versions.deploy(new)
        served = f"has a profile of them, and serves half of the requests, beside version {old}"
        self._report(request_id, f"version {new} is trained on {len(images)} images, {served}")
        return new

    def _report(self, request_id: str, line: str, state: str = "running") -> None:
        with self._lock:
            training = self._known[request_id]
            self._known[request_id] = training._replace(state=state, lines=(*training.lines, line))
        if training.announced:
            self._say(f"  {'failed: ' if state == 'failed' else ''}{line}")
