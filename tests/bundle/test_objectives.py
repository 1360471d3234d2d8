"""The alerts on objectives with few requests: their probability against scipy's, and what fires when, in promtool."""

from __future__ import annotations

import itertools
import runpy
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
import pytest
from scipy.stats import binom
from support.past import prometheus_of
from support.paths import ROOT
from support.promtool import RULES, check_rules, expected, groups_of, series_of
from support.servers import ask

NOW = 1_700_000_000
INTERVAL = 60
"""Seconds between scrapes, the most that the rules are made for."""


@pytest.fixture(scope="module")
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks" / "studies"))
        import objectives_study  # type: ignore[import-not-found]

        return objectives_study


# ---- the probability


class Case(NamedTuple):
    objective: float
    requests: int
    failures: int


def grid() -> list[Case]:
    """Counts around those that chance exceeds once in a thousand, and far above them."""
    cases = set()
    for objective in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999):
        for n in {int(n) for n in np.geomspace(1, 1e7, 60)}:
            least = int(binom.isf(0.001, n, 1 - objective)) + 1
            counts = {*range(least - 3, least + 4), 2 * least, 20 * least, n - 1, n}
            cases |= {Case(objective, n, k) for k in counts if 2 <= k <= n and k > n * (1 - objective)}
    return sorted(cases)


