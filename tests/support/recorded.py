"""A recorded hour: what an exporter exposes while a model goes wrong, in a real Prometheus, with all rules applied.

The exporter is real, and so is its traffic; only the clock is not: its expositions are a few milliseconds apart and
are written down as 15 seconds apart. The same again, shorter, a day and a week before. Recording rules are computed
over that with promtool, one layer after the other, as each reads what the one before recorded.
"""

from __future__ import annotations

import re
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from exporter.comparison.measures import Comparison, Counts, Feature, Period, Side, at_every_look
from exporter.config import ModelConfig
from exporter.metrics.comparisons import SLICE, comparison_lines
from exporter.metrics.exposition import render_families
from exporter.metrics.models import BATCH, Batch
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.slices.explain import ExplainedSlice
from support import programs
from support.programs import Program, quickened_rules
from support.promtool import RULES, groups_of, promtool
from support.reviewers import token, with_names
from support.servers import CONFIG, Served, ask, free_port, write_config

STEP = 15
HOUR = 3600
SCRAPES = HOUR // STEP
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
INSTANCE = 'instance="127.0.0.1:9877",job="model-exporter"'
OF_A_SCRAPE = """\
# TYPE up gauge
up 1
# TYPE scrape_duration_seconds gauge
scrape_duration_seconds 0.01
# TYPE scrape_samples_scraped gauge
scrape_samples_scraped 900
"""
"""What Prometheus adds to each scrape."""
ODD = 'bare "model"\\ 模型'
"""The model without a profile."""
ODD_VERSION = 'a "b" \\ 版'
EVALUATIONS = 60
"""Seconds from one evaluation of the rules to the next."""
SEEN = "min_over_time((time() * group by (model, version) (model_info))[1h:15s])"
REMEMBERED = {"model_version:deployed:timestamp_seconds": f"{SEEN} + (time() - {SEEN}) % {EVALUATIONS}"}
"""A rule that reads itself, as promtool can compute it, which does not read what it writes: when it first found one."""


def traffic(server: Served, turn: int, rng: np.random.Generator) -> None:
    """Of a quarter of a minute: from the middle on, ages are wrong, requests fail and users correct much."""
    wrong = turn > SCRAPES // 2
    events: list[dict[str, Any]] = []
    for number in range(10):
        age = float(rng.integers(18, 90)) if not wrong else float(rng.integers(80, 120))
        inputs = {
            "age": age if rng.random() > 0.02 else None,
            "income": float(rng.lognormal(10, 1)),
            "country": str(rng.choice(["NL", "DE", "FR"], p=[0.6, 0.3, 0.1])),
            "photo": rng.integers(0, 17, (8, 8)).tolist(),
        }
        events.append(
            {
                "id": f"{turn}-{number}",
                "model": "credit",
                "version": "4" if number % 3 == 0 and turn >= SCRAPES // 4 else "3",
                "inputs": inputs,
                "prediction": str(rng.choice(["yes", "no"])),
                "confidence": 0.9 if number < 8 else 0.4,
                "duration_seconds": float(rng.gamma(2, 0.03)) * (10 if wrong else 1),
                "code": 500 if wrong and number == 9 else 200,
            }
        )
        events.append({"id": f"{turn}-{number}", "model": "credit", "version": "5", "prediction": "no", "shadow": True})
    odd = {"id": f"odd-{turn}", "model": ODD, "prediction": float(turn)}
    events.append({**odd, "version": ODD_VERSION, "confidence": 0.9, "duration_seconds": 0.1})
    events.append({**odd, "version": "2", "prediction": turn + 1.5, "shadow": True})
    if turn == 0:
        events.append({"model": "credit", "version": "2", "inputs": {"age": 40.0}})  # that vanished soon
    if turn == SCRAPES // 2:  # a misspelt feature and member, and a model that is not configured
        events.append({"model": "credit", "version": "3", "inputs": {"aeg": 40.0}, "confidense": 0.9})
        events.append({"model": "nobody", "version": "1"})
    assert server.post("/v1/predictions", events).status == 202
    labels: list[dict[str, Any]] = [{"prediction_id": f"{turn}-{number}", "label": "yes"} for number in range(10)]
    labels.append({"prediction_id": f"odd-{turn}", "label": turn - 1.5})
    if turn == 0:
        labels.append({"prediction_id": "never made", "label": "yes"})
    assert server.post("/v1/labels", labels).status == 201
    feedback: list[dict[str, Any]] = [{"prediction_id": f"{turn}-1", "verdict": "accepted"}]
    if turn % (3 if wrong else 60) == 0:
        feedback.append({"prediction_id": f"{turn}-2", "verdict": "corrected", "label": "no"})
        feedback.append({"prediction_id": f"{turn}-3", "verdict": "corrected", "label": "yes"})
    assert server.post("/v1/feedback", feedback).status == 201
    assert server.post("/v1/events", {"event": "contracts", "model": "credit", "version": "3"}).status == 202
    if turn == SCRAPES // 2:
        assert server.post("/v1/corrections/samples", {"model": "credit", "count": 20}).json["drawn"] == 20
        waiting = server.get("/v1/corrections?model=credit&source=all&status=pending").json["corrections"]
        decisions = [
            {"id": correction["id"], "revision": correction["revision"], "status": "accepted"} for correction in waiting
        ]
        assert ask(f"{server.url}/v1/corrections", decisions, "PATCH", **token("anna")).status == 200
        assert server.post("/v1/dataset/releases", {"model": "credit"}).status == 201
        assert server.post("/v1/retrain-requests", {"model": "credit"}).status == 201


