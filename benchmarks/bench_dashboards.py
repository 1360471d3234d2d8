"""Measure the dashboards' expressions over an hour and over 30 days of models with 50 features each.

    python benchmarks/bench_dashboards.py [MODELS [FOLDER]]

The series of the tests' recorded hour are multiplied to 200 models, or as many as are asked for, and 50 features; only
one model has the series of histogram bins, which are queried for one model alone. For this model, every series that its
dashboards query over a range has a sample a minute (Prometheus' default), as have the series of all models that Fleet
queries over a range. The others that Fleet queries have one in each of the last minutes. All series have one in the
last block, so that its index has its real size. Each expression is queried three times for each time range on a screen
of 1,366 pixels. The fastest query counts, because the machine may be busy with other work. A dashboard is the sum
of its expressions, which Grafana asks at once. With a folder, the data stay there for the next run.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bundle")]

from support import recorded  # noqa: E402
from support.servers import ask  # noqa: E402
from test_dashboards import ALL, Chosen, names  # noqa: E402

DAYS = 30
PART_SECONDS = 54 * 3600
"""Length of a block; Prometheus compacts smaller blocks to this length."""
LAST_SECONDS = 300
"""For this long, an instant query finds the last sample of a series."""
RANGES = {"1h": (3600, 15, "4m"), "30d": (DAYS * 86400, 1800, "31m")}
"""Seconds, seconds of a step, and the interval of rates."""
GOAL_SECONDS = 2.0
MODELS = [f"model-{number}" for number in range(int(sys.argv[1]) if sys.argv[1:] else 200)]
FEATURES = [f"feature-{number:02d}" for number in range(50)]
CHOSEN = Chosen(model=MODELS[0], feature=FEATURES[0])
Series = dict[str, str]


def used(dashboard: str, *, over_time: bool = False) -> set[str]:
    """Return the metrics that a dashboard queries, at all or over a range."""
    chosen = [(expr, instant) for where, expr, instant in ALL if where.startswith(dashboard)]
    return {name for expr, instant in chosen if not (over_time and instant) for name in names(Chosen().into(expr))[0]}


USED, OF_FLEET, FLEET_OVER_TIME = used(""), used("model-fleet"), used("model-fleet", over_time=True)


def templates(folder: Path) -> list[Series]:
    """Return the series of the recorded hour: those of one model with one feature, and those of no model."""
    recorded.record(folder)
    with recorded.prometheus(folder, rules=True) as program:
        time.sleep(5)  # until the rules have been evaluated
        all_series: list[Series] = ask(f'{program.url}/api/v1/series?match[]={{__name__!="",model=~"credit|"}}').json[
            "data"
        ]
    return [
        labels
        for labels in all_series
        if labels.get("feature", "age") == "age" and labels.get("version") not in {"2", "other"}
    ]


def multiplied(found: list[Series]) -> Iterator[tuple[Series, str]]:
    """Yield each series with its samples: one a ``minute``, those of the ``last`` ones, or one in the ``block``."""
    for one in found:
        name = one["__name__"]
        wide = ":" in name or name == "model_feature_reference_mean"  # queried for all features together
        for model in MODELS if "model" in one else [""]:
            first = model in {"", MODELS[0]}
            if "bin" in one and not first:
                continue
            # A rule keeps one feature of each version.
            features = FEATURES[:1] if name.endswith(":worst") else FEATURES if "feature" in one else [""]
            for feature in features:
                fine = name in USED and first and (wide or feature in {"", FEATURES[0]})
                kind = "minute" if fine or name in FLEET_OVER_TIME else "last" if name in OF_FLEET else "block"
                yield one | ({"model": model} if model else {}) | ({"feature": feature} if feature else {}), kind


def write(path: Path, series: list[tuple[Series, str]], start: int, end: int, last: int) -> int:
    """Write the samples of a block as OpenMetrics, and return their number; ``last`` is the end of all blocks."""
    rng = np.random.default_rng(start)
    minutes = range(start, end, 60)
    times = {"minute": minutes, "last": range(0), "block": range(0)}
    if end == last:
        times |= {"last": range(end - LAST_SECONDS, end, 60), "block": range(start, start + 1)}
    gauges = [[f"{value:.4g}" for value in rng.random(len(minutes))] for _ in range(5)]
    counters = [[str(value) for value in rng.integers(0, 60, len(minutes)).cumsum()] for _ in range(5)]
    samples = 0
    with path.open("w") as file:
        for number, (one, kind) in enumerate(series):
            if not times[kind]:
                continue
            name = one["__name__"]
            labels = ",".join(f'{key}="{value}"' for key, value in one.items() if key != "__name__")
            values = (counters if re.search("_(total|bucket|count|sum)$", name) else gauges)[number % 5]
            head = f"{name}{{{labels}}}"
            file.writelines(f"{head} {value} {at}\n" for value, at in zip(values, times[kind], strict=False))
            samples += len(times[kind])
        file.write("# EOF\n")
    return samples


def seconds(url: str, expr: str, instant: bool, end: int, of_range: str) -> tuple[float, bool]:
    """Return the seconds of the fastest of three queries, and whether the result was not empty."""
    length, step, interval = RANGES[of_range]
    span = {"time": end} if instant else {"start": end - length, "end": end, "step": step}
    text = CHOSEN.into(expr, step).replace(f"[{recorded.HOUR}s]", f"[{length}s]").replace("[60s]", f"[{interval}]")
    best, has_data = float("inf"), False
    for _ in range(3):
        start = time.perf_counter()
        response = ask(f"{url}/api/v1/{'query' if instant else 'query_range'}?{urlencode({'query': text, **span})}")
        best = min(best, time.perf_counter() - start)
        assert response.status == 200, response.text
        has_data = bool(response.json["data"]["result"])
    return best, has_data


def build(folder: Path) -> int:
    """Write the blocks into a folder, and return their end."""
    end = int(time.time()) // 60 * 60
    with tempfile.TemporaryDirectory() as hour:
        series = list(multiplied(templates(Path(hour))))
    samples = 0
    for start in range(end - DAYS * 86400, end, PART_SECONDS):
        text = folder / "part.txt"
        samples += write(text, series, start, min(start + PART_SECONDS, end), end)
        flag = f"--max-block-duration={PART_SECONDS // 3600}h"
        recorded.promtool("tsdb", "create-blocks-from", "openmetrics", flag, text, folder / "tsdb")
        text.unlink()
    print(f"{len(series):,} series, {samples:,} samples", flush=True)
    return end


def main() -> None:
    """Print the slowest expressions and the time of each dashboard, and fail if an expression misses the goal."""
    slowest = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2] if sys.argv[2:] else temporary)
        written = folder / "end"
        if not written.exists():
            folder.mkdir(exist_ok=True)
            written.write_text(str(build(folder)))
        end = int(written.read_text())
        with recorded.prometheus(folder, rules=False) as program:
            for name in RANGES:
                timings = sorted((*seconds(program.url, expr, now, end - 60, name), at, expr) for at, expr, now in ALL)
                for best, _, where, expr in timings[-5:]:
                    print(f"{name:4}{best:6.2f} s  {where:20} {expr[:110]}")
                for uid in sorted({where.split("/")[0].split(" ")[0] for *_, where, _ in timings}):
                    of_board = [best for best, _, where, _ in timings if where.startswith(uid)]
                    print(f"{name:4}{sum(of_board):6.2f} s  {uid:20} {len(of_board)} expressions")
                with_data, slowest = sum(timing[1] for timing in timings), max(slowest, timings[-1][0])
                print(
                    f"{name:4}{len(timings)} expressions, {with_data} found something, at most {timings[-1][0]:.2f} s"
                )
    print(f"{len(MODELS)} models: at most {slowest:.2f} s, goal {GOAL_SECONDS:g} s")
    sys.exit(slowest > GOAL_SECONDS)


if __name__ == "__main__":
    main()
