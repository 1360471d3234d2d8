"""The business layer of a regression: 600 numeric predictions without confidences, 110 of them corrected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.corrections import queue
from support.pages import Page
from support.servers import Served, ask, eventually, serving

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save
from exporter.server.pages.review import ERROR_BARS, ReviewQuery, error_chart
from exporter.storage import Filter

CONFIG = """
models:
  - {name: price, profile: price.json, correction_tolerance: 0.5}
  - {name: minutes, correction_tolerance: "10%"}
"""
PREDICTIONS, CORRECTED = 600, 110


def errors() -> list[float]:
    """Label minus prediction of each correction: 40 within the tolerance, most around 2, and one far away."""
    near, usual = np.linspace(-0.5, 0.5, 40), np.linspace(-6, 10, CORRECTED - 41)
    usual[np.abs(usual) < 0.6] = 1.25
    return [float(value) for value in (*near, *usual.round(2), 5000.0)]


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter of two regressions; one has a profile and two versions."""
    folder = tmp_path_factory.mktemp("regression")
    rooms = np.random.default_rng(1).integers(1, 9, 1000)
    rows = "\n".join(f"{n},{40.5 * n:.1f}" for n in rooms)
    (folder / "training.csv").write_text(f"rooms,price\n{rows}\n")
    save(build_file(folder / "training.csv", prediction_column="price"), folder / "price.json")
    (folder / "exporter.yml").write_text(CONFIG)
    with serving(folder) as server:
        predictions = [
            {"id": f"p{n}", "model": "price", "version": str(1 + n % 2), "inputs": {"rooms": 1 + n % 8},
             "prediction": 40.5 * (1 + n % 8), "duration_seconds": 0.01} for n in range(PREDICTIONS)
        ]  # fmt: skip
        feedback = [
            {"prediction_id": f"p{n}", "verdict": "corrected", "label": predictions[n]["prediction"] + error}
            for n, error in enumerate(errors())
        ]
        early, late = feedback[::2], feedback[1::2]
        assert server.post("/v1/feedback", early).status == 201
        assert server.post("/v1/predictions", predictions).status == 202
        assert server.post("/v1/feedback", late).status == 201
        eventually(lambda: sum(server.samples("model_feedback_total").values()) == CORRECTED)
        yield server


def review(server: Served, **query: Any) -> Page:
    return Page(server.get(f"/review?{urlencode(query)}"))


def ids(page: Page) -> list[str]:
    return [str(attrs["data-id"]) for _, attrs in page.tags if "data-id" in attrs]


def test_corrections_beyond_the_tolerance_count(regression: Served) -> None:
    """In the metrics, whichever came first, and on the home page; nothing within the tolerance waits for review."""
    samples = regression.samples()

    def total(name: str) -> float:
        return sum(value for series, value in samples.items() if series.startswith(name))

    assert total('model_confident_predictions_total{model="price"') == PREDICTIONS
    assert total('model_corrections_total{model="price"') == CORRECTED - 40
    assert samples['model_corrections_pending{model="price"}'] == CORRECTED - 40
    accepted = [series for series in samples if 'verdict="accepted"' in series and 'model="price"' in series]
    assert sum(samples[series] for series in accepted) == 40
    home = regression.get("/").text
    assert len(re.findall(r'data-label="Corrected, 1h" class="number">11.7%<', home)) == 2


def test_errors_take_the_place_of_the_confusion_table(regression: Served) -> None:
    """Their bars hold every correction once and link to its card; the figures are those of the queue."""
    page = review(regression, model="price")
    differences = np.array([one["label"] - one["prediction"] for one in queue(regression, "model=price")])
    assert len(differences) == CORRECTED - 40
    assert "Errors" in page.text
    assert "Confusion" not in page.text
    assert f"Mean absolute error {np.abs(differences).mean():.3g} " in page.text
    assert f"Mean of label − prediction +{differences.mean():.3g} " in page.text
    assert "Largest error +5,000 " in page.text
    assert "labels within 0.5 of the prediction count as accepted" in page.text
    bars = re.findall(r'<a href="([^"]*error_[^"]*)" aria-label="([\d,]+) (?:from|below) ', page.source)
    assert sum(int(count) for _, count in bars) == len(differences)
    shown = [ids(Page(regression.get(unescape(link)))) for link, _ in bars]
    assert [str(len(cards)) for cards in shown] == [count for _, count in bars]
    assert len({card for cards in shown for card in cards}) == len(differences)
    assert len(bars) > 8, "the one far away has a bar of its own"
    assert re.search(r"\bfrom \+1\d\b", page.text), "and the axis says so"


