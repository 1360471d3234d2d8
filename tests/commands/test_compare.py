from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from support import programs
from support.fake_exporter import Exporter
from support.past import Points, prometheus_of
from support.processes import run_command
from support.programs import scraping
from support.servers import ask, eventually, free_port, serving, write_config

from exporter.comparison.measures import Comparison, Counts, Feature, Period, Side, add, compare, document, utc_time
from exporter.config import DURATION_BUCKETS
from exporter.stats.intervals import (
    bucket_quantile,
    conservative_difference,
    difference,
    divergence,
    excludes_zero,
    share,
)

# --- the statistics --------------------------------------------------------------------------


@settings(deadline=None)  # the first call loads parts of scipy
@given(st.integers(0, 200), st.integers(1, 200), st.integers(0, 200), st.integers(1, 200))
def test_the_p_value_agrees_with_the_interval(a: int, n: int, b: int, m: int) -> None:
    """The interval of a difference excludes zero exactly where its p-value is below 5%, in either direction."""
    before, after = share(min(a, n), n), share(min(b, m), m)
    for method in (difference, conservative_difference):
        result, back = method(before, after), method(after, before)
        assert result.interval.low - 1e-9 <= result.value <= result.interval.high + 1e-9
        assert (result.p_value < 0.05) == excludes_zero(result.interval)
        assert result.p_value == pytest.approx(back.p_value, abs=1e-9)
        assert result.interval == pytest.approx((-back.interval.high, -back.interval.low))


def test_the_interval_of_a_difference_of_shares_has_its_coverage() -> None:
    """Over all outcomes of two small samples, weighted exactly, the true difference is inside 95% of the time."""
    n, m = 60, 90
    for p, q in ((0.02, 0.05), (0.1, 0.1), (0.3, 0.5)):
        inside = sum(
            binom.pmf(a, n, p) * binom.pmf(b, m, q)
            for a in range(n + 1)
            for b in range(m + 1)
            if binom.pmf(a, n, p) * binom.pmf(b, m, q) > 1e-9
            and (result := difference(share(a, n), share(b, m)).interval).low <= q - p <= result.high
        )
        assert 0.93 < inside < 0.99


def test_the_interval_of_a_quantile_has_its_coverage() -> None:
    """The 95th percentile of exponential times lies within the interval in 95% of samples at least."""
    rng = np.random.default_rng(3)
    bounds = [*np.linspace(0.1, 5, 50), math.inf]
    truth, inside = -math.log(0.05), 0
    for _ in range(400):
        times = rng.exponential(1, 300)
        counts = [int((times <= bound).sum()) for bound in bounds]
        low, high = bucket_quantile(bounds, counts, 0.95).interval()
        inside += low <= truth <= high
    assert inside >= 380


@pytest.mark.parametrize(("shift", "coverage"), [(0.0, 0.95), (0.2, 0.93), (1.0, 0.93)])
def test_the_interval_of_a_divergence_has_its_coverage(shift: float, coverage: float) -> None:
    """At 2,000 observations, without drift and with some, the interval covers the divergence that the prior leaves."""
    rng = np.random.default_rng(5)
    bins, n = 20, 2000
    training = np.full(bins, 1 / bins)
    live = training * np.exp(shift * np.linspace(-1, 1, bins))
    live /= live.sum()
    blend = (n * live + bins / 2 * training) / (n + bins / 2)
    truth = max(float((blend * np.log(blend / training)).sum()), 0.0)
    inside = 0
    for _ in range(400):
        low, high = divergence(rng.multinomial(n, live).astype(float), training).interval()
        inside += low <= truth <= high
    assert inside >= coverage * 400 - 4


def drawn(rng: np.random.Generator, n: int, corrected: float) -> Counts:
    """A version's requests by chance: 1% errors, 80% confident, and four features that have drifted a little."""
    confident = int(rng.binomial(n, 0.8))
    times, bounds = rng.exponential(0.1, n), (*DURATION_BUCKETS, math.inf)
    training = np.full(24, 1 / 24)
    live = training * np.exp(0.1 * np.linspace(-1, 1, 24))
    features = {
        name: Feature(rng.multinomial(n, live / live.sum()).astype(float), training) for name in ("a", "b", "c", "d")
    }
    return Counts(
        requests=n,
        errors=int(rng.binomial(n, 0.01)),
        attempts=n,
        confident=confident,
        corrections=int(rng.binomial(confident, corrected)),
        feedback=1,
        bounds=bounds,
        durations=tuple(float((times <= bound).sum()) for bound in bounds),
        features=features,
        changed=(),
    )


