"""The quality page, asked of an exporter in its own process, and the texts of its figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
import pytest
from pyarrow import parquet
from support.labelled_rows import classes, numbers, partly_unsure, send
from support.pages import Page
from support.servers import Served, eventually, serving, write_config

from exporter.monitoring.binner import Binner
from exporter.monitoring.leading_quality import Leading
from exporter.monitoring.quality import WIDTH, sums_of_labels, window_quality
from exporter.monitoring.windows import Ring
from exporter.profiles.builder import build_file
from exporter.profiles.profile import save
from exporter.profiles.quality import QualityEstimator
from exporter.server.pages.quality import describe_estimates, describe_leading
from exporter.stats.quality import IntervalEstimate, wilson

STRANGE = 'a "model"\\ 模型 <i>'
COLUMNS: dict[str, Any] = {"prediction_column": "prediction", "label_column": "outcome"}


def words(page: Page) -> str:
    """The text of a page with a space between the cells of a table."""
    return " ".join(" ".join(page.pieces).split())


def quality(server: Served, **query: str) -> Page:
    return Page(server.get(f"/quality?{urlencode(query)}"))


def profiles(folder: Path) -> None:
    """Write profiles with labels of both kinds, and one without."""
    parquet.write_table(classes(3000, 1), folder / "loans.parquet")
    parquet.write_table(numbers(3000, 1), folder / "prices.parquet")
    training = folder / "loans.parquet"
    save(build_file(training, confidence_column="confidence", **COLUMNS), folder / "loans.json")
    save(build_file(folder / "prices.parquet", **COLUMNS), folder / "prices.json")
    parquet.write_table(partly_unsure(classes(3000, 1)), folder / "unsure.parquet")
    save(build_file(folder / "unsure.parquet", confidence_column="confidence", **COLUMNS), folder / "unsure.json")
    save(build_file(training, prediction_column="prediction", ignore=["outcome"]), folder / "plain.json")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter with labels of a classifier and of a regression, and with models that lack something."""
    folder = tmp_path_factory.mktemp("labelled")
    profiles(folder)
    models = [
        {"name": "loans", "profile": "loans.json", "segment_by": "country"},
        {"name": "prices", "profile": "prices.json"},
        {"name": STRANGE, "profile": "loans.json"},
        {"name": "waiting", "profile": "loans.json"},
        {"name": "plain", "profile": "plain.json"},
        {"name": "silent", "profile": "loans.json"},
        {"name": "unsure", "profile": "unsure.json"},
        {"name": "bare"},
        {"name": "free"},
        {"name": "few"},
    ]
    with serving(write_config(folder, {"models": models}).parent) as server:
        send(server, "loans", classes(1000, 2, confidence=2.0))
        send(server, "prices", numbers(400, 2))
        send(server, "waiting", classes(300, 3), label=False)
        send(server, "unsure", partly_unsure(classes(900, 5)))
        send(server, "plain", classes(300, 4), label=False)
        yield server


def test_the_measured_and_the_estimated_accuracy(labelled: Served) -> None:
    """The page says how often the model is right, by window, with its interval, and what was estimated."""
    page = quality(labelled, model="loans")
    assert page.status == 200
    values = labelled.samples("model_accuracy", "model_accuracy_lower", "model_estimated_accuracy")
    series = '{model="loans",version="3",window="%s"}'
    measured, estimated = values["model_accuracy" + series % "5m"], values["model_estimated_accuracy" + series % "1h"]
    text = words(page)
    assert f"{100 * measured:.3g}% of the 900 labelled predictions of the last 5m are right" in text
    assert "the model is worse than there, by more than chance explains" in text
    assert re.search(
        r"The whole interval is below 77\.\d%, the threshold of ModelAccuracyLow\.",
        words(page).replace(" ,", ",").replace(" .", "."),
    )
    assert re.search(r"Updated at \d\d:\d\d:\d\d UTC ?\. Refresh", text)
    assert "/quality?model=loans" in [attributes.get("href") for tag, attributes in page.tags if tag == "a"]
    assert re.search(r"Last 1d 7\d\.\d% \d\d\.?\d*% to \d\d\.?\d*% .*?900 100 ", text)
    assert f"Last 1h {100 * estimated:.3g}%" in text
    assert re.search("[Hh]alf of the labels since the exporter started came .* the prediction.", text)
    assert re.search(r"On the 2,700 labelled rows of the profile, the accuracy is 8\d\.\d%", text)
    assert re.search(
        r"of the last 7d, 7\d\.\d% were expected to be right .*?, and 7\d\.\d% are\. The estimate was", text
    )
    assert "If the same inputs come with other labels than before" in text


