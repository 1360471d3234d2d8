"""``GET /v1/compare`` and the metrics of comparisons: as the command, over the time both served; accuracy, too."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from support.fake_exporter import nobody
from support.past import Points, prometheus_of
from support.processes import run_command
from support.servers import eventually
from support.two_versions import (
    BEGIN,
    DEPLOYED,
    END,
    PER_STEP,
    STEP,
    asked,
    exporter_of,
    scene,
    scrape,
    seen_by_prometheus,
    serve,
    with_margins,
)

from exporter.comparison.measures import (
    MIN_LABELS,
    Comparison,
    Counts,
    Measure,
    Period,
    Quality,
    Side,
    add,
    compare,
    document,
    sentence,
    summary,
)
from exporter.comparison.prometheus import STEP_SECONDS, count, stretches
from exporter.errors import ExporterError
from exporter.monitoring.registry import GAP_SECONDS, MonitorRegistry
from exporter.prometheus import Prometheus
from exporter.scheduler import Scheduler
from exporter.server.application import Exporter
from exporter.server.flask_app import create_app
from exporter.server.tasks.comparisons import Comparisons
from exporter.stats.quality import IntervalEstimate


def exported(exporter: Exporter) -> dict[tuple[str, ...], float]:
    """The metrics of comparisons by their name and their labels' values, but for the model and the versions."""
    text = exporter.metrics("", ())[0].decode()
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if "_comparison_" in s.name]
    assert {(s.labels["model"], s.labels["before"], s.labels["after"]) for s in samples} <= {("credit", "1", "2")}
    return {
        (
            s.name.removeprefix("model_comparison_"),
            *(v for k, v in s.labels.items() if k in {"measure", "side"}),
        ): s.value
        for s in samples
    }