def test_counts_of_two_periods_are_added() -> None:
    """Histograms add up bucket by bucket; a feature whose training distribution differs is left out."""
    rng = np.random.default_rng(4)
    first, second = drawn(rng, 100, 0.1), drawn(rng, 300, 0.1)
    second.features["b"] = Feature(second.features["b"].counts, np.full(24, 0.5))
    del second.features["c"]
    both = add([first, second])
    assert (both.requests, both.confident) == (400, first.confident + second.confident)
    assert both.durations == tuple(np.add(first.durations, second.durations))
    assert both.changed == ("b",)
    assert {name: feature.counts.sum() for name, feature in both.features.items()} == {"a": 400, "c": 100, "d": 400}
    assert add([first, first._replace(bounds=(), durations=())]).durations == first.durations


def test_five_verdicts_together_are_rarely_wrong() -> None:
    """Two equal versions get a verdict in at most 5% of comparisons; a better one is found."""
    rng = np.random.default_rng(1)
    alike = [compare(drawn(rng, 300, 0.01), drawn(rng, 1000, 0.01)) for _ in range(200)]
    assert sum(any(metric.significant for metric in metrics) for metrics in alike) <= 10
    better = [compare(drawn(rng, 1000, 0.03), drawn(rng, 1000, 0.005)) for _ in range(50)]
    assert sum(metrics[3].verdict == "better" for metrics in better) >= 40
    assert all(metric.verdict != "worse" for metrics in better for metric in metrics[3:4])


def test_a_regression_is_compared_by_its_corrections() -> None:
    """Where every prediction is confident, the confident ratio is not compared, and asks nothing of other measures."""
    nothing = drawn(np.random.default_rng(2), 600, 0)._replace(errors=0, bounds=(), durations=(), features={})
    sides = [nothing._replace(confident=600, corrections=corrected) for corrected in (110, 80)]
    period = Period(0, 3600)
    before, after = (Side(version, period, counts) for version, counts in zip("12", sides, strict=True))
    result = document(Comparison("m", before, after, compare(*sides)))
    measures = {measure["name"]: measure for measure in result["measures"]}
    confident, corrected = measures["confident_ratio"], measures["correction_ratio"]
    assert (confident["before"]["value"], confident["after"]["n"], confident["difference"]) == (1.0, 600, None)
    assert confident["sentence"] == "Confident ratio: not compared, every prediction was confident."
    assert corrected["before"]["value"] == pytest.approx(110 / 600)
    assert (corrected["verdict"], corrected["p_value"] > 0.05 / 3) == ("better", True)
    some = nothing._replace(confident=599)
    assert compare(sides[0], some)[2].verdict == "not proven"


# --- a real Prometheus with a past of known counts -------------------------------------------

STEP = 15
BEGIN = int(time.time()) // 3600 * 3600 - 6 * 3600
"""Six hours ago; the past is three hours long."""
MIDDLE = BEGIN + 3600


def linear(start: int, end: int, each: float, first: float = 0.0) -> Points:
    """Return the samples of a counter that increases by ``each`` from scrape to scrape."""
    return [(at, first + each * (at - start) / STEP) for at in range(start, end + 1, STEP)]


def constant(start: int, end: int, value: float) -> Points:
    """Return the samples of a gauge, the end excluded."""
    return [(at, value) for at in range(start, end, STEP)]


