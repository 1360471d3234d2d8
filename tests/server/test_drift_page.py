"""The drift page, asked of an exporter in its own process."""

from __future__ import annotations

import re
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import yaml
from support.batches import observe, observe_columns
from support.blocks import with_ratios
from support.pages import Page
from support.paths import ROOT
from support.servers import Served, serving, write_config

from exporter.config import THRESHOLDS, ModelConfig
from exporter.monitoring.binner import Binner
from exporter.monitoring.drift_report import (
    FEATURE_ALERT,
    PREDICTION_ALERT,
    target_drifts,
    thresholds,
)
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles.builder import build_file
from exporter.profiles.profile import load, save
from exporter.server.application import Exporter
from exporter.server.flask_app import create_app
from exporter.server.pages.drift import describe, describe_dependence
from exporter.stats.dependence import SIZES, LiveDependence
from exporter.wire.events import Prediction

STRANGE = 'a "model"\\ 模型 <i>'
ROWS = 2000
INPUTS = ("amount", "steady", "temperature", "sensor", "weight", "country")
OUTPUTS = ("predicted", "sure")


def drift(server: Served, **query: str) -> Page:
    return Page(server.get(f"/drift?{urlencode(query)}"))


def columns(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "amount": rng.uniform(0, 16, ROWS),
        "steady": rng.normal(0, 1, ROWS),
        "temperature": rng.normal(20, 3, ROWS),
        "sensor": rng.normal(5, 1, ROWS),
        "weight": rng.normal(70, 10, ROWS),
        "country": rng.choice(["NL", "DE", "<b>bold</b>"], ROWS, p=[0.6, 0.3, 0.1]),
        "predicted": rng.choice(["yes", "no"], ROWS, p=[0.3, 0.7]),
        "sure": rng.beta(4, 1, ROWS),
    }


def send(server: Served, count: int, model: str = "loans", version: str = "3", **changed: Any) -> None:
    """Send predictions like training, but for the inputs of ``changed``: functions of the index."""
    rng = np.random.default_rng(11)
    known = columns(rng)
    events = []
    for index in range(count):
        inputs = {name: known[name][index].tolist() for name in known if name not in OUTPUTS}
        inputs |= {name: change(index) for name, change in changed.items() if name not in OUTPUTS}
        prediction = changed.get("predicted", lambda index: str(known["predicted"][index]))(index)
        sure = changed.get("sure", lambda index: float(known["sure"][index]))(index)
        event = {"model": model, "version": version, "inputs": inputs, "prediction": prediction}
        events.append(event if sure is None else {**event, "confidence": sure})
    assert server.post("/v1/predictions", events).status == 202


