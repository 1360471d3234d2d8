"""The digits, a classifier trained on one part of them, and the files of the demo."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from exporter.errors import StackError
from exporter.profiles import builder as training
from exporter.profiles import profile as profile_file

Images = npt.NDArray[np.float64]
"""Grey values from 0 (black) to 16 (white), a white digit on black; shape ``(n, 8, 8)``."""

NAME = "digits"
VERSION = "1"
TEACHERS = tuple(f"teacher-{number}" for number in range(1, 6))
"""Each image that users send was written by a pupil of one of them."""
HELD_BACK = frozenset(TEACHERS[3:])
"""Teachers whose corrections are in no training set: new versions are evaluated on their pupils' images."""
DEVICES = ("scanner", "scanner", "phone")
"""What took the images, in turn: the segments of the demo."""
EVENT = "sheets_graded"
"""The business event of the demo: a sheet whose digits were all read."""
MODEL_FILE = "model.joblib"
HELD_OUT_FILE = "held-out.npz"
CONFIG_FILE = "exporter.yml"
SECRET_FILE = "retrain-secret"  # noqa: S105 (a name)
FILES = (MODEL_FILE, HELD_OUT_FILE, "training.npz", "digits.json", CONFIG_FILE, SECRET_FILE)

_CONFIG = """\
# The exporter's configuration for the demo; paths are relative to this file.
store: {url: "sqlite:///model-exporter.db"}
models:
  - name: digits
    profile: digits.json
    confidence_threshold: 0.8
    windows: [5m, 1h]
    features: {image: {type: image}}
    segment_by: device
    events: [sheets_graded]
# The demo's trainer runs in its model service.
retrain: {url: "http://127.0.0.1:8000/retrain", secret_file: retrain-secret, accuracy: false, corrections: 50,
  interval: 1h}
"""


_PROFILE = re.compile(r"^( +profile: digits\.json)(?:\n +profiles: .*)?$", re.MULTILINE)
_LINKS = re.compile(r"^(?:links|prometheus_url): .*\n", re.MULTILINE)
_TRAINER = re.compile(r'^(retrain: \{url: )"[^"]*"', re.MULTILINE)
_LATER = re.compile(r"model-([1-9]\d{0,5})\.joblib")


class Files(NamedTuple):
    """Names of the files with a version's classifier, its training data and their profile."""

    model: str
    training: str
    profile: str


class Classifier(Protocol):
    """The part of scikit-learn's classifiers that the demo uses."""

    classes_: npt.NDArray[np.int64]

    def predict_proba(self, rows: Images, /) -> Images:
        """Return probabilities, shape ``(n, classes)``, for rows of shape ``(n, features)``."""