def of_version(version: str, start: int) -> dict[str, Points]:
    """Return the series of a version of the model digits, until the end of the second hour."""
    younger = version == "2"
    labels = f'model="digits",version="{version}"'
    end = BEGIN + 2 * 3600
    series = {f'model_info{{{labels},profile="p"}}': constant(start, end + 1, 1.0)}
    # The series of version 2 begin at their first values: after 240 scrapes 2,400 requests, none of them lost.
    first = 1.0 if younger else 0.0
    for name, each in (("model_attempts_total", 10), ("model_confident_predictions_total", 8)):
        series[f"{name}{{{labels}}}"] = linear(start, end, each, first * each)
    series[f'model_requests_total{{{labels},code="200"}}'] = linear(start, end, 9.5, first * 9.5)
    # Version 2 fails only half as often; its errors begin on a replica of their own, with one value.
    errors = constant(MIDDLE + 1800, end + 1, 60.0) if younger else linear(start, end, 0.5)
    series[f'model_requests_total{{{labels},code="503",instance="b"}}'] = errors
    series[f'model_feedback_total{{{labels},verdict="corrected"}}'] = linear(start, end, 0.25, first * 0.25)
    series[f"model_corrections_total{{{labels}}}"] = linear(start, end, 0.025 if younger else 0.25, first * 0.025)
    for le, each in (("0.1", 9), ("0.25", 9.4), ("0.5", 10 if younger else 9.8), ("+Inf", 10)):
        name = f'model_request_duration_seconds_bucket{{{labels},le="{le}"}}'
        series[name] = linear(start, end, each, first * each)
    for bin_, each in (("00 a", 5 if younger else 8), ("01 b", 5 if younger else 2)):
        bin_labels = f'{labels},feature="age",bin="{bin_}"'
        series[f"model_feature_reference_probability{{{bin_labels}}}"] = constant(start, end + 1, 0.5)
        series[f"model_feature_observations_total{{{bin_labels}}}"] = linear(start, end, each, first * each)
    return series


def of_restart() -> dict[str, Points]:
    """Return the series of one version whose exporter restarts in the middle of the second hour: 1,200 and 1,200."""
    labels = 'model="reset",version="1"'
    series = {}
    for name in (f'model_requests_total{{{labels},code="200"}}', f"model_attempts_total{{{labels}}}"):
        series[name] = linear(BEGIN, MIDDLE + 1800, 10) + linear(MIDDLE + 1800 + STEP, BEGIN + 2 * 3600, 10, 10)
    # Its profile changed with the restart: two kinds of bins, which do not go together.
    for bin_ in ("00 a", "01 b", "00 c", "01 d"):
        bin_labels = f'{labels},feature="age",bin="{bin_}"'
        series[f"model_feature_reference_probability{{{bin_labels}}}"] = constant(BEGIN, MIDDLE + 3600, 0.5)
        series[f"model_feature_observations_total{{{bin_labels}}}"] = linear(BEGIN, MIDDLE + 3600, 5)
    series[f'model_info{{{labels},profile="none"}}'] = constant(BEGIN, MIDDLE, 1.0)
    return series


def of_replacement() -> dict[str, Points]:
    """Return the series of a version that replaced another one at once, so that they never served together."""
    series = {}
    for version, start in (("1", BEGIN), ("2", MIDDLE + STEP)):
        labels = f'model="replaced",version="{version}"'
        series[f'model_info{{{labels},profile="none"}}'] = constant(start, start + 3600 - STEP, 1.0)
        for name in (f'model_requests_total{{{labels},code="200"}}', f"model_attempts_total{{{labels}}}"):
            series[name] = linear(start, start + 3600 - STEP, 10, 10)
    return series