def configured(folder: Path) -> Path:
    rng = np.random.default_rng(5)
    np.savez(folder / "training.npz", **columns(rng))
    outputs = {"prediction_column": "predicted", "confidence_column": "sure"}
    save(build_file(folder / "training.npz", name="loans", **outputs), folder / "loans.json")
    np.savez(folder / "many.npz", **{f"signal {index:03d}": rng.normal(0, 1, 200) for index in range(300)})
    save(build_file(folder / "many.npz", name="many"), folder / "many.json")
    models = [
        {"name": "loans", "profile": "loans.json", "features": {"weight": {"alerts": {"ModelFeatureDrift": 5}}}},
        {"name": "many", "profile": "many.json"},
        {"name": STRANGE, "profile": "loans.json"},
        {"name": "bare"},
        {"name": "silent", "profile": "loans.json"},
        {"name": "described", "profile": "loans.json"},
    ]
    return write_config(folder, {"models": models})


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An exporter whose version 3 of loans has drifted in several ways."""
    folder = tmp_path_factory.mktemp("drifting")
    configured(folder)
    with serving(folder) as server:
        send(
            server,
            500,
            amount=lambda index: 17.5 if index % 25 < 3 else index % 16,
            temperature=lambda index: None if index % 50 < 17 else 15 + index % 10,
            sensor=lambda index: 5.25,
            weight=lambda index: 40 + index % 24,
            country=lambda index: ("NL", "DE", "DE", "DE", "XX <i>")[index % 5],
            predicted=lambda index: "yes" if index % 10 < 9 else "no",
            sure=lambda index: None if index % 5 == 4 else 0.3 + index % 40 / 100,
        )
        send(server, 12, model=STRANGE, version='1 "β" <b>/版&x=1')
        assert server.post("/v1/predictions", {"model": "bare", "version": "1"}).status == 202
        yield server


def test_the_worst_stand_first(drifting: Served) -> None:
    """Rows are sorted by score over threshold and noise, not by score alone; the worst is the enlarged one."""
    page = drift(drifting, model="loans", version="3", window="1h")
    assert page.status == 200
    rows = page.rows()
    assert sorted(rows) == sorted([*INPUTS, "(prediction)", "(confidence)"])
    assert rows[0] == "sensor"
    assert rows[-1] == "steady"
    assert rows.index("weight") == len(rows) - 2, "its score is high, but so is its own threshold"
    assert "4 of 6 features, the prediction and the confidence have drifted in the last 1h" in page.text
    assert "All features and outputs, the most drifted first" in page.text
    assert "Every value is 5.25; training has values from" in page.text
    samples = drifting.samples("model_feature_kl_divergence")
    score = samples['model_feature_kl_divergence{model="loans",version="3",feature="sensor",window="1h"}']
    assert f"<dt>KL divergence</dt><dd>{score:.3g} nats</dd>" in page.source


@pytest.mark.parametrize(
    ("feature", "words"),
    [
        ("amount", r"The share of values above 16 rose from 0% to 12%"),
        ("temperature", r"34% of the values are missing; in training none were"),
        (
            "country",
            r"20% of the values are categories that are not in the training data; "
            r"the share of NL fell from (59|6\d)% to 20%",
        ),
        ("weight", r"Small change: the mean fell by 1\.\d+ training standard deviations, from 70\.?\d* to 51\.\d"),
        ("steady", r"No change beyond sampling noise"),
        ("(prediction)", r"The share of yes rose from 3\d% to 90%\.$"),
        ("(confidence)", r"The mean fell by 1\.\d+ training standard deviations, from 0\.\d+ to 0\.4\d+"),
    ],
)
def test_a_sentence_says_what_changed(drifting: Served, feature: str, words: str) -> None:
    """The chosen feature's sentence names the change that explains most of its score."""
    page = drift(drifting, model="loans", version="3", window="1h", feature=feature)
    said = re.search(r'<p class="description">(.*?)</p>', page.source)
    assert said
    assert re.search(words, said[1].replace("\N{NO-BREAK SPACE}", " "), re.I), said[1]


def test_a_prediction_without_a_confidence_is_not_counted_among_them(drifting: Served) -> None:
    """The confidence's count is that of the predictions that named one."""
    page = drift(drifting, model="loans", version="3", window="1h", feature="(confidence)")
    assert "The confidence drifted" in page.text
    assert "<dt>Values</dt><dd>400</dd>" in page.source
    assert 'href="/runbooks/ModelPredictionDrift"' in page.source
    samples = drifting.samples("model_confidence_kl_divergence", "model_confidence_kl_divergence_noise")
    labels = '{model="loans",version="3",window="1h"}'
    score, noise = (samples[f"model_confidence_kl_divergence{name}{labels}"] for name in ("", "_noise"))
    assert score > 0.3 > noise > 0
    assert f"<dt>KL divergence</dt><dd>{score:.3g} nats</dd>" in page.source
    assert not [series for series in samples if 'model="many"' in series or 'model="bare"' in series]


