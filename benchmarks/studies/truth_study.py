"""Compare what dashboards and pages show with the truth of a simulation.

Three models get traffic for a few minutes, so that all of it is in every window when the rules have been evaluated: a
classifier whose amounts have drifted, a regression, and a model without a profile. A real Prometheus with the rules of
the project scrapes the exporter each second. Then the expressions of the main panels and the home page are asked, and
beside each figure stands what was sent. Exits with 1 if one is missing or further from the truth than its tolerance.

    python benchmarks/studies/truth_study.py [SECONDS]
"""

from __future__ import annotations

import math
import re
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
from pyarrow import parquet

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bundle")]

from support import programs  # noqa: E402
from support.servers import Served, ask, serving, write_config  # noqa: E402
from test_dashboards import EVERY, Chosen, targets  # noqa: E402

from exporter.profiles.builder import build_file  # noqa: E402
from exporter.profiles.profile import NumericFeature, load, save  # noqa: E402

SECONDS = 200
WAIT = 70
"""Seconds after the traffic until all rules have been evaluated; rates are asked for its end."""
TICK = 2.0
ROWS = 20
"""Predictions of a model in a tick."""
TRAINED = 4000
EXACT, COUNTED, BUCKETS, ESTIMATED = 0.002, 0.02, 0.1, 0.05
"""Tolerances: of sums, of rates and increases that Prometheus extrapolates, of quantiles, and of estimates."""
rng = np.random.default_rng(7)
Columns = dict[str, Any]


def loans(rows: int, drift: float = 1.0) -> Columns:
    """Return predicted classes: more confident ones are right more often."""
    confidence, prediction = rng.beta(8, 1, rows), rng.choice(["yes", "no"], rows, p=[0.7, 0.3])
    right = rng.random(rows) < 0.1 + 0.85 * confidence
    label = np.where(right, prediction, np.where(prediction == "yes", "no", "yes"))
    missing = rng.random(rows) < 0.04
    amount = [None if lost else value for lost, value in zip(missing, rng.gamma(4, 500 * drift, rows), strict=True)]
    return {"amount": amount, "prediction": prediction, "confidence": confidence, "label": label}


def prices(rows: int, drift: float = 1.0) -> Columns:  # noqa: ARG001
    """Return predicted numbers."""
    area = rng.gamma(9, 10, rows)
    return {"amount": area, "prediction": 3 * area + rng.normal(0, 9, rows), "label": 3 * area}


def bare(rows: int, drift: float = 1.0) -> Columns:  # noqa: ARG001
    """Return predictions without inputs and confidences."""
    return {"prediction": np.full(rows, "a"), "label": rng.choice(["a", "b"], rows, p=[0.9, 0.1])}


class Model(NamedTuple):
    """What a model does: its rows, its share of failed requests, and the mean of its latency."""

    rows: Any
    failing: float
    latency: float


MODELS = {"loans": Model(loans, 0.03, 0.09), "prices": Model(prices, 0.01, 0.4), "bare": Model(bare, 0.05, 0.05)}


def configured(folder: Path) -> None:
    """Write the profiles and the configuration."""
    for name, names in (("loans", {"confidence_column": "confidence"}), ("prices", {})):
        parquet.write_table(pa.table(MODELS[name].rows(TRAINED)), folder / f"{name}.parquet")
        columns = {"prediction_column": "prediction", "label_column": "label", **names}
        save(build_file(folder / f"{name}.parquet", **columns), folder / f"{name}.json")
    profiles = {"loans": {"profile": "loans.json"}, "prices": {"profile": "prices.json"}, "bare": {}}
    write_config(folder, {"models": [{"name": name, **profile} for name, profile in profiles.items()]})
    shutil.copytree(ROOT / "prometheus" / "rules", folder / "rules")