def probabilities(folder: Path, cases: list[Case]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What Prometheus computes by the rule for each case."""
    series: dict[str, list[tuple[int, float]]] = {}
    at = NOW - 60
    for case in cases:
        model = f'model="{case.objective}"'
        series[f"budget{{{model}}}"] = [(at, round(1 - case.objective, 9))]
        labels = f'{{{model},version="{case.requests} {case.failures}"}}'
        series |= {f"requests{labels}": [(at, case.requests)], f"failures{labels}": [(at, case.failures)]}
    tail = runpy.run_path(str(RULES.parent / "generate.py"))["tail"]
    parameters = urlencode({"query": tail("failures", "requests", "budget", "on (model) group_left ()"), "time": NOW})
    with prometheus_of(folder, series) as url:
        result = {
            (sample["metric"]["model"], sample["metric"]["version"]): float(sample["value"][1])
            for sample in ask(f"{url}/api/v1/query?{parameters}").json["data"]["result"]
        }
    return np.array([result[str(case.objective), f"{case.requests} {case.failures}"] for case in cases])


def test_the_probability_is_a_tight_bound_of_the_binomial_tail(tmp_path: Path, study: ModuleType) -> None:
    """The rule never finds too small a probability, and decides as the exact one does, or one failure later."""
    cases = grid()
    assert len(cases) > 3000
    found = probabilities(tmp_path, cases)
    p = np.array([round(1 - case.objective, 9) for case in cases])
    n, k = (np.array([getattr(case, name) for case in cases], dtype=float) for name in ("requests", "failures"))
    exact = binom.sf(k - 1, n, p)
    precise = exact > 1e-200  # below, scipy's last digits are wrong
    assert (found >= exact * (1 - 1e-6))[precise].all() and (found <= 1e-190)[~precise].all()
    # Where the alerts decide: above six times the budget.
    decided = (k > np.minimum(6 * p, study.HIGHEST_SHARE) * n) & (exact > 1e-12)
    assert np.count_nonzero(decided) > 400
    assert (found <= 1.02 * exact)[decided].all()
    allowed = decided & (exact <= 0.001)
    late = allowed & (found > 0.001)
    assert np.count_nonzero(late) <= 0.01 * np.count_nonzero(allowed)
    assert (binom.sf(k, n, p)[late] <= 0.001 / 1.02).all()
    # The study has the same arithmetic.
    for share in np.unique(p):
        same = p == share
        np.testing.assert_allclose(found[same], study.chance(k[same], n[same], share), rtol=1e-6)


def test_the_probability_is_the_binomial_tail_at_few_requests(study: ModuleType) -> None:
    """Up to a thousand requests, the least number of failures that is more than chance is the exact one."""
    different = 0
    for budget, n in itertools.product((0.1, 0.05, 0.01, 0.001), range(2, 1001)):
        k = np.arange(2, n + 1, dtype=float)
        k = k[k > min(6 * budget, study.HIGHEST_SHARE) * n]
        exact, found = binom.sf(k - 1, n, budget) <= 0.001, study.chance(k, np.full(len(k), float(n)), budget) <= 0.001
        assert not (found & ~exact).any()
        different += int((found != exact).any())
    assert different <= 2


# ---- what fires when


class Replica(NamedTuple):
    """Times of requests in seconds, and which of them fail."""

    times: list[float]
    failed: list[bool]


def sample_text(counts: list[int | None]) -> str:
    """Samples in promtool's notation."""
    runs = [(value, len(list(group))) for value, group in itertools.groupby(counts)]
    return " ".join(f"_x{size}" if value is None else f"{value}x{size - 1}" for value, size in runs)


def counters(replicas: list[Replica], interval: int, minutes: int, model: str = "m") -> dict[str, str]:
    """The series of requests; a code has none before its first request."""
    scrapes = np.arange(0, minutes * 60 + 1, interval)
    series = {}
    for number, replica in enumerate(replicas):
        times, failed = np.array(replica.times), np.array(replica.failed, dtype=bool)
        for code, chosen in (("200", ~failed), ("500", failed)):
            counts = np.searchsorted(times[chosen], scrapes, side="right")
            labels = f'model="{model}",version="1",job="model-exporter",instance="{number}",code="{code}"'
            series[f"model_requests_total{{{labels}}}"] = sample_text([int(count) or None for count in counts])
    return series


def steady(every: float, minutes: float, fails_from: float = 1e9, fails_every: int = 1) -> Replica:
    """Requests at a constant distance in seconds; from a minute on every so-manyth fails."""
    times = np.arange(1, minutes * 60 / every + 1) * every - 1
    late = times > fails_from * 60
    failed = late & (np.cumsum(late) % fails_every == 0)
    return Replica(times.tolist(), failed.tolist())


def spread(replica: Replica, count: int) -> list[Replica]:
    """The same requests, in turn to several replicas; failures, too."""
    times, failed = np.array(replica.times), np.array(replica.failed)
    turn = np.where(failed, np.cumsum(failed), np.cumsum(~failed)) % count
    return [Replica(times[turn == number].tolist(), failed[turn == number].tolist()) for number in range(count)]


def check(folder: Path, interval: int, series: dict[str, str], checks: list[dict[str, Any]], evaluation: int) -> None:
    """Test the rules of the budgets, evaluated at an interval of seconds."""
    test = {"interval": f"{interval}s", "input_series": series_of(series), "promql_expr_test": checks}
    check_rules(folder, [test], groups_of(RULES / "system.yml"), f"{evaluation}s")


FIRING = 'ALERTS{alertname="ModelErrorBudgetBurn",alertstate="firing"}'


def expect(minute: float, models: Iterable[str] = (), period: str = "") -> dict[str, Any]:
    """That the alerts of exactly these models fire at a minute, or have fired in the period before it."""
    expr = f"group by (model) (last_over_time({FIRING}[{period}]))" if period else f"group by (model) ({FIRING})"
    return expected(expr, f"{int(minute * 60)}s", {f'{{model="{model}"}}': 1 for model in models})


def one_error(requests: int, before: float, after: float) -> Replica:
    """As many requests an hour, of which one fails, some minutes from the first and before the last."""
    times = steady(3600 / requests, before + after).times
    failed = [False] * len(times)
    failed[min(int(np.searchsorted(times, before * 60)), len(failed) - 1)] = True
    return Replica(times, failed)


def test_one_error_never_fires(tmp_path: Path) -> None:
    """Whether it is one of few requests, the only one in hours, the first of all, or one of many."""
    cases = list(itertools.product((1, 60, 3600), (0, 370)))
    series: dict[str, str] = {}
    for requests, before in cases:
        series |= counters([one_error(requests, before, 60)], INTERVAL, before + 60, f"{requests} {before}")
    assert sum(name.endswith('"500"}') for name in series) == len(cases)
    check(tmp_path, INTERVAL, series, [expect(430, period="8h")], 60)


class Outage(NamedTuple):
    """Requests at a distance in seconds, of which every so-manyth fails; minutes until which silence must end."""

    every: float
    fails_every: int
    replicas: int
    silent: float
    fires: float


OUTAGES = (
    *(Outage(12, 10, replicas, 5, 15) for replicas in (1, 2, 3)),  # 10% of 5 requests a minute
    *(Outage(60, 1, replicas, 2, 8) for replicas in (1, 2)),
    Outage(600, 1, 1, 10, 25),
    Outage(3600, 1, 1, 60, 126),
    Outage(0.5, 1, 1, 2, 6),
)


def test_incidents_with_few_requests_fire_in_time(tmp_path: Path) -> None:
    """10% of 5 requests a minute, and outages down to a request an hour; replicas add up, with their first errors."""
    start, names = 370, [f"{outage.every} {outage.replicas}" for outage in OUTAGES]
    series: dict[str, str] = {}
    for name, outage in zip(names, OUTAGES, strict=True):
        requests = steady(outage.every, start + 130, start, outage.fails_every)
        series |= counters(spread(requests, outage.replicas), INTERVAL, start + 130, name)
    checks = [
        expect(start + moment, [n for n, o in zip(names, OUTAGES, strict=True) if moment >= o.fires], period)
        for moment in (2, 126)
        for period in ("", "8h")
    ]
    for name, outage in zip(names, OUTAGES, strict=True):
        for moment, firing in ((outage.silent, []), (outage.fires, [name])):
            of_model = FIRING.replace("{", f'{{model="{name}",')
            checks.append(expect(start + moment, firing) | {"expr": f"group by (model) ({of_model})"})
    check(tmp_path, INTERVAL, series, checks, 60)


def test_a_version_that_fails_from_its_first_request_fires(tmp_path: Path) -> None:
    """The first errors of a new series are not counted, but a minute later there are more."""
    series = counters([steady(60, 20, 0)], INTERVAL, 20)
    check(tmp_path, INTERVAL, series, [expect(3), expect(9, "m")], 30)


def test_an_error_after_an_outage_does_not_fire_again(tmp_path: Path) -> None:
    """The outage is in the window of six hours, but one error in half an hour does not continue it."""
    times = steady(12, 200).times
    failed = [20 * 60 < at < 40 * 60 or at == 150 * 60 - 1 for at in times]
    assert sum(failed) == 101
    series = counters([Replica(times, failed)], 15, 200)
    check(tmp_path, 15, series, [expect(30, "m"), expect(100), expect(195, period="90m")], 30)