def test_every_chart_has_words_and_nothing_needs_a_script_or_inline_style(drifting: Served) -> None:
    """Images are named by the title inside them, and the security policy holds back nothing that is there."""
    page = drift(drifting, model="loans", version="3")
    assert page.source.count('role="img"') == 8
    assert len(re.findall(r'<svg role="img"[^>]*>\s*<title[ >]', page.source)) == 8
    assert not [attrs for tag, attrs in page.tags if tag == "style" or "style" in attrs]
    scripts = [attrs["src"] for tag, attrs in page.tags if tag == "script"]
    assert scripts == ["/static/page.js", "/static/slices.js"]  # without them, there are a button and a link
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    headings = [tag for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert headings == ["h1", "h2", "h2", "h2"]
    named = {name for _, attrs in page.tags for name in (attrs.get("aria-labelledby") or "").split()}
    assert named <= set(identifiers)


def test_what_users_sent_is_text(drifting: Served) -> None:
    """Quotes, ampersands, Chinese characters and markup in names and categories come out as they went in."""
    page = drift(drifting, model=STRANGE)
    assert page.status == 200
    assert f'Drift of {STRANGE}, version 1 "β" <b>/版&x=1' in page.text
    assert "12 values are too few: sampling noise alone can reach" in page.text
    chosen = drift(drifting, model=STRANGE, version='1 "β" <b>/版&x=1', feature="country")
    assert "<b>bold</b>" in chosen.text
    assert not [tag for tag, _ in chosen.tags if tag in {"i", "b"}]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"model": "lones"}, 'No model "lones" is configured; did you mean "loans"?'),
        (
            {"model": "loans", "version": "9"},
            'No version "9" of loans has sent a prediction since the exporter started',
        ),
        ({"model": "loans", "window": "2h"}, 'No window "2h" of loans is configured'),
        ({"model": "loans", "feature": "ammount"}, 'did you mean "amount"?'),
        ({"model": "<script>alert(1)</script>"}, 'No model "<script>alert(1)</script>" is configured'),
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(drifting: Served, query: dict[str, str], words: str) -> None:
    """An address that names something unknown is a 404 for people."""
    answer = drifting.get(f"/drift?{urlencode(query)}")
    assert answer.headers["Content-Type"].startswith("text/html")
    page = Page(answer)
    assert page.status == 404
    assert words in page.text


def test_a_model_without_profile_or_traffic_says_what_is_missing(drifting: Served) -> None:
    """There is something to read before there is something to see."""
    bare, silent = drift(drifting, model="bare"), drift(drifting, model="silent")
    assert (bare.status, silent.status) == (200, 200)
    assert "bare has no profile" in bare.text
    assert "No prediction of silent was received since the exporter started" in silent.text
    assert drift(drifting).status == 200


def test_the_home_page_leads_to_the_most_drifted(drifting: Served) -> None:
    """Its cell links to that very feature, its navigation to the page, and an alert on data to what it is about."""
    labels = {"alertname": "ModelFeatureDrift", "layer": "data", "model": "loans", "version": "3", "feature": "amount"}
    output = {"alertname": "ModelPredictionDrift", "layer": "data", "model": "loans", "version": "3"}
    alerts = [{"status": "firing", "labels": {**one, "severity": "warning"}} for one in (labels, output)]
    assert drifting.post("/v1/notifications", {"status": "firing", "alerts": alerts}).status == 200
    page = Page(drifting.get("/"))
    links = [attrs["href"] or "" for tag, attrs in page.tags if tag == "a"]
    assert "/drift" in links
    assert any("version=3" in link and "feature=sensor" in link for link in links)
    assert any("feature=amount" in link for link in links)
    assert any("feature=(prediction)" in link for link in links)
    for link in links:
        if link.startswith("/drift"):
            assert drifting.get(link).status == 200, link