def of_outage() -> dict[str, Points]:
    """Return the series of two versions, of which one retires, and of a Prometheus that is then down for 10 minutes."""
    series = {}
    for version, end in (("1", BEGIN + 3600), ("2", BEGIN + 600)):
        labels = f'model="outage",version="{version}"'
        counter = linear(BEGIN, end, 10, 10)
        counter += constant(end + STEP, BEGIN + 3600, counter[-1][1])
        for name in (f'model_requests_total{{{labels},code="200"}}', f"model_attempts_total{{{labels}}}"):
            series[name] = [point for point in counter if not BEGIN + 660 < point[0] < BEGIN + 1260]
        series[f'model_info{{{labels},profile="none"}}'] = [(at, 1.0) for at, _ in series[name]]
    return series


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two versions that share the traffic of the second hour, one that restarts, and one that replaces another."""
    past = of_version("1", BEGIN) | of_version("2", MIDDLE) | of_restart() | of_replacement() | of_outage()
    with prometheus_of(tmp_path_factory.mktemp("compare"), past) as url:
        yield url


def run(*arguments: str) -> tuple[int, str, str]:
    process = run_command("compare", *arguments)
    return process.returncode, process.stdout, process.stderr


def compared(prometheus: str, *arguments: str, status: int = 0) -> dict[str, Any]:
    code, out, err = run(f"--prometheus={prometheus}", "--format=json", *arguments)
    assert (code, err) == (status, "")
    result: dict[str, Any] = json.loads(out)
    return result | {"measures": {measure["name"]: measure for measure in result["measures"]}}


HOUR_TWO = (f"--from={utc_time(MIDDLE - 60)}", f"--to={utc_time(BEGIN + 2 * 3600)}")


def test_two_versions_are_compared_by_exact_counts(prometheus: str) -> None:
    """Counts are exact, including first values of new series, and the results are those computed by hand."""
    result = compared(prometheus, "--model=digits", *HOUR_TWO)
    names = ("version", "requests", "errors", "attempts", "confident", "corrections")
    assert [result["before"][name] for name in names] == ["1", 2400, 120, 2400, 1920, 60]
    assert [result["after"][name] for name in names] == ["2", 2340, 60, 2400, 1920, 6]
    errors = result["measures"]["error_ratio"]
    assert errors["before"] == pytest.approx({"value": 0.05, "low": 0.041977, "high": 0.059461, "n": 2400}, abs=1e-6)
    assert errors["after"]["value"] == pytest.approx(60 / 2340)
    # Newcombe by hand: d = -0.024359, and the arms 0.059461 - 0.05 and 0.025641 - 0.019972, and so on.
    assert errors["difference"] == pytest.approx({"value": -0.024359, "low": -0.035388, "high": -0.013563}, abs=1e-6)
    corrections = result["measures"]["correction_ratio"]
    assert corrections["before"]["value"] == pytest.approx(60 / 1920)
    assert corrections["after"]["value"] == pytest.approx(6 / 1920)
    assert corrections["verdict"] == errors["verdict"] == "better"
    assert corrections["sentence"] == (
        "Version 2 is corrected less often: 0.31% of confident predictions against 3.1%; "
        "the difference of -2.8 points (-3.7 to -2.0) is statistically significant."
    )
    assert result["measures"]["confident_ratio"]["verdict"] == "not proven"
    # 94% are at or below 0.25 s; to within chance so may be 95%, but 90% may not.
    latency = result["measures"]["latency_p95_seconds"]
    assert latency["before"] == pytest.approx({"value": 0.25 + 0.25 * 0.1 / 0.4, "low": 0.25, "high": 0.5, "n": 2400})
    assert latency["after"] == pytest.approx({"value": 0.25 + 0.25 * 0.1 / 0.6, "low": 0.25, "high": 0.5, "n": 2400})
    assert latency["difference"] == pytest.approx({"value": -1 / 48, "low": -0.25, "high": 0.25})
    assert latency["verdict"] == "not proven"
    drift = result["measures"]["worst_drift_nats"]
    plain = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert drift["before"]["value"] == pytest.approx(plain, abs=0.002)
    assert drift["after"] == pytest.approx(
        {"value": 0.0, "low": 0.0, "high": 1.96 * math.sqrt(0.5) / 2400, "n": 2400}, abs=1e-5
    )
    assert drift["features"] == ["age", "age"]
    assert drift["verdict"] == "better"


def test_versions_are_chosen_by_when_they_appeared(prometheus: str) -> None:
    """By default the last two versions are compared; with one name the other is its neighbour or the newest."""
    assert compared(prometheus, "--model=digits", *HOUR_TWO)["before"]["version"] == "1"
    turned = compared(prometheus, "--model=digits", "--before=2", *HOUR_TWO)
    assert (turned["before"]["version"], turned["after"]["version"]) == ("2", "1")
    assert turned["measures"]["error_ratio"]["verdict"] == "worse"


def test_both_versions_are_compared_over_the_same_period(prometheus: str) -> None:
    """The period is the part of the window in which both versions served, whatever the window's length."""
    end = utc_time(MIDDLE + 1200)
    for window in ((), ("--last=1h",), ("--last=20m",), (f"--from={utc_time(BEGIN)}",)):
        short = compared(prometheus, "--model=digits", f"--to={end}", *window)
        begins = MIDDLE + STEP if window == ("--last=20m",) else MIDDLE
        assert [short[side][name] for side in ("before", "after") for name in ("from", "to")] == [
            utc_time(begins), end,
        ] * 2  # fmt: skip
        assert short["shared_seconds"] == MIDDLE + 1200 - begins
        assert (short["before"]["requests"], short["after"]["attempts"]) == (
            (800, 800) if begins == MIDDLE else (790, 790)
        )
    whole = compared(prometheus, "--model=digits")
    assert (whole["before"]["requests"], whole["shared_seconds"]) == (2400, 3600)


