"""The loop closed: reviewed corrections train the next version, which is then served beside the old one."""

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
from exporter.stats.intervals import share


def retrain(directory: Path, exporter: str, service: str, say: Callable[[str], None]) -> str:
    """Review, release, train, deploy; what came out is said.

    Parameters
    ----------
    directory
        Of the demo.
    exporter, service
        URLs.
    say
        Takes one line.

    Returns
    -------
    str
        The new version.

    Raises
    ------
    ExporterError
        When a step fails, or there is nothing to learn from.
    """
    reviewed = flywheel.review(exporter, directory)
    say(
        f"the demo plays the reviewer, who knows the truth: {reviewed['accepted']} corrections accepted, "
        f"{reviewed['rejected']} rejected because the user was wrong, {reviewed['left']} left"
    )
    release = flywheel.release(exporter)
    images, labels = learnable(release.examples)
    say(
        f"release {release.name} ({release.sha256[:12]}): {len(release.examples)} examples; "
        f"{len(images)} different images of {', '.join(sorted(set(model.TEACHERS) - model.HELD_BACK))} train"
    )
    if not len(images):
        raise StackError("there is nothing to learn from: let users correct first, such as in demo --incident=dark")
    old, new = model.versions(directory)[-1], str(int(model.versions(directory)[-1]) + 1)
    with np.load(directory / model.files_of(model.VERSION).training) as first:
        images = np.concatenate([first["image"], images])
        labels = np.concatenate([first["label"].astype(np.int64), labels])
    model.train(directory, new, images, labels)
    model.configure(directory)
    flywheel.call(f"{exporter}/-/reload", {}, "POST")
    served = json.loads(flywheel.call(f"{service}/versions", {"version": new}))["versions"]
    say(
        f"version {new} is trained on {len(images)} images and judged by their profile; it answers beside version {old}"
    )
    for line in judged(directory, old, new):
        say(line)
    if new not in served:
        raise StackError(f"{service}: does not serve version {new} but {', '.join(served)}")
    return new


def learnable(examples: list[dict[str, Any]]) -> tuple[model.Images, npt.NDArray[np.int64]]:
    """What a release teaches.

    Each image counts once, however often users sent it. Those of teachers who are held back are left out: an image
    that trained a version says nothing of how it does on new ones.

    Returns
    -------
    tuple
        Images of shape ``(n, 8, 8)``, and their digits of shape ``(n,)``.
    """
    found: dict[bytes, tuple[model.Images, int]] = {}
    for example in examples:
        image = np.array((example["inputs"] or {}).get("image", ()), dtype=np.float64)
        if image.shape == (8, 8) and example["user"] not in model.HELD_BACK and str(example["label"]).isdecimal():
            found[image.tobytes()] = image, int(example["label"])
    images = [image for image, _ in found.values()]
    return np.array(images).reshape(-1, 8, 8), np.array([label for _, label in found.values()], dtype=np.int64)


def judged(directory: Path, old: str, new: str) -> list[str]:
    """How both versions do on the images of the teachers who were held back, in the dark and in the light."""
    images, labels = model.held_out(directory)
    places = [place for place in range(len(images)) if model.teacher(place) in model.HELD_BACK]
    images, labels = images[places], labels[places]
    incidents, lines = Incidents(), []
    for light, incident in (("in the dark", "dark"), ("in the light", None)):
        incidents.begin(incident, 3600)
        seen = model.rows(np.array([incidents.seen(image) for image in images]))
        told = []
        for version in (old, new):
            classifier = model.load(directory, version)
            right = share(
                int((classifier.classes_[classifier.predict_proba(seen).argmax(1)] == labels).sum()), len(seen)
            )
            low, high = right.interval()
            told.append(f"version {version} {right.value:.1%} ({low:.1%} to {high:.1%})")
        lines.append(
            f"right {light}, of {len(seen)} images whose teachers' corrections train no version: {' and '.join(told)}"
        )
    return lines
