"""Find wrong labels with confident learning, from labels and the probabilities of classes.

Source: C. Northcutt, L. Jiang and I. Chuang, *Confident learning: estimating uncertainty in dataset labels*, Journal of
Artificial Intelligence Research 70, 2021. The probabilities of a row must come from a model that was not trained on the
row's label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from exporter.stats.divergence import Floats, Ints

_ROUNDING = 1e-6  # a probability that is equal to the threshold is confident


class ConfidentJoint(NamedTuple):
    """Rows by the class of their label and the class to which they confidently belong.

    Attributes
    ----------
    counts
        Number of rows with label ``i`` that confidently belong to class ``j``, shape ``(K, K)``.
    classes
        The class to which each row confidently belongs, -1 for none, shape ``(n,)``.
    """

    counts: Ints
    classes: Ints


class Suspects(NamedTuple):
    """Rows whose label may be wrong, the most suspicious first.

    Attributes
    ----------
    rows
        Their numbers, shape ``(m,)``.
    classes
        The class to which each of them confidently belongs, shape ``(m,)``.
    self_confidence
        The probability of the class of its label, shape ``(m,)``.
    margin
        That probability minus the one of the most probable other class, from -1 to 1, shape ``(m,)``.
    """

    rows: Ints
    classes: Ints
    self_confidence: Floats
    margin: Floats


def class_thresholds(labels: Ints, self_confidence: Floats, classes: int) -> Floats:
    """Return the probability from which a row confidently belongs to each class: the mean of the rows with that label.

    Parameters
    ----------
    labels
        The class of each row, from 0 to ``classes - 1``, shape ``(n,)``.
    self_confidence
        The probability of that class, shape ``(n,)``.
    classes
        The number of classes ``K``.

    Returns
    -------
    numpy.ndarray
        Shape ``(K,)``; infinite for a class that no row has as its label.
    """
    rows = np.bincount(labels, minlength=classes)
    total = np.bincount(labels, self_confidence, minlength=classes)
    thresholds: Floats = np.divide(total, rows, out=np.full(classes, np.inf), where=rows > 0)
    return thresholds


def confident_classes(probabilities: Floats, thresholds: Floats) -> Ints:
    """Return the most probable of the classes to which each row confidently belongs; -1 where it does to none.

    Parameters
    ----------
    probabilities
        Of each class, shape ``(n, K)``.
    thresholds
        Of `class_thresholds`.
    """
    confident = np.where(probabilities >= thresholds - _ROUNDING, probabilities, -1.0)
    classes: Ints = confident.argmax(axis=1)
    return np.where(confident.max(axis=1, initial=-1.0) < 0, -1, classes)


def confident_joint(labels: Ints, probabilities: Floats) -> ConfidentJoint:
    """Count rows by the class of their label and the class to which they confidently belong.

    Parameters
    ----------
    labels
        The class of each row, from 0 to ``K - 1``, shape ``(n,)``.
    probabilities
        Probability of each class by a model that did not see the row's label, shape ``(n, K)``.
    """
    count = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    classes = confident_classes(probabilities, class_thresholds(labels, own, count))
    known = classes >= 0
    cells = np.bincount(labels[known] * count + classes[known], minlength=count * count)
    return ConfidentJoint(cells.reshape(count, count), classes)


def find_suspects(labels: Ints, probabilities: Floats) -> Suspects:
    """Find the rows that confidently belong to another class than that of their label.

    Rows whose label is their most probable class are no suspects, although that class may not be a confident one.

    Parameters
    ----------
    labels, probabilities
        See `confident_joint`.

    Examples
    --------
    Five rows of two classes; the fourth has the label of the other class. The only row with that class as its label has
    a probability of 0.9, so 0.8 is too little to be confident of it:

    >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    >>> suspects = find_suspects(np.array([0, 0, 1, 0, 0]), probabilities)
    >>> suspects.rows.tolist(), suspects.classes.tolist(), suspects.margin.round(2).tolist()
    ([], [], [])

    With a probability of 1 it is found:

    >>> suspects = find_suspects(np.array([0, 0, 1, 0, 0]), probabilities.round())
    >>> suspects.rows.tolist(), suspects.classes.tolist(), suspects.margin.round(2).tolist()
    ([3], [1], [-1.0])
    """
    joint = confident_joint(labels, probabilities)
    own = probabilities[np.arange(len(labels)), labels]
    rows = np.flatnonzero((joint.classes >= 0) & (joint.classes != labels) & (probabilities.argmax(axis=1) != labels))
    others = probabilities[rows].copy()
    others[np.arange(len(rows)), labels[rows]] = -np.inf
    margin = own[rows] - others.max(axis=1, initial=-np.inf)
    order = np.lexsort((rows, own[rows], margin))
    return Suspects(rows[order], joint.classes[rows[order]], own[rows[order]], margin[order])