def compared() -> str:
    """What an exporter exposes of versions 3 and 4: one of them is less confident, and fails less often."""
    training = np.full(24, 1 / 24)
    requests, bounds = 400.0, (0.1, 0.25, np.inf)
    sides = []
    for version, confident, errors in (("3", 360.0, 40.0), ("4", 280.0, 4.0)):
        features = {"age": Feature(np.full(24, 10.0), training)}
        counts = Counts(requests, errors, requests, confident, 9.0, 20.0, bounds, (300.0, 390.0, 400.0), features, ())
        sides.append(Side(version, Period(time.time() - 900, time.time()), counts))
    comparison = at_every_look(Comparison("credit", *sides, [], 900.0))
    lines = render_families(comparison_lines(comparison, {}), openmetrics=True)
    return b"".join(lines).decode()


def sliced() -> str:
    """What an exporter exposes of a slice, for which it searches once a minute."""
    found = ExplainedSlice((), 100, 60, share=0.6, traffic_share=0.1, ratio=6.0, q_value=0.0)
    lines = SLICE.lines(found, model="credit", version="3", of="corrections", slice="country is FR")
    return b"".join(render_families(lines, openmetrics=True)).decode()


def batch() -> str:
    """What a run of ``model-exporter ingest`` pushes about itself."""
    monitor = ModelMonitor(ModelConfig(name="credit"), "3", None)
    monitor.confidences.observe([0.9])
    monitor.counters.confident = 2000
    lines = BATCH.lines(Batch(monitor, 2500, 3, 0.1, time.time() - HOUR), model="credit", version="3")
    return b"".join(render_families(lines, openmetrics=True)).decode()


def families(exposition: str) -> dict[str, tuple[list[str], list[str]]]:
    """Comments and samples of an exposition by family; samples are given the labels of a scrape."""
    by_family: dict[str, tuple[list[str], list[str]]] = {}
    comments: list[str] = []
    samples: list[str] = []
    for line in exposition.splitlines():
        if line.startswith("#"):
            if line == "# EOF":
                break
            name = line.split(" ")[2]
            comments, samples = by_family.setdefault(name, ([], []))
            comments.append(line)
        else:
            series, value = line.rsplit(" ", 1)
            if series.endswith("}"):
                samples.append(f"{series[:-1]},{INSTANCE}}} {value}")
            else:
                samples.append(f"{series}{{{INSTANCE}}} {value}")
    return by_family