def send(server: Served, name: str, turn: int, sent: dict[str, list[Any]]) -> None:
    """Send a tick's predictions, labels and feedback of a model, and note them."""
    model, columns = MODELS[name], MODELS[name].rows(ROWS, drift=1.6)
    columns |= {"id": [f"{name}-{turn}-{row}" for row in range(ROWS)], "at": [time.time()] * ROWS}
    columns |= {"duration": rng.gamma(3, model.latency / 3, ROWS), "failed": rng.random(ROWS) < model.failing}
    columns |= {
        "labelled": rng.random(ROWS) < 0.6,
        "verdict": rng.choice(["", "accepted", "corrected"], ROWS, p=[0.9, 0.07, 0.03]),
    }
    events, labels, feedback = [], [], []
    for row in pa.table(columns).to_pylist():
        code = 500 if row["failed"] else 200
        event = {"model": name, "version": "1", "duration_seconds": row["duration"], "code": code}
        if not row["failed"]:
            event |= {key: row[key] for key in ("id", "prediction", "confidence") if key in row}
            event |= {"inputs": {"amount": row["amount"]}} if "amount" in row else {}
            labels += [{"prediction_id": row["id"], "label": row["label"]}] * row["labelled"]
            given = {"label": "other" if name != "prices" else 1.0} if row["verdict"] == "corrected" else {}
            feedback += [{"prediction_id": row["id"], "verdict": row["verdict"], **given}] * bool(row["verdict"])
        events.append(event)
        for key in ("at", "duration", "failed", "labelled", "verdict", "prediction", "label", "confidence", "amount"):
            sent[key].append(row.get(key))
    for path, body in (("predictions", events), ("labels", labels), ("feedback", feedback)):
        assert not body or server.post(f"/v1/{path}", body).status in {201, 202}


def divergence(folder: Path, name: str, values: list[Any]) -> float:
    """Return KL(live ‖ training) in nats, by the formula of the documentation."""
    target = load(folder / f"{name}.json").features["amount"]
    assert isinstance(target, NumericFeature)
    known = np.array([value for value in values if value is not None])
    live = np.zeros(len(target.counts))
    np.add.at(live, np.searchsorted(target.edges, known, "right"), 1)
    live[-2] = len(values) - len(known)
    bins, trained = len(live), np.array(target.counts)
    q = (trained + 0.5) / (trained.sum() + bins / 2)
    p = (live + bins / 2 * q) / (len(values) + bins / 2)
    return float((p * np.log(p / q)).sum())


class Figure(NamedTuple):
    """A figure: where it stands, what it is of, the truth, how far it may be from it, and whether it is a rate."""

    where: str
    what: str
    truth: float
    tolerance: float
    is_rate: bool = False


def truths(folder: Path, name: str, sent: dict[str, list[Any]], now: float) -> list[Figure]:
    """Return the figures of a model: of a panel, ``uid/id/reference``, or of a column of the home page."""
    duration, failed = np.array(sent["duration"]), np.array(sent["failed"])
    minute, total, served = np.array(sent["at"]) > now - 60, len(failed), ~failed
    verdict = np.array(sent["verdict"])[served]
    accepted, corrected = (float((verdict == one).sum()) for one in ("accepted", "corrected"))
    sure = served if name != "loans" else served & (np.array(sent["confidence"], dtype=float) >= 0.8)
    wrong = float((np.array(sent["verdict"])[sure] == "corrected").sum())
    found = [
        Figure("model-overview/6/A", "requests a second", minute.sum() / 60, 0.1, True),
        Figure("model-overview/7/A", "share of errors, 1 min", failed[minute].mean(), 0.35, True),
        Figure("model-overview/20/BC", "share of successes", served.mean(), COUNTED),
        Figure("model-system/2/A500", "errors a second", failed[minute].sum() / 60, 0.35, True),
        *(Figure(f"model-system/5/{ref}", f"latency p{q}", float(np.quantile(duration, q / 100)), BUCKETS)
          for ref, q in zip("ABC", (50, 95, 99), strict=True)),
        Figure("model-overview/12/A", "predictions an hour", total, COUNTED),
        Figure("model-overview/20/LM", "share corrected", wrong / sure.sum(), 0.1),
        Figure("model-business/6/A", "accepted", accepted, COUNTED),
        Figure("model-business/6/B", "corrected", corrected, COUNTED),
        Figure("model-business/1/A", "funnel: all", total, COUNTED),
        Figure("model-business/1/B", "funnel: confident", float(sure.sum()), COUNTED),
        Figure("model-business/1/C", "funnel: corrected", wrong, COUNTED),
        Figure("model-business/1/D", "funnel: accepted", accepted, COUNTED),
        Figure("home/Corrected, 1h", "share corrected", wrong / sure.sum(), COUNTED),
        Figure("home/p95, 5m", "latency p95", float(np.quantile(duration, 0.95)), BUCKETS),
    ]  # fmt: skip
    labelled = served & np.array(sent["labelled"])
    labels, predictions = np.array(sent["label"]), np.array(sent["prediction"])
    found += [
        Figure("model-quality/4/A", "labels", float(labelled.sum()), EXACT),
        Figure("model-quality/4/B", "without a label", float((served & ~labelled).sum()), COUNTED),
    ]
    right = labels == predictions if name != "prices" else np.abs(labels - predictions)
    refs, panel = ("KL", "QR") if name == "prices" else ("AB", "OP")
    found.append(Figure(f"model-quality/2/{refs[0]}", "measured quality", right[labelled].mean(), EXACT))
    found.append(Figure(f"model-overview/20/{panel}", "measured quality", right[labelled].mean(), EXACT))
    found.append(Figure("home/Error" if name == "prices" else "home/Accuracy", "quality", right[labelled].mean(), 0.01))
    if name == "bare":
        return found
    if name == "prices":
        bias = float((predictions - labels)[labelled].mean())
        found += [Figure(where, "bias", bias, EXACT) for where in ("model-quality/6/B", "model-overview/20/J")]
    amounts = [value for value, lost in zip(sent["amount"], failed, strict=True) if not lost]
    known = np.array([value for value in amounts if value is not None])
    score = divergence(folder, name, amounts)
    found += [
        Figure(f"model-quality/2/{refs[1]}", "estimated quality", right[served].mean(), ESTIMATED),
        Figure("model-data/6/A", "mean", known.mean(), EXACT),
        Figure("model-data/8/A", "share missing", 1 - len(known) / len(amounts), EXACT),
        Figure("model-data/5/A", "divergence", score, EXACT),
        Figure("model-data/5/B", "divergence of all replicas", score, 0.1),
    ]
    if name == "loans":
        share = sure.sum() / total
        found += [Figure("home/KL", "divergence", score, 0.01), Figure("home/Confident, 1h", "confident", share, 0.01)]
        found += [Figure("model-overview/20/HI", "confident", share, COUNTED)]
    return found


