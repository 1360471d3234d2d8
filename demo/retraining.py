"""Corrections are reviewed, and a release of them is downloaded, over HTTP.

The reviewer is the demo itself, which knows the true labels of the images that its users send. Real reviewers look
at them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt

from demo import model
from demo.incidents import Incidents
from exporter.errors import ExporterError, StackError
from exporter.http_client import Client, RequestError
from exporter.secret_file import is_signed, read_secret
from exporter.stats.intervals import share

if TYPE_CHECKING:
    from demo.service import Versions

_PAGE = 500


def pending(exporter: Client, order: str = "newest") -> Iterator[dict[str, Any]]:
    """Yield the pending corrections in an order of the API.

    Raises
    ------
    StackError
        When the exporter cannot be reached or refuses a request.
    """
    path: str | None = f"/v1/corrections?model={model.NAME}&status=pending&order={order}&limit={_PAGE}"
    while path:
        page = json.loads(request(exporter, "GET", path))
        yield from page["corrections"]
        path = page["next"] and f"/v1/corrections?{urlsplit(page['next']).query}"


def review(exporter: Client, directory: Path, corrections: Iterable[dict[str, Any]]) -> Counter[str]:
    """Decide corrections: accept the right ones, reject the wrong ones.

    Returns
    -------
    Counter of str
        ``accepted``, ``rejected``, and ``left``: those whose image is not recognised because it is noisy, and those
        that somebody else decided first.

    Raises
    ------
    StackError
        When the exporter cannot be reached or refuses a request.
    """
    labels = _true_labels(directory)
    counts: Counter[str] = Counter()
    for correction in corrections:
        label = labels.get(_key((correction["inputs"] or {}).get("image")))
        if label is None:
            counts["left"] += 1
            continue
        status = "accepted" if correction["label"] == label else "rejected"
        decision = {"status": status, "revision": correction["revision"]}
        decided = request(exporter, "PATCH", f"/v1/corrections/{correction['id']}", decision, empty_on=409)
        counts[status if decided else "left"] += 1
    return counts


def review_sample(exporter: Client, directory: Path, count: int = 100) -> Counter[str]:
    """Draw a random sample of confident predictions without feedback, and judge each.

    Returns
    -------
    Counter of str
        ``right``, ``wrong``, and ``left``: those whose image is not recognised because it is noisy.

    Raises
    ------
    StackError
        When the exporter cannot be reached or refuses a request.
    """
    labels = _true_labels(directory)
    request(exporter, "POST", "/v1/corrections/samples", {"model": model.NAME, "count": count})
    path = f"/v1/corrections?model={model.NAME}&status=pending&source=sample&limit={_PAGE}"
    counts: Counter[str] = Counter()
    for sampled in json.loads(request(exporter, "GET", path))["corrections"]:
        label = labels.get(_key((sampled["inputs"] or {}).get("image")))
        decision = {"status": "accepted", "revision": sampled["revision"]}
        if label is None:
            counts["left"] += 1
            decision["status"] = "rejected"
        elif label == sampled["prediction"]:
            counts["right"] += 1
        else:
            counts["wrong"] += 1
            decision["label"] = label
        request(exporter, "PATCH", f"/v1/corrections/{sampled['id']}", decision, empty_on=409)
    return counts


def download(exporter: Client, release: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the examples of a release.

    Parameters
    ----------
    exporter
        HTTP client of the exporter.
    release
        The release's document, as a request for retraining has it.

    Raises
    ------
    StackError
        When the exporter cannot be reached or refuses a request, or the SHA-256 of the release is wrong.
    """
    content = request(exporter, "GET", f"/v1/dataset/releases/{quote(str(release['id']))}")
    if hashlib.sha256(content).hexdigest() != release["sha256"]:
        raise StackError(f"the release {release['id']} has changed: its SHA-256 differs")
    return [json.loads(line) for line in content.splitlines()]


def request(client: Client, method: str, path: str, document: object = None, *, empty_on: int | None = None) -> bytes:
    """Send a request.

    Returns
    -------
    bytes
        The body of the response; empty where its status is ``empty_on``.

    Raises
    ------
    StackError
        When the server cannot be reached or answers with an error.
    """
    try:
        response = client.request(method, path, json=document)
    except RequestError as error:
        raise StackError(f"{client.url}{path}: no response ({error.reason})") from None
    if response.status == empty_on:
        return b""
    if response.status >= 300:
        raise StackError(f"{client.url}{path}: {response.error_message()}")
    return response.body