def test_what_has_no_confidence_is_in_the_measured_reference_alone(labelled: Served) -> None:
    """Rows without a confidence that are always wrong make nothing look worse, and each kind has its dashed line."""
    page = quality(labelled, model="unsure")
    text = words(page)
    assert "which is within the interval" in text
    assert re.search(
        r"On the 2,800 labelled rows of the profile, the accuracy is 5\d\.?\d*%\. On the 1,800 of them with a "
        r"confidence, which alone are estimated, it is 8\d\.?\d*%\.",
        text,
    )
    limits = [attributes["d"] for tag, attributes in page.tags if tag == "path" and attributes.get("class") == "limit"]
    measured, estimated = set(limits[:4]), set(limits[4:])
    assert len(measured) == len(estimated) == 1 and measured != estimated


def test_classes_and_segments(labelled: Served) -> None:
    """The confusion table has each pair of classes with precision and recall; segments have their own accuracy."""
    page = quality(labelled, model="loans")
    outcomes = labelled.samples("model_outcomes_total")
    pair = 'model_outcomes_total{model="loans",version="3",predicted="%s",actual="%s"}'
    right, wrong = outcomes[pair % ("yes", "yes")], outcomes[pair % ("yes", "no")]
    text = words(page)
    assert "Predicted Label" in text
    assert re.search(
        rf" yes ({right:.0f} {wrong:.0f}|{wrong:.0f} {right:.0f}) {100 * right / (right + wrong):.0f}% ", text
    )
    assert "By country" in text
    assert re.search(r" NL 7\d\.?\d*% ", text)
    assert "<b>BE" not in page.source


def test_a_regression_has_errors(labelled: Served) -> None:
    """Numbers have a mean absolute error and no table of classes."""
    text = words(quality(labelled, model="prices"))
    assert re.search(
        r"The mean absolute error of the 400 labelled predictions of the last 5m is \d\.\d+ \(95% interval", text
    )
    assert "In the last 1h, an error of" in text
    assert "The root mean squared error is" in text
    assert "Predicted and actual classes" not in text
    assert "confidence" not in text


def test_what_is_missing_is_said_with_what_to_do(labelled: Served) -> None:
    """Without labels, without labelled rows and without predictions the page says what to do."""
    waiting, plain, bare, silent = (quality(labelled, model=name) for name in ("waiting", "plain", "bare", "silent"))
    assert "The accuracy in the last 5m is estimated as 8" in waiting.text
    assert "No prediction in the windows has a label. Send labels" in waiting.text
    assert f"model-exporter label labels.csv --exporter {labelled.url} " in waiting.text
    assert "is not known: no prediction in the windows has a label, and nothing can be estimated." in plain.text
    for page, lacking in ((plain, "The profile of plain has no labels"), (bare, "create a profile")):
        assert "--label-column label" in page.text
        assert lacking in page.text
    assert "No prediction of silent was received since the exporter started" in silent.text
    unknown = quality(labelled, model="loan")
    assert unknown.status == 404
    assert 'No model "loan" is configured; did you mean "loans"?' in unknown.text
    assert quality(labelled, model="loans", version="4").status == 404
    assert quality(labelled).status == 200


def test_a_model_without_a_profile_is_measured(labelled: Served) -> None:
    """Labels alone are enough for the measured quality; with few of them there is no interval."""
    events = [{"model": "free", "version": "1", "id": f"f-{index}", "prediction": index + 0.5} for index in range(3)]
    assert labelled.post("/v1/predictions", events).status == 202
    assert (
        labelled.post("/v1/labels", [{"prediction_id": f"f-{index}", "label": index} for index in range(3)]).status
        == 201
    )
    sentence = "The mean absolute error of the 3 labelled predictions of the last 7d is 0.5."
    eventually(lambda: sentence in words(quality(labelled, model="free")))
    page = quality(labelled, model="free")
    assert page.source.count("<rect") == 0
    assert page.source.count('data-label="Bias">+0.5<') == 4
    assert "free has no profile, so nothing is estimated. Create one from rows" in page.text


