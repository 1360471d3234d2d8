"""The digits, a classifier trained on one part of them, and the files that the demo runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from exporter import profile, training
from exporter.errors import StackError

Images = npt.NDArray[np.float64]
"""Grey values from 0 (black) to 16 (white), a white digit on black; shape ``(n, 8, 8)``."""

NAME = "digits"
VERSION = "1"
MODEL_FILE = "model.joblib"
HELD_OUT_FILE = "held-out.npz"
CONFIG_FILE = "exporter.yml"
FILES = (MODEL_FILE, HELD_OUT_FILE, "training.npz", "digits.json", CONFIG_FILE)

_CONFIG = """\
# The exporter's configuration for the demo; paths are relative to this file.
store: {url: "sqlite:///model-exporter.db"}
models:
  - name: digits
    profile: digits.json
    confidence_threshold: 0.8
    windows: [5m, 1h]
    features: {image: {type: image}}
"""


class Classifier(Protocol):
    """What the demo needs of scikit-learn's classifiers."""

    classes_: npt.NDArray[np.int64]

    def predict_proba(self, rows: Images, /) -> Images:
        """Probabilities, shape ``(n, classes)``, of rows of shape ``(n, features)``."""


def prepare(directory: Path) -> None:
    """Train the classifier and write everything the demo needs into ``directory``.

    Raises
    ------
    StackError
        When scikit-learn is not installed, or the directory cannot be written.
    """
    try:
        import joblib
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_predict, train_test_split
    except ImportError as error:
        raise StackError(
            f"the demo needs scikit-learn ({error}): install it with pip install 'model-exporter[demo]'"
        ) from None
    digits = load_digits()
    # Few images are replayed for hours: what little this half differs by chance must stay below the noise
    # floor of a large window, which takes every value for a new one. The seed is one of those where it does.
    images, held_images, labels, held_labels = train_test_split(
        digits.images, digits.target, test_size=0.4, random_state=8, stratify=digits.target
    )
    # Logistic regression knows when it does not know: under 0.3 % of its confident answers are wrong.
    classifier = LogisticRegression(max_iter=5000).fit(rows(images), labels)
    # Each training image judged by a model that has not seen it: prediction and confidence as they will be live.
    honest = cross_val_predict(LogisticRegression(max_iter=5000), rows(images), labels, cv=5, method="predict_proba")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        joblib.dump(classifier, directory / MODEL_FILE)
        np.savez_compressed(directory / HELD_OUT_FILE, image=held_images, label=held_labels)
        np.savez_compressed(
            directory / "training.npz",
            image=images,
            prediction=classifier.classes_[honest.argmax(axis=1)].astype(str),
            confidence=honest.max(axis=1),
            label=labels.astype(str),
        )
        trained = training.build_file(
            directory / "training.npz",
            name=NAME,
            prediction_column="prediction",
            confidence_column="confidence",
            ignore=("label",),
        )
        profile.save(trained, directory / "digits.json")
        (directory / CONFIG_FILE).write_text(_CONFIG, encoding="utf-8")
    except OSError as error:
        raise StackError(f"{directory}: cannot be written: {error.strerror}; choose another --directory") from None


def prepared(directory: Path) -> bool:
    """Whether everything that `prepare` writes is there."""
    return all((directory / name).is_file() for name in FILES)


def load(directory: Path) -> Classifier:
    """The trained classifier."""
    import joblib

    classifier: Any = joblib.load(directory / MODEL_FILE)
    return classifier  # type: ignore[no-any-return]


def held_out(directory: Path) -> tuple[Images, npt.NDArray[np.int64]]:
    """Images and true digits that the classifier has never seen."""
    with np.load(directory / HELD_OUT_FILE) as data:
        return data["image"], data["label"]


def rows(images: Images) -> Images:
    """Images as rows of 64 features from 0 to 1."""
    return images.reshape(len(images), -1) / 16.0
