"""What users' words and reviewers' decisions say of the confident predictions that samples were drawn from."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from exporter.store.schema import draws, feedback


class Reviewed(msgspec.Struct):
    """Of one model version, see `exporter.accuracy.reviewed_accuracy`."""

    population: int
    known: int = 0
    known_right: int = 0
    decided: int = 0
    right: int = 0


def reviewed(connection: sa.Connection) -> dict[tuple[str, str], Reviewed]:
    """By model and version, the last drawn first, of those with a decided sample."""
    # A word may come just before its prediction, and a prediction may be dated back.
    after = (feedback.c.created >= draws.c.since) | (feedback.c.predicted >= draws.c.since)
    words = after & (feedback.c.predicted <= draws.c.time)
    among = (
        (feedback.c.model == draws.c.model)
        & (feedback.c.version == draws.c.version)
        & feedback.c.joined
        & feedback.c.confident
        & ((feedback.c.verdict == "sampled") | words)
    )
    keys = (draws.c.model, draws.c.version, feedback.c.verdict)
    counts = (
        sa.select(*keys, feedback.c.status, sa.func.count().label("number"))
        .select_from(draws)
        .join(feedback, among)
        .group_by(*keys, feedback.c.status)
    )
    # A reviewer's own label turns a verdict round: another one in a sample, the prediction itself in a correction.
    same = feedback.c.reviewed_label == feedback.c.prediction
    turned = (
        sa.select(*keys, sa.func.count().label("number"))
        .select_from(draws)
        .join(feedback, among)
        .where(feedback.c.reviewed_label.is_not(None), feedback.c.status == "accepted")
        .where(((feedback.c.verdict == "sampled") & ~same) | ((feedback.c.verdict == "corrected") & same))
        .group_by(*keys)
    )
    drawn = connection.execute(sa.select(draws).order_by(draws.c.time.desc(), draws.c.version)).all()
    found = {(row.model, row.version): Reviewed(row.confident) for row in drawn}
    for row in connection.execute(counts) if found else ():
        one = found[row.model, row.version]
        if row.verdict != "sampled":
            one.known += row.number
            if row.verdict == "accepted" or row.status == "rejected":
                one.known_right += row.number
        elif row.status == "accepted":
            one.decided += row.number
            one.right += row.number
    for row in connection.execute(turned) if found else ():
        one = found[row.model, row.version]
        if row.verdict == "sampled":
            one.right -= row.number
        else:
            one.known_right += row.number
    return {key: one for key, one in found.items() if one.decided}
