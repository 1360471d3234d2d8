"""Measure counting a batch and scoring drift, in process, against plain numpy and scipy on the same data."""

from __future__ import annotations

import msgspec
import numpy as np
from scipy.special import rel_entr
from timing import median_seconds, profile, report

from exporter.features.embedding import EmbeddingLearner
from exporter.features.text import TextLearner
from exporter.monitoring.binner import Binner
from exporter.monitoring.windows import Ring
from exporter.profiles.correlation import measure_correlation
from exporter.profiles.profile import NumericFeature
from exporter.stats.divergence import Reference


def main() -> None:
    """Print the figures."""
    rng = np.random.default_rng(3)
    binner = Binner(profile(30))
    matrix = rng.normal(size=(1000, 30))
    rows = [{f"f{number}": value for number, value in enumerate(row)} for row in matrix.tolist()]
    edges = [np.array(t.edges) for t in binner.targets if isinstance(t, NumericFeature)]

    def plain() -> None:
        for column, edge in zip(matrix.T, edges, strict=True):
            np.bincount(edge.searchsorted(column, side="right"), minlength=len(edge) + 1)

    floor = 1e3 * median_seconds(plain)
    columns = dict(zip(binner.names, np.ascontiguousarray(matrix.T), strict=True))
    texts = [msgspec.json.encode(row) for row in rows]
    decoded = 1e3 * median_seconds(lambda: [msgspec.json.decode(text) for text in texts])
    together = Binner(
        msgspec.structs.replace(binner.profile, correlation=measure_correlation(columns, binner.profile.features))
    )

    def read() -> None:
        table = binner.read(texts)
        assert table
        binner.count_columns(*table, [])

    def count_objects() -> None:
        objects, _ = binner.columns_of(rows)
        binner.count_columns(objects, len(rows), [])

    for what, call, against, other in (
        ("columns", lambda: binner.count_columns(columns, 1000, []), "searchsorted + bincount alone", floor),
        ("columns, how they go together too", lambda: together.count_columns(columns, 1000, []), "the same", floor),
        ("JSON", read, "msgspec.json.decode alone", decoded),
        (
            "decoded objects",
            count_objects,
            "searchsorted + bincount alone",
            floor,
        ),
    ):
        report(f"1,000 x 30 {what}", 1e3 * median_seconds(call), "us/row", against, other)

    words = [f"word{number}" for number in rng.zipf(1.4, 50_000) % 5000]
    texts = [" ".join(words[start : start + 50]) for start in range(0, 50_000, 50)]
    learner = TextLearner()
    learner.learn(texts)
    measure = learner.input_type()
    report(
        "1,000 texts of 50 words",
        1e3 * median_seconds(lambda: measure.columns(texts, 0.0)),
        "us/row",
        "str.split alone",
        1e3 * median_seconds(lambda: [text.split() for text in texts]),
    )
    vectors = rng.normal(size=(1000, 384)).tolist()
    directions = EmbeddingLearner()
    directions.learn(vectors)
    embedding = directions.input_type()
    report(
        "1,000 embeddings of 384 numbers",
        1e3 * median_seconds(lambda: embedding.columns(vectors, 0.0)),
        "us/row",
        "numpy.array alone",
        1e3 * median_seconds(lambda: np.array(vectors)),
    )

    counts = rng.poisson(50, 30_000).astype(float)
    reference = Reference.from_counts(rng.poisson(500, 30_000).astype(float), [30] * 1000)

    def scipy_entropy() -> None:
        p = counts.reshape(1000, 30)
        rel_entr(p / p.sum(axis=1, keepdims=True), reference.probability.reshape(1000, 30)).sum(axis=1)

    floor = 1e3 * median_seconds(scipy_entropy)
    report(
        "divergence of 1,000 features x 30 bins",
        1e3 * median_seconds(lambda: reference.kl_divergence(counts)),
        "ms",
        "scipy rel_entr",
        floor,
    )
    ring = Ring(3600, 30_000)
    for minute in range(60):
        ring.add(60.0 * minute, counts)
    report(
        "the same from 60 sub-windows",
        1e3 * median_seconds(lambda: reference.kl_divergence(ring.total(3599.0))),
        "ms",
        "scipy rel_entr",
        floor,
    )


if __name__ == "__main__":
    main()