def openmetrics(scrapes: list[str], times: list[int]) -> str:
    """One document of many expositions, each with its time; with what Prometheus adds to each."""
    merged: dict[str, tuple[list[str], list[str]]] = {}
    others = families(OF_A_SCRAPE + compared() + sliced() + batch())
    for scrape, at in zip(scrapes, times, strict=True):
        # Where recording takes more than a minute, the exporter compares versions and searches for slices, too.
        for name, (comments, samples) in (families(scrape) | others).items():
            _, all_samples = merged.setdefault(name, (comments, []))
            all_samples += [f"{sample} {at}" for sample in samples]
    lines = [line for comments, samples in merged.values() for line in (*comments, *samples)]
    return "\n".join([*lines, "# EOF", ""])


def layers() -> list[list[dict[str, str]]]:
    """Recording rules by how many others they build on, one after the other."""
    recording = (rule for group in groups_of() for rule in group["rules"] if "record" in rule)
    expressions = {rule["record"]: rule["expr"] for rule in recording} | REMEMBERED
    depths: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in depths:
            named = {other for other in expressions if re.search(rf"(?<![\w:]){other}(?![\w:])", expressions[name])}
            used = named - {name}  # a rule that reads itself
            depths[name] = 1 + max(map(depth, used), default=-1)
        return depths[name]

    made: list[list[dict[str, str]]] = [[] for _ in range(1 + max(map(depth, expressions)))]
    for name, expr in expressions.items():
        made[depth(name)].append({"record": name, "expr": expr})
    return made


def prometheus(folder: Path, *, rules: bool) -> AbstractContextManager[Program]:
    """A Prometheus over the blocks in ``folder``, with or without live rules."""
    config = {"global": {"evaluation_interval": "1s"}, "rule_files": ["live/*.yml"] if rules else []}
    return programs.prometheus(folder, config, "--storage.tsdb.retention.time=60d")


def record(folder: Path) -> int:
    """Write the blocks; returns the Unix time of the end of the hour."""
    (folder / "secret").write_text(16 * "a")
    (folder / "secret").chmod(0o600)
    retrain = {"url": f"http://127.0.0.1:{free_port()}", "secret_file": "secret", "corrections": 0}
    write_config(folder, {**CONFIG, "retrain": retrain}, labels=True)
    rng = np.random.default_rng(5)
    with with_names(folder, "review") as server:
        scrapes = []
        for turn in range(SCRAPES):
            traffic(server, turn, rng)
            scrapes.append(server.get("/metrics", Accept=OPENMETRICS).text)
    end = int(time.time()) // STEP * STEP
    times = [end - HOUR + STEP * (turn + 1) for turn in range(SCRAPES)]
    spans = []
    for ago, part in ((0, SCRAPES), (86400, 24), (7 * 86400, 24)):
        shifted = [at - ago for at in times[-part:]]
        (folder / "hour.txt").write_text(openmetrics(scrapes[:part], shifted))
        promtool("tsdb", "create-blocks-from", "openmetrics", folder / "hour.txt", folder / "tsdb")
        spans.append((shifted[0] + STEP, shifted[-1]))
    for depth, layer in enumerate(layers()):
        groups = [{"name": "layer", "rules": layer}]
        (folder / "layer.yml").write_text(yaml.safe_dump({"groups": groups}))
        with prometheus(folder, rules=False) as program:
            for start, stop in spans if depth == 0 else spans[:-1]:  # of a week ago only what was counted is asked
                flags = [f"--start={start}", f"--end={stop}", f"--url={program.url}", f"--eval-interval={EVALUATIONS}s"]
                flags.append(f"--output-dir={folder / 'tsdb'}")
                promtool("tsdb", "create-blocks-from", "rules", *flags, folder / "layer.yml")
    quickened_rules(RULES, folder / "live")
    return end


def labels(url: str, metric: str) -> set[str]:
    """The labels that a metric's series have."""
    answer = ask(f"{url}/api/v1/labels?match[]={metric}").json
    return set(answer["data"])