def as_metrics(document: dict[str, Any]) -> dict[tuple[str, ...], float]:
    """What is to be exported of a document."""
    verdicts = {"worse": -1.0, "not proven": 0.0, "better": 1.0}
    decision = {"rollback": -1.0, "wait": 0.0, "promote": 1.0}[document["decision"]]
    metrics: dict[tuple[str, ...], float] = {
        ("shared_seconds",): document["shared_seconds"],
        ("decision",): decision,
    }
    for measure in document["measures"]:
        name = measure["name"]
        for side in ("before", "after"):
            metrics["value", name, side] = measure[side]["value"]
            metrics["observations", name, side] = measure[side]["n"]
        metrics["verdict", name] = verdicts[measure["verdict"]]
        for metric, key in (("difference", "value"), ("difference_lower", "low"), ("difference_upper", "high")):
            metrics[metric, name] = measure["difference"][key]
    return metrics


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that scraped version 1, and in the end version 2, too."""
    with seen_by_prometheus(tmp_path_factory.mktemp("seen")) as url:
        yield url


def test_an_incident_before_the_deployment_is_not_held_against_a_version(tmp_path: Path, prometheus: str) -> None:
    """The exporter, its metrics and the command find the same, over the time in which both served."""
    with exporter_of(tmp_path, prometheus_url=prometheus) as exporter:
        scene(exporter)
        live = asked(create_app(exporter).test_client())
        looked_at = asked(create_app(exporter).test_client(), "?model=credit&sequential=true")
        exporter.comparisons.refresh()
        metrics = exported(exporter)
    assert live["shared_seconds"] == pytest.approx((END - DEPLOYED - 1) * STEP)
    assert [live[side]["attempts"] for side in ("before", "after")] == [31 * PER_STEP] * 2
    by_name = {measure["name"]: measure for measure in live["measures"]}
    assert by_name["confident_ratio"]["before"]["value"] == 0.9  # and not 0.65, as over its 28 minutes
    assert by_name["confident_ratio"]["difference"]["value"] == pytest.approx(-0.1)
    assert {name: measure["verdict"] for name, measure in by_name.items()} == {
        "error_ratio": "not proven",
        "latency_p95_seconds": "not proven",
        "confident_ratio": "worse",
        "correction_ratio": "worse",
        "worst_drift_nats": "not proven",
    }
    assert live["summary"].startswith(
        "Version 2 compared with version 1: worse in confident ratio and correction ratio;"
    )
    periods = metrics.pop(("start_timestamp_seconds",)), metrics.pop(("end_timestamp_seconds",))
    assert periods == pytest.approx((BEGIN + (DEPLOYED + 1) * STEP, BEGIN + END * STEP), abs=STEP, rel=0)
    assert metrics == pytest.approx(as_metrics(looked_at))
    output = run_command("compare", f"--prometheus={prometheus}", "--format=json", "--model=credit").stdout
    document = json.loads(output)
    assert document["measures"] == live["measures"]
    assert document["summary"] == live["summary"]
    assert document["shared_seconds"] == pytest.approx(live["shared_seconds"])


def test_a_decision_holds_at_every_look(tmp_path: Path, prometheus: str) -> None:
    """The decision waits while the evidence is not enough, and says for what.

    Margins of the configuration decide: without one a version that is corrected more often is rolled back, and with
    large ones it is promoted.
    """
    with exporter_of(tmp_path, prometheus_url=prometheus) as exporter:
        client = create_app(exporter).test_client()
        fixed, looked_at = asked(client), asked(client, "?model=credit&sequential=true")
        assert asked(client, "?model=credit&sequential=false")["measures"] == fixed["measures"]
        assert client.get("/v1/compare?model=credit&sequential=yes").status_code == 400
    assert (fixed["sequential"], "decision" in fixed, looked_at["sequential"]) == (False, False, True)
    measures = {measure["name"]: measure for measure in looked_at["measures"]}
    for measure in fixed["measures"]:
        other = measures[measure["name"]]
        assert [other[side]["value"] for side in ("before", "after", "difference")] == [
            measure[side]["value"] for side in ("before", "after", "difference")
        ]
        if measure["name"] != "latency_p95_seconds":  # whose ends are bounds of buckets
            assert other["difference"]["low"] < measure["difference"]["low"]
            assert other["p_value"] >= measure["p_value"]
    assert (measures["confident_ratio"]["verdict"], measures["confident_ratio"]["decision"]) == ("worse", "wait")
    assert looked_at["decision"] == "wait"
    assert [reason.partition(": worse by ")[0] for reason in looked_at["reasons"]] == [
        "Error ratio",
        "Confident ratio",
        "Correction ratio",
        "Worst feature drift",
    ]
    assert "which is neither within nor beyond the margin of 5.0 points" in looked_at["reasons"][1]
    refused = with_margins(tmp_path, prometheus, {"correction_ratio": 0})
    assert refused["decision"] == "rollback"
    assert refused["reasons"] == ["Correction ratio: worse by more than the margin of 0.0 points."]
    missing = with_margins(
        tmp_path,
        prometheus,
        {"error_ratio": 0.2, "confident_ratio": 0.3, "correction_ratio": 0.5, "worst_drift_nats": 3, "accuracy": 1},
    )
    assert missing["decision"] == "wait"
    assert missing["reasons"] == ["Accuracy: there are no data, and it has a margin."]

    margins = {"confident_ratio": 0.3, "correction_ratio": 0.5, "error_ratio": 0.2, "worst_drift_nats": 3}
    allowed = with_margins(tmp_path, prometheus, margins)
    assert allowed["decision"] == "promote"
    assert {measure["name"]: measure["margin"] for measure in allowed["measures"]}.items() >= margins.items()
    assert allowed["reasons"][0] == "Error ratio: not worse by more than the margin of 20.0 points."
    assert len(allowed["reasons"]) == 4


def test_without_prometheus_there_is_no_comparison(tmp_path: Path) -> None:
    """The answer names the key that is missing; the metrics are absent, and no error."""
    with exporter_of(tmp_path) as exporter:
        scene(exporter)
        answer = create_app(exporter).test_client().get("/v1/compare?model=credit")
        assert (answer.status_code, answer.json["detail"]) == (
            404,
            "versions are compared by the counts in Prometheus: set its URL as prometheus_url in exporter.yml",
        )
        exporter.comparisons.refresh()
        assert exported(exporter) == {}


@pytest.mark.parametrize(
    ("served", "expected"),
    [
        ("bbbb", []),  # one version
        ("bbaa", []),  # one replaces the other
        ("bbxxx", [(3, 5)]),  # the step in which the second one appears counts for neither
        ("x" + "b" * 5 + "a" + "x", [(1, 8)]),  # each serves now and then
        ("x" + "b" * 99 + "xx", [(101, 102)]),  # one was away for long
        ("xx" + "." * 999 + "xx", [(1, 1003)]),  # neither served in the night
        ("xx" + "b" * 99 + "xx", [(1, 2), (102, 103)]),
    ],
)
def test_the_shared_time_is_that_in_which_both_serve(served: str, expected: list[tuple[int, int]]) -> None:
    """A stretch begins and is extended as documented: b before alone, a after alone, x both, . neither."""
    before, after = ({number for number, step in enumerate(served, 1) if step in kinds} for kinds in ("bx", "ax"))
    assert stretches(before, after, round(GAP_SECONDS / STEP_SECONDS)) == expected


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("", 400, 'model: is required, one of "credit" or'),
        ("?model=credits", 400, 'no model "credits" is configured; did you mean "credit"?'),
        ("?model=credit&version=2", 400, 'the parameter "version" is not known; '),
        ("?model=credit&before=%00", 400, "before: expected text without the character NUL"),
        ("?model=credit&after=9", 404, 'version "9" of "credit" is not known; valid values: 1, 2, 3'),
        ("?model=credit&before=1&after=1", 404, 'before and after are the same version "1"'),
        ("?model=credit&before=1&after=3", 404, "version '3' of 'credit' has no data from 20"),
        ("?model=credit&after=1", 404, "has no data from 20"),
        ("?model=%22%3E%3Cscript%3E", 404, "Prometheus has no data of a model '\"><script>'"),
        ("?model=credit&after=%22%3E%3Cscript%3E", 404, 'version "\\"><script>" of "credit" is not known'),
        ("?model=credit&after=" + "9" * 10_000, 404, "is not known; valid values: 1, 2, 3"),
    ],
)
def test_what_cannot_be_compared_is_an_error(client: FlaskClient, query: str, status: int, detail: str) -> None:
    """Each error is a problem document that says what would be right; none is long, whatever was asked for."""
    answer = client.get(f"/v1/compare{query}")
    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert detail in answer.json["detail"]
    assert len(answer.text) < 2000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """Versions 1 and 2 served together, and version 3 an hour before them."""
    folder, past = tmp_path_factory.mktemp("compare"), dict[str, Points]()
    for name in ("alone", "together", "prometheus"):
        (folder / name).mkdir()
    with exporter_of(folder / "alone") as exporter:
        for step in range(1, 5):
            serve(exporter, "3", 16, 0, 0, time.monotonic() + step * STEP)
            scrape(exporter, BEGIN - 3600 + step * STEP, past)
    with exporter_of(folder / "together") as exporter:
        past |= scene(exporter)
    with prometheus_of(folder / "prometheus", past) as url, exporter_of(folder, prometheus_url=url) as exporter:
        yield create_app(exporter).test_client()


def test_the_metrics_are_refreshed_in_a_thread(tmp_path: Path, prometheus: str) -> None:
    """They appear without a request, and a model that is no longer configured has none."""
    with exporter_of(tmp_path) as exporter:
        monitors = exporter.pipeline.monitors
        comparisons = Comparisons(
            lambda: monitors, lambda: Prometheus(prometheus), shadow=exporter.pipeline.shadow, seconds=0.01
        )
        scheduler = Scheduler([comparisons])
        scheduler.start()
        assert comparisons.lines() == []
        scene(exporter)
        eventually(comparisons.lines)
        monitors = MonitorRegistry({}, {})
        eventually(lambda: not comparisons.lines())
        scheduler.close()


def test_versions_may_have_any_name(tmp_path: Path) -> None:
    """Quotes, HTML, other scripts and 128 characters come back as they are."""
    old, new = 'a "b" \\ 版', "<b>'&{}$" + "x" * 120
    past: dict[str, Points] = {}
    clock = time.monotonic() + 1e6
    with exporter_of(tmp_path) as exporter:
        for step in range(1, 13):
            serve(exporter, old, 18, 0, 0, clock + step * STEP)
            if step > 9:  # Prometheus is asked minute by minute when a version appeared
                serve(exporter, new, 16, 0, 0, clock + step * STEP)
            scrape(exporter, BEGIN + step * STEP, past)
    (tmp_path / "prometheus").mkdir()
    with prometheus_of(tmp_path / "prometheus", past) as url, exporter_of(tmp_path, prometheus_url=url) as exporter:
        found = asked(create_app(exporter).test_client())
        exporter.comparisons.refresh()
        families = text_string_to_metric_families(exporter.metrics("", ())[0].decode())
        samples = [s for family in families for s in family.samples if "_comparison_" in s.name]
    assert {(s.labels["before"], s.labels["after"]) for s in samples} == {(old, new)}
    assert [found[side]["version"] for side in ("before", "after")] == [old, new]
    assert [found[side]["attempts"] for side in ("before", "after")] == [2 * PER_STEP] * 2


def test_either_version_may_be_the_one_before(client: FlaskClient) -> None:
    """The versions may be named in either order; verdicts turn around."""
    orders = "?model=credit&before=1&after=2", "?model=credit&before=2&after=1"
    asked_twice = ([asked(client, order) for order in orders] for _ in range(20))
    there, back = next(pair for pair in asked_twice if pair[0]["before"] == pair[1]["after"])  # in the same second
    assert [m["difference"]["value"] for m in there["measures"]] == [
        -m["difference"]["value"] for m in back["measures"]
    ]
    assert back["measures"][2]["verdict"] == "better"


def test_a_prometheus_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    """The request gets a 502 that names the key, and the metrics report it: numbers of one replica would be others."""
    with exporter_of(tmp_path, prometheus_url=nobody()) as exporter:
        scene(exporter)
        answer = create_app(exporter).test_client().get("/v1/compare?model=credit")
        assert answer.status_code == 502
        assert "Prometheus cannot be reached (Connection refused); set another URL with prometheus_url" in answer.text
        exporter.comparisons.refresh()
        text = exporter.metrics("", ())[0].decode()
    assert 'model_exporter_collector_success{collector="comparisons"} 0.0' in text
    assert "model_comparison" not in text


def test_an_error_in_one_comparison_leaves_no_old_numbers(
    tmp_path: Path, prometheus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of a comparison that fails are dropped, and each scrape gets an error of its own."""
    with exporter_of(tmp_path, prometheus_url=prometheus) as exporter:
        scene(exporter)
        exporter.comparisons.refresh()
        assert exporter.comparisons.lines()
        monkeypatch.setattr("exporter.server.tasks.comparisons.at_every_look", lambda _: 1 / 0)
        exporter.comparisons.refresh()
        errors = []
        for _ in range(2):
            with pytest.raises(ExporterError, match="versions of 'credit' are not compared; see") as raised:
                exporter.comparisons.lines()
            errors.append(raised.value)
        assert errors[0] is not errors[1]
        monkeypatch.undo()
        exporter.comparisons.refresh()
        assert exporter.comparisons.lines()


