"""What a release has to train on, and the evaluation of a version that was trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exporter.commands.demo import model
from exporter.commands.demo.incidents import Incidents
from exporter.stats.intervals import share


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