@given(st.lists(st.floats(-1e120, 1e120), min_size=1, max_size=60))
@example([0.0])
@example([1e-320, 3e-320])
@example([5.0, 5.0000001, -1e120])
def test_any_errors_have_a_chart(values: list[float]) -> None:
    """Each error is in one bar, whose address selects exactly the errors that it counts."""
    chart = error_chart(np.array(values), ReviewQuery(Filter(), "newest", "cards", None, None, {}))
    assert chart
    assert len(chart.bars) <= ERROR_BARS + 4
    for bar in chart.bars:
        low, high = float(bar.args.get("error_from", -np.inf)), float(bar.args.get("error_to", np.inf))
        assert bar.size == sum(low <= value < high for value in values)
    assert sum(bar.size for bar in chart.bars) == chart.facts["count"] == len(values)


def test_cards_show_the_error(regression: Served) -> None:
    """Also in the table; the largest comes first on request, and filters by label find a number."""
    page = review(regression, model="price", order="error")
    assert "+5,000" in page.text
    first, second = (regression.get(f"/v1/corrections/{number}").json for number in ids(page)[:2])
    assert first["label"] - first["prediction"] == 5000
    assert second["label"] - second["prediction"] == 10
    assert "+10" in review(regression, model="price", view="table", error_to="100", order="error").text
    assert ids(review(regression, model="price", label=first["label"])) == [first["id"]]
    assert "Largest error" in page.text
    assert "Most confident" not in page.text
    assert "error from 2" in review(regression, model="price", error_from="2").text
    (wrong,) = re.findall("error_from: [^<]*", review(regression, error_from="much").text)
    assert wrong.startswith('error_from: expected a number, got "much"')


def test_a_regression_without_a_profile(regression: Served) -> None:
    """Predictions with fractions make one; its tolerance is a share; samples are drawn, and show their accuracy."""
    events = [{"id": f"m{n}", "model": "minutes", "version": "a", "prediction": n + 0.5} for n in range(20, 60)]
    assert regression.post("/v1/predictions", events).status == 202
    for number, label, verdict in ((20, 22.55, "accepted"), (21, 24.0, "corrected"), (22, 10, "corrected")):
        item = {"prediction_id": f"m{number}", "verdict": "corrected", "label": label}
        eventually(lambda item=item: regression.post("/v1/feedback", item).json["joined"])
        assert regression.post("/v1/feedback", item).json["verdict"] == verdict
    page = review(regression, model="minutes")
    assert "labels within 10% of the prediction count as accepted" in page.text
    assert "+2.5" in page.text
    assert "−12.5" in page.text
    answer = regression.post("/v1/corrections/samples", {"model": "minutes", "count": 3})
    assert answer.json == {"drawn": 3}
    drawn = queue(regression, "model=minutes&source=sample")
    for correction, factor in zip(drawn, (1, 1.05, 2), strict=True):
        decision = {"status": "accepted", "label": factor * correction["prediction"], "revision": 1}
        assert regression.get(f"/v1/corrections/{correction['id']}").json["label"] == correction["prediction"]
        assert ask(f"{regression.url}/v1/corrections/{correction['id']}", decision, "PATCH").status == 200
    accuracy = regression.samples("model_reviewed_accuracy")
    assert accuracy['model_reviewed_accuracy{model="minutes",version="a"}'] == pytest.approx((1 + 37 * 2 / 3) / 40)