def test_two_periods_of_one_version_are_compared(prometheus: str) -> None:
    """The later period is compared with the earlier, each with its own counts."""
    begins = (f"--before-from={utc_time(BEGIN)}", f"--after-from={utc_time(MIDDLE)}")
    result = compared(prometheus, "--model=digits", "--after=1", *begins, "--last=30m")
    assert [result[side]["requests"] for side in ("before", "after")] == [1200, 1200]
    assert {measure["verdict"] for measure in result["measures"].values()} == {"not proven"}
    assert "The period from" not in result["measures"]["error_ratio"]["sentence"]  # nothing is real, so nobody is named


def test_a_restart_loses_at_most_two_scrapes(prometheus: str) -> None:
    """A counter that was reset is estimated to within a scrape or two."""
    begins = (f"--before-from={utc_time(BEGIN)}", f"--after-from={utc_time(MIDDLE)}")
    result = compared(prometheus, "--model=reset", *begins)
    assert result["before"]["requests"] == 2400
    assert result["after"]["requests"] == pytest.approx(2400, abs=25)
    assert result["measures"]["correction_ratio"]["before"] is None
    assert "no feedback came in that time" in result["measures"]["correction_ratio"]["sentence"]
    assert "without duration_seconds" in result["measures"]["latency_p95_seconds"]["sentence"]
    assert result["measures"]["worst_drift_nats"]["verdict"] == "unknown"
    assert "the training profile changed meanwhile" in result["measures"]["worst_drift_nats"]["sentence"]


def test_a_retired_version_does_not_serve_again_after_an_outage(prometheus: str) -> None:
    """The series of a retired version come back when Prometheus does; the shared time still ends where it retired."""
    result = compared(prometheus, "--model=outage", f"--to={utc_time(BEGIN + 3600)}")
    assert [result["after"][name] for name in ("from", "to")] == [utc_time(BEGIN), utc_time(BEGIN + 600)]
    assert [result[side]["requests"] for side in ("before", "after")] == [400, 400]


def test_fail_if_worse_sets_the_exit_status(prometheus: str) -> None:
    """``--fail-if-worse`` ends with 3 where a measure is significantly worse, else with 0."""
    code, out, _ = run(f"--prometheus={prometheus}", "--model=digits", "--fail-if-worse", *HOUR_TWO)
    assert code == 0
    assert "correction ratio" in out
    assert "better" in out
    turned = ("--model=digits", "--before=2", "--after=1", *HOUR_TWO)
    assert run(f"--prometheus={prometheus}", "--fail-if-worse", *turned)[0] == 3
    assert run(f"--prometheus={prometheus}", *turned)[0] == 0


