"""The questions that slices answer: which predictions are searched, and which of them are marked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from exporter.errors import SlicesError
from exporter.monitoring.binner import Binner
from exporter.slices.dependence import ByTime, ByUser, Dependence
from exporter.slices.population import Population
from exporter.stats.divergence import Floats, Ints
from exporter.storage.bin_codes import read_paired
from exporter.storage.marked_predictions import MAX_MARKED, read_corrections, read_losses

LATE_SECONDS = 86400.0
"""How much earlier than its prediction feedback may arrive, and a prediction may have been made."""
LARGE_SHARE = 0.1
"""Share of the predictions with the largest losses, which are marked where losses are numbers."""
BLOCKS = 20
"""Blocks of time in each of the two periods of drift."""
DOMINANT = 0.5
"""Share of the corrections from which on the answer says that one user gave them."""


class Question(NamedTuple):
    """A question: what slices to search for.

    Attributes
    ----------
    population
        The predictions that are looked at.
    marked
        Which of them are corrected, wrong, or new, shape ``(n,)``.
    weights
        Of what the share is, where that is no number of predictions: the losses, shape ``(n,)``.
    dependence
        Which of them depend on each other; None if none do.
    remarks
        What a reader should know, in sentences.
    others
        Share of the predictions that are not marked which were read; 0 where they are of another time, and the marked
        ones are compared with them alone.
    users
        Number of users who gave the corrections, and the largest share of one of them; None for anything else.
    """

    population: Population
    marked: npt.NDArray[np.bool_]
    weights: Floats | None = None
    dependence: Dependence | None = None
    remarks: tuple[str, ...] = ()
    users: tuple[int, float] | None = None
    others: float = 1.0


def corrections(
    connection: sa.Connection, population: Population, model: str, version: str | None, since: float
) -> Question:
    """Ask for the slices of confident predictions that hold more than their share of the corrections."""
    population = population.select(population.confident)
    stored = read_corrections(connection, model, version, since - LATE_SECONDS)
    position = population.find(stored.ids)
    chosen = (position >= 0) | population.is_sampled  # corrected predictions are archived whole
    population, position = population.select(chosen), position[chosen]
    marked = position >= 0
    named: dict[str, int] = {}
    # Where nobody was named, each correction counts as one of a user of its own.
    users = [named.setdefault(u, len(named)) if u is not None else -1 - i for i, u in enumerate(stored.users)]
    of_marked: Ints = np.unique(np.array(users, dtype=np.intp)[position[marked]], return_inverse=True)[1]
    remarks = [f"Only the newest {MAX_MARKED:,} corrections were read."] if stored.truncated else []
    number = np.bincount(of_marked)
    largest = float(number.max(initial=0) / max(len(of_marked), 1))
    if largest > DOMINANT and len(of_marked) > 1:
        remarks.append(
            f"One user gave {100 * largest:.0f} % of the corrections: slices that only this user shows are left out."
        )
    dependence = ByUser(of_marked, population.rows) if len(of_marked) else None
    return Question(
        population, marked, None, dependence, tuple(remarks), (len(number), largest), others=population.share
    )


def errors(
    connection: sa.Connection, population: Population, model: str, version: str | None, since: float
) -> Question:
    """Ask for the slices of predictions with a label that hold more than their share of the errors."""
    stored = read_losses(connection, model, version, since - LATE_SECONDS)
    position = population.find(stored.ids)
    losses = np.full(population.rows, np.nan) if population.losses is None else population.losses.copy()
    losses[position >= 0] = np.array(stored.losses)[position[position >= 0]]
    remarks = (f"Only the newest {MAX_MARKED:,} labels were read.",) if stored.truncated else ()
    labelled = ~np.isnan(losses)
    population, losses = population.select(labelled), losses[labelled]
    if np.isin(losses, (0.0, 1.0)).all():
        return Question(population, losses > 0, remarks=remarks)
    return Question(population, large(losses), losses, remarks=remarks)


def disagreement(
    connection: sa.Connection, population: Population, model: str, version: str | None, since: float
) -> Question:
    """Ask for the slices of predictions to which a version without users gave more than its share of other answers."""
    paired = read_paired(connection, model, version, since - LATE_SECONDS, MAX_MARKED)
    if paired is None:
        nothing = np.zeros(population.rows, np.bool_)
        return Question(population.select(nothing), nothing[:0])
    position = population.find_hashes(paired.ids)
    answered = position >= 0
    remark = f"The answers of version {paired.after}, which no user saw, are compared with those of {paired.before}."
    return Question(population.select(answered), paired.differs[position[answered]], remarks=(remark,))


def estimated_loss(binner: Binner, population: Population) -> Question:
    """Ask for the slices that hold more than their share of the loss that the profile expects.

    Raises
    ------
    SlicesError
        When the profile does not know the quality of the predictions.
    """
    quality = binner.quality
    constant, effects = quality.losses() if quality else (0.0, {})
    if not effects:
        if quality and quality.known and quality.kind == "absolute_error":
            raise SlicesError(
                "of=estimated_loss finds nothing: on the labelled rows of the profile, no feature went together with "
                "larger errors"
            )
        raise SlicesError(
            "of=estimated_loss needs a profile made with --label-column, and for a classifier --confidence-column, "
            "on at least 20 labelled rows"
        )
    losses = np.full(population.rows, constant)
    for name, of_bin in effects.items():
        losses += of_bin[population.codes[binner.target_names.index(name)]]
    known = np.isfinite(losses)
    losses = np.maximum(losses[known], 0.0)
    return Question(population.select(known), large(losses), losses)


def drift(population: Population, since: float) -> Question:
    """Ask for the slices that hold a larger share of the predictions since a time than of those before it."""
    later = population.times >= since
    blocks = np.zeros(population.rows, dtype=np.intp)
    for number, period in enumerate((~later, later)):
        if period.any():
            times = population.times[period]
            step = max(float(np.ptp(times)), 1e-9) / BLOCKS
            blocks[period] = number * BLOCKS + np.minimum((times - times.min()) / step, BLOCKS - 1).astype(np.intp)
    return Question(population, later, dependence=ByTime(blocks, later) if population.rows else None, others=0.0)


def large(losses: Floats) -> npt.NDArray[np.bool_]:
    """Return which losses are among the largest tenth.

    >>> large(np.arange(20.0)).nonzero()[0].tolist(), large(np.array([0.0, 0.0, 3.0])).tolist()
    ([18, 19], [False, False, True])
    """
    if not len(losses):
        return np.zeros(0, np.bool_)
    limit = np.quantile(losses, 1 - LARGE_SHARE)
    return np.asarray(losses >= limit if limit > losses.min() else losses > limit)