def test_a_replica_that_is_scraped_rarely_is_not_counted_from_its_start(tmp_path: Path) -> None:
    """In a short period a counter counts from its value before, even if it was scraped a minute before."""
    past: dict[str, Points] = {
        'model_attempts_total{model="credit",version="1",instance="a"}': [(BEGIN, 1000.0), (BEGIN + 4 * STEP, 1010.0)],
        'model_attempts_total{model="credit",version="1",instance="new"}': [(BEGIN + 4 * STEP, 3.0)],
    }
    (tmp_path / "prometheus").mkdir()
    with prometheus_of(tmp_path / "prometheus", past) as url:
        period = Period(BEGIN + 3 * STEP, BEGIN + 4 * STEP)
        assert count(Prometheus(url), "credit", "1", period).attempts == 13


PERIOD = Period(0, 3600)


def counts(attempts: float = 1000, **quality: Any) -> Counts:
    return Counts(attempts, 0, attempts, attempts, 0, 0, (), (), {}, (), Quality(**quality))


def quality_of(before: Counts, after: Counts) -> Measure | None:
    found = [measure for measure in compare(before, after) if measure.basis]
    return found[0] if found else None


def said(before: Counts, after: Counts) -> str:
    comparison = Comparison("m", Side("1", PERIOD, before), Side("2", PERIOD, after), compare(before, after), 3600)
    measure = next(measure for measure in comparison.measures if measure.basis)
    if measure.verdict in {"better", "worse"}:
        assert f"{measure.verdict} in {measure.basis} {measure.name.replace('_', ' ')}" in summary(comparison)
    assert document(comparison)["measures"][-1]["basis"] == measure.basis
    return sentence(comparison, measure)