def test_a_decision_that_may_be_looked_at_at_any_time(prometheus: str) -> None:
    """The decision follows from the margins, is printed with its reasons, and sets the exit status."""
    command = ("--model=digits", "--sequential", *HOUR_TWO)
    wide = ("--margin=error_ratio=0.05", "--margin=worst_drift_nats=1")
    result = compared(prometheus, *command)
    assert (result["sequential"], result["decision"]) == (True, "promote")
    assert result["measures"]["correction_ratio"]["verdict"] == "better"
    fixed = compared(prometheus, "--model=digits", *HOUR_TWO)["measures"]["error_ratio"]["difference"]
    interval = result["measures"]["error_ratio"]["difference"]
    assert interval["low"] < fixed["low"] < fixed["value"] == interval["value"] < fixed["high"] < interval["high"]
    turned = ("--before=2", "--after=1", *command)
    code, out, _ = run(f"--prometheus={prometheus}", *turned, "--fail-if-worse")
    assert (code, out.splitlines()[-2:]) == (
        3,
        ["Decision: rollback", "Correction ratio: worse by more than the margin of 1.0 points."],
    )
    allowed = compared(prometheus, *turned, *wide, "--margin=correction_ratio=0.1", "--fail-if-worse")
    assert (allowed["decision"], allowed["measures"]["error_ratio"]["verdict"]) == ("promote", "worse")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model=digit",), "has no data of a model 'digit'; did you mean \"digits\"?"),
        ((), "set --model to one of: digits, outage, replaced, reset"),
        (
            ("--model=reset",),
            'there is no other version of "reset" to compare with: only "1" is known; compare two periods with',
        ),
        (("--model=digits", "--after=7", *HOUR_TWO), 'version "7" of "digits" is not known; valid values: 1, 2'),
        (("--model=replaced",), 'versions "1" and "2" of "replaced" never served at the same time from'),
        (("--model=digits", "--before=1", "--after=7", *HOUR_TWO), "version '7' of 'digits' has no data from"),
        (("--model=digits", "--before=1", "--after=7", *HOUR_TWO), "versions with data: 1, 2"),
        (("--model=digits", "--before=1", "--after=1"), "are the same version"),
        (("--model=digits", "--last=1h"), "version '1' of 'digits' has no data from"),
        (("--model=digits", f"--from={utc_time(MIDDLE)}", f"--to={utc_time(BEGIN)}"), "end after its start"),
        (("--bearer-token-file=/nowhere/there",), "--bearer-token-file: /nowhere/there: cannot be read: No such file"),
        (("--user=me",), "--password-file: is required with --user"),
    ],
)
def test_invalid_comparisons_are_errors(prometheus: str, arguments: tuple[str, ...], message: str) -> None:
    """Each error has a message with the valid alternative, and exit status 1."""
    code, out, err = run(f"--prometheus={prometheus}", *arguments)
    assert (code, out) == (1, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--margin=error_ratio=0.1",), "--margin needs --sequential"),
        (("--sequential", "--last=1h"), "needs counts from a fixed start on: use --from"),
        ((f"--before-from={utc_time(MIDDLE)}",), "must be set together"),
        ((f"--from={utc_time(MIDDLE)}", "--last=1h"), "cannot be used together"),
    ],
)
def test_options_that_do_not_go_together_are_invalid_usage(arguments: tuple[str, ...], message: str) -> None:
    """The message names the options, and the exit status is that of invalid usage."""
    code, out, err = run("--model=digits", *arguments)
    assert (code, out, message in err) == (2, "", True), err


@pytest.mark.parametrize(
    ("margin", "message"),
    [
        ("error_rate=0.1", 'is not a measure of a comparison; did you mean "error_ratio"?'),
        ("error_ratio", "expected a measure and a number such as error_ratio=0.01"),
        ("error_ratio=nan", "expected a number of at least 0, got NaN"),
    ],
)
def test_a_margin_that_is_none_is_an_error(margin: str, message: str) -> None:
    """The message names the valid measure or the form."""
    code, _, err = run("--sequential", f"--margin={margin}")
    assert (code, message in err) == (2, True), err


def test_an_unreachable_prometheus_is_an_error(prometheus: str) -> None:
    """An unreachable address, and a server that is not Prometheus are reported."""
    code, _, err = run(f"--prometheus=http://127.0.0.1:{free_port()}", "--model=digits")
    assert code == 1
    assert "Prometheus cannot be reached" in err
    assert "--password-file" in run("--prometheus=http://me:secret@127.0.0.1:9", "--model=digits")[2]
    assert "the query failed: 404" in run(f"--prometheus={prometheus}/elsewhere", "--model=digits")[2]


@pytest.mark.parametrize(
    ("flags", "sent"),
    [
        (("--user=me", "--password-file"), "Basic " + base64.b64encode(b"me:t-0k3n").decode()),
        (("--bearer-token-file",), "Bearer t-0k3n"),
    ],
)
def test_credentials_come_from_a_file_and_are_not_shown(
    exporter: Exporter, tmp_path: Path, flags: tuple[str, ...], sent: str
) -> None:
    """The line of the file is sent to Prometheus as a password or a token, and is in no message."""
    exporter.answers = [(401, {}, b"")]
    (tmp_path / "secret").write_text("t-0k3n\n")
    code, out, err = run(f"--prometheus={exporter.url}", *flags[:-1], f"{flags[-1]}={tmp_path / 'secret'}")
    assert (code, [request["headers"]["Authorization"] for request in exporter.requests]) == (1, [sent])
    assert "access denied (401): set --user" in err
    assert "t-0k3n" not in out + err


