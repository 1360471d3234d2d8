"""Measure how cost grows with features, bins, windows, models and versions; ``--plot FILE`` writes a plot.

Figures are processor time of one thread, the median of several calls. The exponent is the slope in the plot from the
middle to the largest size: 1 is linear, less is better. The plot needs matplotlib, from the dependency group
``study``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

sys.path.append(str(Path(__file__).parents[1]))

from timing import median_seconds

from exporter.config import ModelConfig, StoreConfig
from exporter.metrics.exposition import Exposition
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.monitoring.registry import MonitorRegistry
from exporter.profiles.bins import numeric_feature
from exporter.profiles.correlation import measure_correlation
from exporter.profiles.profile import Profile
from exporter.storage import Store
from exporter.wire.batch import Batch
from exporter.wire.events import Prediction

BATCH = 100
Series = dict[str, list[tuple[int, float]]]
"""Milliseconds of each measurement, for each size."""


def binner(features: int, bins: int = 20) -> Binner:
    """Return a profile of this number of numeric features, with their correlations."""
    rng = np.random.default_rng(1)
    columns = {f"f{number}": rng.normal(size=2000) for number in range(features)}
    made = {name: numeric_feature(column, bins) for name, column in columns.items()}
    together = measure_correlation(columns, made)
    return Binner(Profile("growth", 2000, dict.fromkeys(made, "numeric"), dict(made), correlation=together))


def monitor(bins_of: Binner, windows: Sequence[str] = ("5m", "1h"), version: str = "3") -> ModelMonitor:
    """Return the monitor of a version that has filled the 60 sub-windows of its longest window."""
    result = ModelMonitor(ModelConfig(name="m", windows=tuple(windows)), version, bins_of)
    for tick in range(60):
        observe(result, bins_of, tick * list(result.windows.values())[-1] / 60)
    return result


def observe(found: ModelMonitor, place: Binner, now: float) -> None:
    """Return a batch of events."""
    texts = [TEXTS[len(place.names)][number % 10] for number in range(BATCH)]
    events = [Prediction(model="m", confidence=0.9, inputs=msgspec.Raw(text)) for text in texts]
    found.observe(found.prepare(Batch.of(events, time.time())), now)


TEXTS = {
    count: [
        msgspec.json.encode({f"f{n}": value for n, value in enumerate(row)})
        for row in np.random.default_rng(2).normal(size=(10, count)).tolist()
    ]
    for count in (10, 20, 30, 100, 200, 500, 1000)
}


def milliseconds(call: Callable[..., object], *arguments: object) -> float:
    """Return the median milliseconds of a call."""
    return 1e3 * median_seconds(lambda: call(*arguments), 15)


def both(found: Series, size: int, one: ModelMonitor, place: Binner, now: float) -> None:
    """Measure counting a batch from JSON, and reading all gauges, at one size."""
    found.setdefault(f"count {BATCH} events", []).append((size, milliseconds(observe, one, place, now)))
    found.setdefault("read the gauges", []).append((size, milliseconds(one.read, now)))


def features(found: Series) -> None:
    """Measure by number of features."""
    for count in TEXTS:
        place = binner(count)
        both(found, count, monitor(place), place, 3599.0)


def bins(found: Series) -> None:
    """Measure by number of bins of 30 features."""
    for count in (10, 20, 50, 100, 200):
        place = binner(30, count)
        both(found, count, monitor(place), place, 3599.0)


def windows(found: Series) -> None:
    """Measure by number of windows, with 100 features."""
    place = binner(100)
    for count in (1, 2, 4, 8):
        one = monitor(place, [f"{2**n * 5}m" for n in range(count)])
        both(found, count, one, place, list(one.windows.values())[-1] - 1)


def models(found: Series) -> None:
    """Measure a scrape by number of versions, each of its own model, with 20 features."""
    place = binner(20)
    with TemporaryDirectory() as folder:
        store = Store(StoreConfig(url=f"sqlite:///{Path(folder) / 'growth.db'}"), lambda _: None)
        for count in (1, 3, 10, 30):
            names = [f"m{number}" for number in range(count)]
            every = MonitorRegistry({n: ModelConfig(name=n) for n in names}, dict.fromkeys(names, place))
            for name in names:
                observe(every.get(name, "3", 0.0), place, time.monotonic())
            exposition = Exposition(CollectorRegistry(auto_describe=False), lambda every=every: every, store)
            found.setdefault("a scrape", []).append((count, milliseconds(exposition.render)))
        store.close()


def exponent(points: Sequence[tuple[int, float]]) -> float:
    """Return the slope of a curve from its middle on, in a log-log plot."""
    (size, spent), (larger, more) = points[len(points) // 2 - 1], points[-1]
    return math.log(more / spent) / math.log(larger / size)


def draw(every: dict[str, Series], path: Path) -> None:
    """Draw one panel for each quantity that grows."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 9, "legend.fontsize": 7})
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(every), figsize=(11, 2.8))
    for axes, (title, found) in zip(panels, every.items(), strict=True):
        for colour, (what, points) in zip(("#0072b2", "#d55e00"), found.items(), strict=False):
            sizes, spent = zip(*points, strict=True)
            axes.plot(sizes, spent, marker=".", color=colour, label=what)
        (size, least) = min((points[0] for points in found.values()), key=lambda point: point[1])
        ends = np.array([size, sizes[-1]])
        axes.plot(ends, least * ends / size, color="black", linewidth=0.8, linestyle=":", label="linear")
        axes.set(xscale="log", yscale="log", xlabel=title, ylabel="ms" if axes is panels[0] else "")
        axes.set_xticks(sizes, [str(one) for one in sizes])
        axes.minorticks_off()
        axes.legend()
    figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="an SVG")
    options = parser.parse_args()
    every: dict[str, Series] = {}
    for title, measure in (
        ("features", features),
        ("bins of a feature", bins),
        ("windows", windows),
        ("models", models),
    ):
        measure(every.setdefault(title, {}))
        for what, points in every[title].items():
            shown = "  ".join(f"{size:,}: {spent:.3g}" for size, spent in points)
            print(f"{title:18} {what:18} ms by size  {shown:60} exponent {exponent(points):.2f}", flush=True)
    if options.plot:
        draw(every, options.plot)


if __name__ == "__main__":
    main()