def test_accuracy_is_measured_where_both_sides_have_labels() -> None:
    """With labels on both sides their shares are compared, whatever the estimates say."""
    before = counts(labelled=1000, correct=800, estimated=IntervalEstimate(0.99, 0.98, 1.0))
    after = counts(labelled=500, correct=450, estimated=IntervalEstimate(0.5, 0.4, 0.6))
    measure = quality_of(before, after)
    assert measure
    assert (measure.name, measure.basis, measure.verdict, measure.observations) == (
        "accuracy", "measured", "better", (1000, 500),
    )  # fmt: skip
    assert measure.difference
    assert measure.difference.value == pytest.approx(0.1)
    assert said(before, after).startswith(
        "Version 2 is right more often by its labels: 90.0% of predictions against 80"
    )


def test_accuracy_is_estimated_where_one_side_has_too_few_labels() -> None:
    """Estimates are compared by their bands; overlapping ones prove nothing."""
    before = counts(labelled=1000, correct=900, estimated=IntervalEstimate(0.9, 0.88, 0.92))
    after = counts(labelled=MIN_LABELS - 1, correct=0, estimated=IntervalEstimate(0.8, 0.78, 0.82))
    measure = quality_of(before, after)
    assert measure
    assert (measure.basis, measure.verdict, measure.observations) == ("estimated", "worse", (1000, 1000))
    assert said(before, after).startswith("Version 2 is right less often as estimated: 80.0% of predictions against 90")
    near = counts(estimated=IntervalEstimate(0.89, 0.86, 0.92))
    assert said(before, near).startswith("Estimated accuracy: no significant difference, 89.0%")


