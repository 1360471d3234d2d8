"""Retraining: reviewed corrections train the next version, which is then served beside the old one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.commands.demo import flywheel, model
from exporter.commands.demo.incidents import Incidents
from exporter.errors import StackError
from exporter.http_client.client import Client
from exporter.stats.intervals import share

_MORE = "Users of the demo correct many predictions while the camera is dark: see demo --incident=dark"


def retrain(directory: Path, exporter: Client, service: Client, say: Callable[[str], None]) -> str:
    """Review, release, train and deploy, and report each step.

    Parameters
    ----------
    directory
        Of the demo.
    exporter, service
        Their HTTP clients.
    say
        Prints a line.

    Returns
    -------
    str
        The new version.

    Raises
    ------
    ExporterError
        When a step fails, or the release has no image to train on.
    """
    reviewed = flywheel.review(exporter, directory)
    say(
        f"the demo reviews, since it knows the true labels: {reviewed['accepted']} corrections accepted, "
        f"{reviewed['rejected']} rejected because the user was wrong, {reviewed['left']} left"
    )
    try:
        release = flywheel.release(exporter)
    except StackError as error:
        raise StackError(f"{error}. {_MORE}") from None
    images, labels = training_images(release.examples)
    say(
        f"release {release.name} ({release.sha256[:12]}): {len(release.examples)} examples; "
        f"{len(images)} different images of {', '.join(sorted(set(model.TEACHERS) - model.HELD_BACK))} for training"
    )
    if not len(images):
        raise StackError(f"the release has no image to train on. {_MORE}")
    old, new = model.versions(directory)[-1], str(int(model.versions(directory)[-1]) + 1)
    with np.load(directory / model.files_of(model.VERSION).training) as first:
        images = np.concatenate([first["image"], images])
        labels = np.concatenate([first["label"].astype(np.int64), labels])
    model.train(directory, new, images, labels)
    model.configure(directory)
    flywheel.request(exporter, "POST", "/-/reload")
    served = json.loads(flywheel.request(service, "POST", "/versions", {"version": new}))["versions"]
    say(f"version {new} is trained on {len(images)} images, has a profile of them, and is served beside version {old}")
    for line in evaluate(directory, old, new):
        say(line)
    if new not in served:
        raise StackError(f"{service.url}: does not serve version {new} but {', '.join(served)}")
    return new


def training_images(examples: list[dict[str, Any]]) -> tuple[model.Images, npt.NDArray[np.int64]]:
    """Return what a release has to train on.

    Each image counts once, however often users sent it. Those of teachers who are held back are left out: a version
    cannot be evaluated on images that it was trained on.

    Returns
    -------
    tuple
        Images of shape ``(n, 8, 8)``, and their digits of shape ``(n,)``.
    """
    by_image: dict[bytes, tuple[model.Images, int]] = {}
    for example in examples:
        image = np.array((example["inputs"] or {}).get("image", ()), dtype=np.float64)
        if image.shape == (8, 8) and example["user"] not in model.HELD_BACK and str(example["label"]).isdecimal():
            by_image[image.tobytes()] = image, int(example["label"])
    images = [image for image, _ in by_image.values()]
    return np.array(images).reshape(-1, 8, 8), np.array([label for _, label in by_image.values()], dtype=np.int64)


def evaluate(directory: Path, old: str, new: str) -> list[str]:
    """Report the accuracy of both versions on images of the held-back teachers, dark and as they are."""
    images, labels = model.held_out(directory)
    indices = [index for index in range(len(images)) if model.teacher(index) in model.HELD_BACK]
    images, labels = images[indices], labels[indices]
    incidents, lines = Incidents(), []
    for light, incident in (("dark", "dark"), ("normal", None)):
        incidents.begin(incident, 3600)
        rows = model.rows(np.array([incidents.apply(image) for image in images]))
        accuracies = []
        for version in (old, new):
            classifier = model.load(directory, version)
            digits = classifier.classes_[classifier.predict_proba(rows).argmax(1)]
            accuracy = share(int((digits == labels).sum()), len(rows))
            low, high = accuracy.interval()
            accuracies.append(f"version {version} {accuracy.value:.1%} ({low:.1%} to {high:.1%})")
        lines.append(f"accuracy on {len(rows)} {light} images of the teachers held back: {' and '.join(accuracies)}")
    return lines