def test_the_home_page_has_one_figure_of_each(labelled: Served) -> None:
    """It is measured with enough labels, else estimated, and leads to the page."""
    page = Page(labelled.get("/"))
    text = words(page)
    assert re.search(r" loans 3 .* 7\d\.?\d*% 5m, ≥ \d\d", text)
    assert re.search(r" prices 3 .* \d\.\d+ 5m, ≤ [\d.]+; bias [+−]0\.\d", text)
    assert re.search(r" waiting 3 .* 8\d\.?\d*% 5m, ≥ \d\d\.?\d*% estimated", text)
    links = [attributes.get("href") for tag, attributes in page.tags if tag == "a"]
    assert "/quality?model=loans&version=3" in links
    assert 'class="marked' not in page.source, "no alert fires"


def test_a_calibration_error_that_chance_explains_is_not_shown(labelled: Served) -> None:
    """Of few labels only what chance makes of them is said."""
    events = [
        {"model": "few", "version": "1", "id": f"g-{index}", "prediction": "yes", "confidence": 0.7}
        for index in range(8)
    ]
    assert labelled.post("/v1/predictions", events).status == 202
    labels = [{"prediction_id": f"g-{index}", "label": "yes" if index < 6 else "no"} for index in range(8)]
    assert labelled.post("/v1/labels", labels).status == 201
    found = eventually(lambda: re.search(r" 8 0 (\S+) by chance (\S+)%", words(quality(labelled, model="few"))))
    assert (found[1], float(found[2])) == ("–", pytest.approx(13, abs=1))
    assert re.search(r"900 100 [\d.]+% by chance [\d.]+%", words(quality(labelled, model="loans")))


def test_what_users_sent_is_text(labelled: Served) -> None:
    """Names and labels are escaped, and at most twenty classes a side have their own line."""
    version = '1 "β" <b>/版&x=1'
    events = [
        {"model": STRANGE, "version": version, "id": f"s-{index}", "prediction": f"<i>{index % 30}"}
        for index in range(60)
    ]
    assert labelled.post("/v1/predictions", events).status == 202
    labels = [{"prediction_id": f"s-{index}", "label": f"<u>{index % 50}"} for index in range(60)]
    assert labelled.post("/v1/labels", labels).status == 201
    page = quality(labelled, model=STRANGE, version=version)
    eventually(lambda: "Predicted and actual classes" in quality(labelled, model=STRANGE).text)
    page = quality(labelled, model=STRANGE, version=version)
    assert page.status == 200
    assert not re.search("<(i|u|b)>", page.source)
    assert page.text.count("Label <u>") == 18  # after the two of the profile
    assert "Label other" in page.text
    assert not any(name.startswith("on") or name == "style" for _, attributes in page.tags for name in attributes)


def test_labels_that_wait_and_what_a_restart_begins_anew(tmp_path: Path) -> None:
    """Labels without a prediction are on the page until it arrives; after a restart windows stay, and classes begin."""
    with serving(write_config(tmp_path, {"models": [{"name": "loans"}]}).parent) as server:
        labels = [{"prediction_id": f"w-{index}", "label": "yes"} for index in range(2)]
        assert server.post("/v1/labels", labels).json["waiting"] == 2
        waits = "2 labels of any model wait for a prediction that has not arrived, the oldest for"
        assert waits in words(quality(server, model="loans"))  # of which no version is known
        event = {"model": "loans", "version": "3", "prediction": "yes"}
        assert server.post("/v1/predictions", [event | {"id": "w-0"}]).status == 202
        eventually(lambda: "1 label of any model waits for" in words(quality(server, model="loans")))
        text = words(quality(server, model="loans"))
        assert "100% of the 1 labelled prediction" in text and "Predicted and actual classes" in text
        server.stop()
        server.start()
        text = words(quality(server, model="loans"))
        assert "100% of the 1 labelled prediction" in text and "Predicted and actual classes" not in text
        assert "No label has arrived since the exporter started or the profile was replaced: " in text
        assert server.post("/v1/predictions", [event | {"id": "w-1"}]).status == 202
        eventually(lambda: "Predicted and actual classes" in words(quality(server, model="loans")))
        assert "for a prediction that has not arrived" not in words(quality(server, model="loans"))