def prepare(directory: Path) -> None:
    """Train the first version, and write everything that the demo needs into ``directory``.

    Raises
    ------
    StackError
        When scikit-learn is not installed, or the directory cannot be written.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise StackError(f"the demo needs scikit-learn ({error}): install it with pip install scikit-learn") from None
    digits = load_digits()
    # Few images are replayed for hours, so that a large window counts each many times. Whatever the held-out part
    # differs by chance must stay below the noise floor of such a window; with this seed it does.
    images, held_out_images, labels, held_out_labels = train_test_split(
        digits.images, digits.target, test_size=0.4, random_state=8, stratify=digits.target
    )
    train(directory, VERSION, images, labels)
    try:
        np.savez_compressed(directory / HELD_OUT_FILE, image=held_out_images, label=held_out_labels)
        (directory / CONFIG_FILE).write_text(_CONFIG, encoding="utf-8")
        secret = directory / SECRET_FILE
        secret.touch(mode=0o600)
        secret.write_text(f"{secrets.token_hex(32)}\n", encoding="utf-8")
        forget(directory)  # later versions may be based on another first version
    except OSError as error:
        raise _cannot_write(directory, error) from None


def train(
    directory: Path,
    version: str,
    images: Images,
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64] | None = None,
) -> None:
    """Train a version, and write its classifier, its training data and their profile.

    Raises
    ------
    StackError
        When the directory cannot be written.
    """
    import joblib
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    # The confidence of logistic regression is well calibrated: under 0.3% of its confident predictions are wrong.
    classifier = LogisticRegression(max_iter=5000).fit(rows(images), labels, sample_weight=weights)
    # Cross-validated, so that predictions and confidences are like those for images that the model has not seen.
    probabilities = cross_val_predict(
        LogisticRegression(max_iter=5000), rows(images), labels, cv=5, method="predict_proba"
    )
    files = files_of(version)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        joblib.dump(classifier, directory / files.model)
        np.savez_compressed(
            directory / files.training,
            image=images,
            device=np.array([device(index) for index in range(len(images))]),
            prediction=classifier.classes_[probabilities.argmax(axis=1)].astype(str),
            confidence=probabilities.max(axis=1),
            label=labels.astype(str),
            at=1.7e9 + 60.0 * np.arange(len(images)),  # the images are in random order, and so are live ones
        )
        trained = training.build_file(
            directory / files.training,
            name=NAME,
            prediction_column="prediction",
            confidence_column="confidence",
            label_column="label",
            time_column="at",
        )
        profile_file.save(trained, directory / files.profile)
    except OSError as error:
        raise _cannot_write(directory, error) from None


def _cannot_write(directory: Path, error: OSError) -> StackError:
    return StackError(f"{directory}: cannot be written: {error.strerror}; choose another --directory")


def files_of(version: str) -> Files:
    """Return the names of a version's files.

    >>> files_of("1").profile, files_of("2").profile
    ('digits.json', 'digits-2.json')
    """
    suffix = "" if version == VERSION else f"-{version}"
    return Files(f"model{suffix}.joblib", f"training{suffix}.npz", f"digits{suffix}.json")


def versions(directory: Path) -> list[str]:
    """Return the versions that were trained, the oldest first."""
    later = [match[1] for path in directory.glob("model-*.joblib") if (match := _LATER.fullmatch(path.name))]
    return [VERSION, *sorted(later, key=int)]


def configure(directory: Path) -> None:
    """Write the profiles of the later versions into the configuration, and keep everything else in it.

    Raises
    ------
    StackError
        When the configuration is not the demo's, or cannot be written.
    """
    path = directory / CONFIG_FILE
    profiles = ", ".join(f'"{version}": {files_of(version).profile}' for version in versions(directory)[1:])
    try:
        before = path.read_text(encoding="utf-8")
        line = f"\n    profiles: {{{profiles}}}" if profiles else ""
        text, replaced = _PROFILE.subn(lambda match: match[1] + line, before)
        if replaced != 1:
            raise StackError(
                f"{path}: expected one line '    profile: digits.json', after which the new profile is written"
            )
        if text != before:
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise _cannot_write(directory, error) from None


def link(directory: Path, prometheus: str, links: dict[str, str | None], service: str) -> None:
    """Write the addresses of the other programs into the configuration, and keep everything else in it.

    Parameters
    ----------
    directory
        The folder of the demo.
    prometheus
        URL of Prometheus.
    links
        What browsers open, with the keys of ``links`` in the configuration.
    service
        URL of the model service, in which the trainer runs.

    Raises
    ------
    OSError
        When the configuration cannot be written.
    """
    path = directory / CONFIG_FILE
    before = path.read_text(encoding="utf-8")
    text = f"{_LINKS.sub('', before)}prometheus_url: {prometheus}\nlinks: {json.dumps(links)}\n"
    text = _TRAINER.sub(rf'\1"{service}/retrain"', text)
    if text != before:
        path.write_text(text, encoding="utf-8")


def forget(directory: Path) -> None:
    """Delete all versions but the first.

    Raises
    ------
    OSError
        When something cannot be deleted.
    """
    later = versions(directory)[1:]
    for version in later:
        for name in files_of(version):
            (directory / name).unlink(missing_ok=True)
    if later:
        configure(directory)


def prepared(directory: Path) -> bool:
    """Return whether everything that `prepare` writes exists, with what earlier versions of the demo lack."""
    if not all((directory / name).is_file() for name in FILES):
        return False
    with np.load(directory / files_of(VERSION).training) as data:
        return "device" in data and bool(profile_file.load(directory / files_of(VERSION).profile).quality)


def ensure(directory: Path, report: Callable[[str], None]) -> None:
    """Prepare a folder unless it is prepared; keep the configuration of an earlier version of the demo beside it.

    Raises
    ------
    StackError
        See `prepare`.
    """
    if prepared(directory):
        return
    report(f"Training the demo's model into {directory} ...")
    config = directory / CONFIG_FILE
    if config.is_file():
        kept = config.with_suffix(".yml.old")
        try:
            config.replace(kept)
        except OSError as error:
            raise _cannot_write(directory, error) from None
        report(f"The files there are of an earlier version of the demo; its {CONFIG_FILE} is {kept.name} now.")
    prepare(directory)


def load(directory: Path, version: str = VERSION) -> Classifier:
    """Return a trained classifier."""
    import joblib

    classifier: Any = joblib.load(directory / files_of(version).model)
    return classifier  # type: ignore[no-any-return]


def held_out(directory: Path) -> tuple[Images, npt.NDArray[np.int64]]:
    """Return images that the first version was not trained on, and their true digits."""
    with np.load(directory / HELD_OUT_FILE) as data:
        return data["image"], data["label"]


def rows(images: Images) -> Images:
    """Return images as rows of 64 features from 0 to 1."""
    return images.reshape(len(images), -1) / 16.0


def teacher(index: int) -> str:
    """Return the teacher whose pupil wrote a held-out image."""
    return TEACHERS[index % len(TEACHERS)]


def device(index: int) -> str:
    """Return what took an image."""
    return DEVICES[index % len(DEVICES)]