def test_both_pages_show_the_score_of_the_same_window(drifting: Served) -> None:
    """Without a window in its address, the drift page shows the one in which the home page found the most drift."""
    home = drifting.get("/").text
    row = re.search(r'<tr role="row"[^>]*><th scope="row"[^>]*><span class="clamp" title="loans".*?</tr>', home, re.S)
    assert row
    window = re.search(r"window=(\w+)", row[0])
    score = re.search(r'data-label="KL" class="number[^"]*">([^<]+)', row[0])
    assert window and score
    page = drifting.get("/drift?model=loans&version=3").text
    assert re.search(rf'aria-current="true">{window[1]}</a>', page)
    assert f"<dt>KL divergence</dt><dd>{score[1]} nats</dd>" in page


def test_a_small_lasting_change_is_told_in_words(tmp_path: Path) -> None:
    """It is told of features alone, and where the window does not say that they have drifted."""
    with closing(Exporter(configured(tmp_path))) as exporter:
        rng = np.random.default_rng(6)
        known = columns(rng)
        names = [name for name in known if name not in OUTPUTS]
        monitor = exporter.pipeline.monitors.get("loans", "3", time.monotonic())
        monitor.dispersion[:] = 1.0  # as after a day of independent values
        now = time.monotonic() - 6 * 3600
        for row in range(0, 1800, 5):
            rows = [{name: known[name][index].tolist() for name in names} for index in range(row, row + 5)]
            for inputs in rows:
                inputs["steady"] += 0.4
            observe(monitor, [Prediction("loans", prediction="yes")] * 5, rows, now)
            now += 60
        page = create_app(exporter).test_client().get("/drift?model=loans&version=3&window=1h").text
        told = re.findall(r"Over a longer time, a small, lasting change: evidence (\d+) of 15\.", page)
        assert told
        assert {int(evidence) > 15 for evidence in told} == {True}
        said = target_drifts(monitor, monitor.read(now)["1h"], monitor.read_evidence(now))
        assert {one.name for one in said if "Over a longer time" in describe(one)} == {"steady"}