def _true_labels(directory: Path) -> dict[bytes, str]:
    """Return the labels of the held-out images: of each as it is, and as the deterministic incidents change it."""
    images, labels = model.held_out(directory)
    incidents = Incidents()
    by_image: dict[bytes, str] = {}
    for incident in ("shifted", "dark", None):
        incidents.begin(incident, 3600)
        by_image |= {_key(incidents.apply(image)): str(label) for image, label in zip(images, labels, strict=True)}
    return by_image


def _key(image: object) -> bytes:
    try:
        return np.array(image, dtype=np.float64).tobytes()
    except (ValueError, TypeError):
        return b""


def training_images(
    directory: Path, examples: list[dict[str, Any]]
) -> tuple[model.Images, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return what a release has to train on.

    Each image is in once, however often users sent it, with the weights of all its rows. Those of teachers who are held
    back are left out: a version cannot be evaluated on images that it was trained on.

    Returns
    -------
    tuple
        Images of shape ``(n, 8, 8)``, their digits of shape ``(n,)``, and their weights beside earlier images of weight
        1: as many in sum as their effective sample size.
    """
    held_back = {_key(image) for light in (None, "shifted", "dark") for image in held_back_images(directory, light)[0]}
    by_image: dict[bytes, tuple[model.Images, int, float]] = {}
    for example in examples:
        image = np.array((example["inputs"] or {}).get("image", ()), dtype=np.float64)
        key, user, label = _key(image), example["user"], str(example["label"])
        if image.shape == (8, 8) and key not in held_back and user not in model.HELD_BACK and label.isdecimal():
            weight = by_image[key][2] if key in by_image else 0.0
            by_image[key] = image, int(label), weight + example["weight"]
    images, labels, weights = zip(*by_image.values(), strict=True) if by_image else ((), (), ())
    scaled = np.array(weights) * (sum(weights) / np.square(weights).sum() if weights else 1.0)
    return np.array(images).reshape(-1, 8, 8), np.array(labels, dtype=np.int64), scaled


def held_back_images(directory: Path, incident: str | None) -> tuple[model.Images, npt.NDArray[np.int64]]:
    """Return the images of the held-back teachers as the camera of an incident takes them, and their digits."""
    images, labels = model.held_out(directory)
    indices = [index for index in range(len(images)) if model.teacher(index) in model.HELD_BACK]
    incidents = Incidents()
    incidents.begin(incident, 3600)
    return np.array([incidents.apply(image) for image in images[indices]]), labels[indices]


def evaluate(directory: Path, old: str, new: str) -> list[str]:
    """Report the accuracy of both versions on images of the held-back teachers, dark and as they are."""
    lines = []
    for light, incident in (("dark", "dark"), ("normal", None)):
        images, labels = held_back_images(directory, incident)
        accuracies = []
        for version in (old, new):
            accuracy = share(count_right(directory, version, images, labels), len(images))
            low, high = accuracy.interval()
            accuracies.append(f"version {version} {accuracy.value:.1%} ({low:.1%} to {high:.1%})")
        lines.append(f"accuracy on {len(images)} {light} images of the teachers held back: {' and '.join(accuracies)}")
    return lines


def count_right(directory: Path, version: str, images: model.Images, labels: npt.NDArray[np.int64]) -> int:
    """Return how many images a version recognises."""
    classifier = model.load(directory, version)
    return int((classifier.classes_[classifier.predict_proba(model.rows(images)).argmax(1)] == labels).sum())


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
    reviewed = review(exporter, directory, itertools.islice(pending(exporter), MAX_CORRECTIONS))
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
            page = json.loads(request(exporter, "GET", f"/v1/retrain-requests?model={model.NAME}"))
            error = next((entry["error"] for entry in page["requests"] if entry["id"] == asked), None)
            raise StackError(
                f"no version was trained within {SECONDS:.0f} s ({error or progress['state']}); the trainer is at "
                f"{service.url}/retrain: is that retrain.url in {model.CONFIG_FILE}?"
            )
        time.sleep(POLL_SECONDS)


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
            raise RefusedError("the signature does not match the body")
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
        examples = download(self._exporter, release)
        images, labels, weights = training_images(self._directory, examples)
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
            weights = np.concatenate([np.ones(len(first["label"])), weights])
        model.train(self._directory, new, images, labels, weights)
        model.configure(self._directory)
        request(self._exporter, "POST", "/-/reload")
        self._versions.deploy(new)
        served = f"has a profile of them, and serves half of the requests, like version {old}"
        self._report(request_id, f"version {new} is trained on {len(images)} images, {served}")
        return new

    def _report(self, request_id: str, line: str, state: str = "running") -> None:
        with self._lock:
            training = self._known[request_id]
            self._known[request_id] = training._replace(state=state, lines=(*training.lines, line))
        if training.announced:
            self._say(f"  {'failed: ' if state == 'failed' else ''}{line}")