def test_every_picture_has_words(labelled: Served) -> None:
    """Each picture of an interval has its numbers as a title, and nothing needs a script."""
    page = quality(labelled, model="loans")
    pictures = [attributes for tag, attributes in page.tags if tag == "svg" and attributes.get("role") == "img"]
    assert len(pictures) >= 6
    assert page.source.count("<title>Measured in the last ") == 4
    assert [attributes["src"] for tag, attributes in page.tags if tag == "script"] == ["/static/page.js"]


def estimator(folder: Path, rows: int, kind: str, seed: int = 1) -> tuple[QualityEstimator, int]:
    """The estimator of a profile of so many rows, and the number of bins that it reads."""
    accuracy = kind == "accuracy"
    parquet.write_table(classes(rows, seed) if accuracy else numbers(rows, seed), folder / "rows.parquet")
    confidence = {"confidence_column": "confidence"} if accuracy else {}
    binner = Binner(build_file(folder / "rows.parquet", **COLUMNS, **confidence))
    assert binner.quality
    return binner.quality, binner.bins


def checked(made: QualityEstimator, bins: int, right: float, labels: int = 4000) -> str:
    """What is said of labels of which so many are right and 80% were expected to be."""
    losses: npt.NDArray[np.float64] = (np.arange(labels) >= right * labels).astype(np.float64)
    all_of = np.full(labels, 0.8)
    rows = sums_of_labels(losses, losses, np.zeros(labels, dtype=np.bool_), all_of, all_of)
    ring = Ring(86400.0, WIDTH)
    ring.add(0.0, rows.sum(axis=0))
    return describe_estimates("accuracy", "1d", window_quality(ring, 0.0), None, made.learned_variance(np.zeros(bins)))


def test_a_calibration_of_few_rows_may_be_off_by_its_own_chance(tmp_path: Path) -> None:
    """The calibration is a sample too: of 400 rows it does not tell 2 points, of 40,000 it does."""
    few, many = estimator(tmp_path, 400, "accuracy"), estimator(tmp_path, 40_000, "accuracy")
    assert "The estimate was good" in checked(*few, 0.82)
    assert "The estimate was too high" in checked(*few, 0.7)
    assert "so few labels prove little" in checked(*few, 0.5, labels=2)
    assert "The estimate was too low, by more than chance explains" in checked(*many, 0.82)


def test_the_reference_of_few_rows_may_be_off_by_its_own_chance(tmp_path: Path) -> None:
    """A measured quality outside of which the reference lies may still differ from it by chance."""
    for kind, rows in (("accuracy", 400), ("accuracy", 40_000), ("absolute_error", 400), ("absolute_error", 40_000)):
        made, _ = estimator(tmp_path, rows, kind)
        value = made.overall * 0.97
        measured = (
            wilson(round(value * 4000), 4000)
            if kind == "accuracy"
            else IntervalEstimate(value, value * 0.98, value * 1.02)
        )
        text = describe_leading(
            "accuracy" if kind == "accuracy" else "absolute_error",
            Leading("measured", "1d", measured, 4000, 0.0, 0.0),
            made,
        )
        better = "better" if kind == "absolute_error" else "worse"
        expected = "not more than chance explains" if rows == 400 else f"the model is {better} than there, by more"
        assert expected in text, (kind, rows)


def test_references_cover_the_truth(tmp_path: Path) -> None:
    """Of profiles of few rows, about 95% have the quality of many rows in the interval of their reference."""
    for kind in ("accuracy", "absolute_error"):
        truth = estimator(tmp_path, 200_000, kind)[0].overall
        hits = []
        for seed in range(2, 62):
            made, _ = estimator(tmp_path, 300, kind, seed)
            hits.append(made.reference.lower <= truth <= made.reference.upper)
        assert np.mean(hits) >= 0.85, kind