def test_thresholds_are_those_of_the_rules(tmp_path: Path) -> None:
    """The page's default is the rules' default, and what the configuration sets is what the metrics say."""
    rules = yaml.safe_load((ROOT / "prometheus" / "rules" / "data.yml").read_text())
    texts = {rule.get("record"): rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    for name in (
        f"model_feature:threshold:{FEATURE_ALERT}",
        f"model:threshold:{PREDICTION_ALERT}",
    ):
        assert float(re.findall(r"or ([\d.]+) \*", texts[name])[0]) == THRESHOLDS[name.rpartition(":")[2]].default
    features = {"photo": {"alerts": {"ModelFeatureDrift": 0.7}}, "photo.contrast": {"alerts": {}}, "age": {}}
    model = {"name": "credit", "profile": "credit.json", "alerts": {"ModelFeatureDrift": 0.4}, "features": features}
    with closing(Exporter(write_config(tmp_path, {"models": [model]}))) as exporter:
        config = exporter.config.models[0]
        names = ["photo.sharpness", "photo.contrast", "age", "income", "(prediction)"]
        assert thresholds(config, names).tolist() == [0.7, 0.4, 0.4, 0.4, 0.3]


def test_a_constant_that_stayed_what_it_was_has_not_changed(tmp_path: Path) -> None:
    """One bin holds all of training, so chance moves nothing: the same again is no change, anything else is one."""
    constant = {"x": np.full(50, 3.0), "c": np.full(50, "NL"), "none": np.full(50, np.nan)}
    np.savez(tmp_path / "a.npz", **constant)
    monitor = ModelMonitor(ModelConfig("m", windows=("5m",)), "1", Binner(build_file(tmp_path / "a.npz")))

    def found(*inputs: dict[str, Any]) -> dict[str, tuple[str, str]]:
        observe(monitor, [Prediction("m")] * len(inputs), inputs, 100.0)
        said = target_drifts(monitor, monitor.read(100.0)["5m"])
        return {change.name: (change.status, describe(change)) for change in said}

    same = ("same", "Constant, as in training.")
    assert found(*[{"x": 3, "c": "NL", "none": None}] * 400) == {"x": same, "c": same, "none": same}
    moved = found({"x": 4, "c": "DE", "none": 1})
    assert {status for status, _ in moved.values()} == {"slight"}
    assert moved["x"][1].startswith("Small change: the share of values above 3 rose from 0")


def test_exchanged_columns_name_each_other(tmp_path: Path) -> None:
    """Drifted values that look like those of one other feature in training name it; features that are alike, none."""
    rng = np.random.default_rng(1)
    sizes = {"length": (200, 14), "mass": (4200, 800), "depth": (17, 2), "x": (0, 1), "y": (0, 1)}
    trained = {name: rng.normal(*size, ROWS) for name, size in sizes.items()}
    np.savez(tmp_path / "a.npz", **trained)
    monitor = ModelMonitor(ModelConfig("m"), "1", Binner(build_file(tmp_path / "a.npz")))
    live = {name: trained[other] for name, other in zip(sizes, ("mass", "length", "x", "y", "depth"), strict=True)}
    observe_columns(monitor, ROWS, live, 0.0)
    drifts = {drift.name: drift for drift in target_drifts(monitor, monitor.read(0.0)["1h"])}
    assert [drifts[name].resembles for name in sizes] == ["mass", "length", "", "", "depth"]
    assert describe(drifts["mass"]).endswith(" These values look like the training values of length.")


def test_the_page_says_why_the_noise_floor_of_dependent_values_is_high(tmp_path: Path) -> None:
    """The floor is higher for values that depended on each other in training, and 100 of them tell less."""
    configured(tmp_path)
    ratios = {"steady": [2.0, 4.0, 8.0], "(confidence)": [1.0, 1.0, 1.0]}
    profile = with_ratios(load(tmp_path / "loans.json"), [40, 80, 160], ratios)
    save(profile, tmp_path / "loans.json")
    with serving(tmp_path) as server:
        send(server, 80)
        text = drift(server, feature="steady", window="5m").text
        floor = float(profile.blocks.targets["steady"].quantiles[1]) if profile.blocks else 0.0
        assert (
            "In training, values are autocorrelated: 80 have an effective sample size of 20, "
            f"so the noise floor is {floor:.3g} instead of {floor / 4:.3g}." in text
        )
        assert "80 values are too few: sampling noise alone can reach" in text
        for other in ("amount", "(confidence)"):
            assert "autocorrelated" not in drift(server, feature=other, window="5m").text


def test_the_page_says_which_noise_floor_was_learned_from_live_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(1).normal(size=1000))
    binner = Binner(build_file(tmp_path / "a.npz"))
    monitor = ModelMonitor(ModelConfig("m", windows=("5m",)), "1", binner)
    observe(monitor, [Prediction("m")] * 40, [{"x": index / 40} for index in range(40)], 100.0)
    monitor.noise = binner.profile_noise.with_live(
        {0: LiveDependence(np.full(len(SIZES), 3.0), np.full(len(SIZES), 2.5), dependent=True)}
    )
    (change,) = target_drifts(monitor, monitor.read(100.0)["5m"])
    assert describe_dependence(change) == (
        "In healthy windows of the past, values are autocorrelated: 40 have an effective sample size of 16, "
        f"so the noise floor is {change.noise:.3g} instead of {change.noise / 3:.3g}."
    )


def test_the_page_says_how_much_evidence_there_is(drifting: Served) -> None:
    """The evidence of all features together is that of the metrics, beside the limit of a year."""
    page = drift(drifting, model="loans", version="3", window="1h")
    assert {round(limit, 1) for limit in drifting.samples("model_drift_evidence_limit").values()} == {13.2}
    text = " ".join(page.text.split())
    assert ("The evidence that its data differ" in text) is ("above the limit of 13.2" in text)