def test_errors_of_numbers_are_compared_by_their_mean() -> None:
    """A regression has a mean absolute error, of which less is better."""
    before = counts(labelled=400, absolute_error=800.0, squared_error=2000.0, regression=True)
    after = counts(labelled=400, absolute_error=400.0, squared_error=500.0, regression=True)
    measure = quality_of(before, after)
    assert measure
    assert (measure.name, measure.verdict) == ("mean_absolute_error", "better")
    assert said(before, after).startswith(
        "Version 2 has smaller errors by its labels: 1 against 2; the difference of -1 ("
    )


@pytest.mark.parametrize(
    ("after", "verdict"), [(counts(), None), (counts(estimated=IntervalEstimate(0.9, 0.8, 1.0)), "unknown")]
)
def test_what_is_not_known_is_not_compared(after: Counts, verdict: str | None) -> None:
    """Without labels and estimates nothing is said; with those of one side, that the other has none."""
    measure = quality_of(counts(), after)
    assert (measure and measure.verdict) == verdict
    if verdict:
        assert said(counts(), after) == (
            "Estimated accuracy: not compared, one side has neither enough labels nor an estimate."
        )


def test_stretches_of_time_are_added() -> None:
    """Counts of labels are summed, and estimates averaged by the number of predictions."""
    parts: Sequence[Counts] = (
        counts(300, labelled=10, correct=5, estimated=IntervalEstimate(0.9, 0.8, 1.0)),
        counts(100, labelled=20, correct=9, estimated=IntervalEstimate(0.5, 0.4, 0.6)),
        counts(0),
    )
    quality = add(parts).quality
    assert quality[:2] == (30, 14)
    assert quality.estimated == pytest.approx((0.8, 0.7, 0.9))