# --- the whole way: a real exporter ----------------------------------------------------------


def like_training(rng: np.random.Generator, youngest: int) -> dict[str, Any]:
    """Inputs as the profile of `write_config` has them, but for the age."""
    country = rng.choice(["NL", "DE", "FR"], p=[0.6, 0.3, 0.1])
    photo = rng.integers(0, 17, (8, 8)).tolist()
    return {"age": int(rng.integers(youngest, 90)), "income": rng.lognormal(10, 1), "country": country, "photo": photo}


def test_a_real_exporter_is_compared_by_its_counts(tmp_path: Path) -> None:
    """Two versions of a real exporter, scraped by a real Prometheus, have their counts, including drift."""
    write_config(tmp_path)
    started = time.time() - 1
    with ExitStack() as stack:
        exporter = stack.enter_context(serving(tmp_path))
        url = stack.enter_context(programs.prometheus(tmp_path, scraping(exporter))).url
        rng = np.random.default_rng(2)
        for version, youngest, failing in (("1", 18, 30), ("2", 70, 3)):
            events = [
                {"id": f"{version}-{n}", "model": "credit", "version": version, "inputs": like_training(rng, youngest)}
                | {
                    "prediction": "yes",
                    "confidence": 0.9,
                    "duration_seconds": 0.02,
                    "code": 503 if n < failing else 200,
                }
                for n in range(600)
            ]
            assert exporter.post("/v1/predictions", events).status == 202
            feedback_events = [
                {"prediction_id": f"{version}-{n + 100}", "verdict": "corrected", "label": "no"} for n in range(failing)
            ]
            assert exporter.post("/v1/feedback", feedback_events).status == 201
        query = f"{url}/api/v1/query?query=sum(model_requests_total)%2Bsum(model_corrections_total)"

        def scraped() -> bool:
            result = ask(query).json["data"]["result"]
            return bool(result) and float(result[0]["value"][1]) == 1233

        eventually(scraped)
        begins = (f"--before-from={utc_time(started)}", f"--after-from={utc_time(started)}")  # both in one period
        result = compared(url, "--model=credit", "--before=1", "--after=2", *begins, "--last=2m")
        assert [result[side]["requests"] for side in ("before", "after")] == [600, 600]
        assert [result[side]["errors"] for side in ("before", "after")] == [30, 3]
        assert [result[side]["corrections"] for side in ("before", "after")] == [30, 3]
        assert result["measures"]["latency_p95_seconds"]["before"]["high"] == 0.025
        drift = result["measures"]["worst_drift_nats"]
        assert drift["features"][1] == "age"
        assert drift["verdict"] == "worse"
        verdicts = [result["measures"][name]["verdict"] for name in ("error_ratio", "correction_ratio")]
        assert verdicts == ["better", "better"]


def test_answers_to_the_same_requests_are_compared_before_users_see_them(tmp_path: Path) -> None:
    """From the counters of all replicas, with the version that has not served yet; the last pair of several."""
    now = int(time.time())
    past: dict[str, Points] = {}
    for instance, size in (("a", 150), ("b", 50)):
        labels = f'model="price",before="1",after="2",instance="{instance}"'
        totals = {"pairs": 1.0, "disagreements": 0.75, "absolute_difference": 1.5, "squared_difference": 3.5}
        for name, each in totals.items():
            points = [(now - 600, 0.0), (now - 60, each * size)]
            past[f"model_shadow_{name}_total{{{labels}}}"] = points
    past['model_shadow_pairs_total{model="price",before="1",after="0"}'] = [(now - 600, 20.0)]
    with prometheus_of(tmp_path, past) as url:
        command = f"--prometheus={url}", "--model=price"
        status, text, _ = run(*command)
        assert status == 0
        status, output, _ = run(*command, "--after=2", "--format=json")
        assert status == 0
        assert run(*command, "--after=3")[0] == 1
    document = json.loads(output)
    assert [document[side]["version"] for side in ("before", "after")] == ["1", "2"]
    same = document["same_requests"]
    assert (same["pairs"], same["disagreements"]) == (200, 150)
    low, high = share(150, 200).interval()
    assert same["disagreement_ratio"] == pytest.approx({"value": 0.75, "low": low, "high": high})
    assert same["mean_absolute_difference"]["value"] == 1.5
    assert same["sentence"] in text