def shown(prometheus: str, page: str, model: str, where: str, at: float) -> float:
    """Return a figure as a panel or the home page shows it; NaN if it is not there."""
    if where.startswith("home/"):
        row = re.search(rf'<th scope="row"[^>]*><span class="clamp" title="{model}".*?</tr>', page, re.S)
        cell = re.search(rf'data-label="{where[5:]}"[^>]*>(?:<a[^>]*>)?([\d.,–]+)(%?)', row[0] if row else "")
        value = float(cell[1].rpartition("–")[2].replace(",", "")) if cell and cell[1] != "–" else math.nan
        return value / 100 if cell and cell[2] else value
    uid, number, refs = where.split("/")
    chosen, code = Chosen(model=model, version="1", feature="amount", window="1h"), refs.lstrip("ABCDEFGHIJKLMNOPQRS")
    (panel,) = (one for one in EVERY[uid] if one["id"] == int(number))
    for target in targets(panel):
        if target["refId"] in refs:
            query = urlencode({"query": chosen.into(target["expr"]), "time": at})
            for series in ask(f"{prometheus}/api/v1/query?{query}").json["data"]["result"]:
                if not code or series["metric"]["code"] == code:
                    return float(series["value"][1])
    return math.nan


def main() -> None:
    """Print the figures."""
    seconds = float(sys.argv[1]) if sys.argv[1:] else SECONDS
    sent: dict[str, dict[str, list[Any]]] = {name: defaultdict(list) for name in MODELS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configured(folder)
        with serving(folder) as server, programs.prometheus(folder, programs.scraping(server)) as prometheus:
            time.sleep(5)  # the series of the configured models are at 0
            began = time.monotonic()
            for turn in range(int(seconds / TICK)):
                for model in MODELS:
                    send(server, model, turn, sent[model])
                time.sleep(max(began + (turn + 1) * TICK - time.monotonic(), 0))
            now = time.time()
            time.sleep(WAIT)
            page, missed, count = server.get("/").text, 0, 0
            for model in MODELS:
                for figure in truths(folder, model, sent[model], now):
                    value = shown(prometheus.url, page, model, figure.where, now if figure.is_rate else time.time())
                    off = value / figure.truth - 1 if figure.truth else value
                    is_right, count = abs(off) <= figure.tolerance, count + 1
                    missed += not is_right
                    mark = "" if is_right else f"  more than {figure.tolerance:.1%}"
                    print(
                        f"{model:7}{figure.where:24}{figure.what:28}{value:12.5g}{figure.truth:12.5g}{off:+8.1%}{mark}"
                    )
    print(f"{count} figures, {missed} of them further from the truth than their tolerance")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
