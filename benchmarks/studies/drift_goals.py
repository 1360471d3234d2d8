"""The goals of the drift alert, and whether the study found them met."""

from __future__ import annotations

from collections.abc import Mapping

from drift_running import Running
from drift_streams import CASES
from drift_windows import ORDERED, SHUFFLED, Share, Windows
from study_tables import number, percent, table

Key = tuple[str | None, int, str, int]
DEPENDENT = [name for name, case in CASES.items() if case.dependent]
ALONE = [name for name, case in CASES.items() if not case.dependent]
_MOST = 10_000  # training rows


def goals(windows: Windows, running: Running) -> str:
    """Return the table of the goals."""
    rows = [*_single(windows), *_power(windows), *_paging(running)]
    return table(["goal", "target", "worst result", "outcome"], rows)


def _single(windows: Windows) -> list[list[str]]:
    false = windows.false
    large = {key: share for key, share in false.items() if key[3] >= 50 and key[0] == ORDERED}
    small = {key: share for key, share in false.items() if key[3] < 50 and key[0] == ORDERED}
    ordered = {key: share for key, share in large.items() if key[1] == _MOST}
    few = {key: share for key, share in large.items() if key[1] == 1000}
    title = "false alarms, n ≥ 50"
    rows = [_share(f"{title}, 10,000 rows, {name}", _of(ordered, [name]), 0.015) for name in DEPENDENT]
    return [
        _share(f"{title}, 10,000 rows, independent values", _of(ordered, ALONE), 0.001),
        *rows,
        _share(f"{title}, 1,000 rows, dependent values", _of(few, DEPENDENT), 0.015),
        _share(f"{title}, any number of rows, independent values", _of(large, ALONE), 0.001),
        _share("false alarms, n < 50, independent values", _of(small, ALONE), 0.01),
    ]


def _of(shares: Mapping[Key, Share], names: list[str]) -> dict[Key, Share]:
    return {key: share for key, share in shares.items() if key[2] in names}


def _share(title: str, shares: Mapping[Key, Share], goal: float) -> list[str]:
    worst = max(shares, key=lambda key: shares[key].mean)
    missed = sum(share.mean > goal for share in shares.values())
    where = f"{worst[2]}, {number(worst[1])} rows, n = {number(worst[3])}"
    result = f"{percent(shares[worst].mean, 2)} ± {100 * shares[worst].error:.2f} ({where})"
    return [title, f"at most {100 * goal:g}%", result, _verdict(missed, len(shares))]


def _verdict(missed: int, of: int) -> str:
    if not missed:
        return "met"
    return "missed" if of == 1 else f"missed in {missed} of {of} cases"


def _power(windows: Windows) -> list[list[str]]:
    rows = []
    sizes = [n for n in windows.sizes if n >= 50]
    for name in (name for name in DEPENDENT if CASES[name].variance):
        lost = {n: (windows.best(_MOST, name, n) or 0.0) - windows.power[ORDERED, _MOST, name, n].mean for n in sizes}
        worst = max(lost, key=lambda n: lost[n])
        own = windows.power[ORDERED, _MOST, name, worst].mean
        cell = f"{percent(own, 0)} of {percent(own + lost[worst], 0)} (n = {number(worst)})"
        verdict = _verdict(sum(points > 0.05 for points in lost.values()), len(sizes))
        rows.append([f"power, {name}", "within 5 points of the best test", cell, verdict])
    pairs = [
        (windows.power[None, n_rows, name, n].mean, windows.power[ORDERED, n_rows, name, n].mean, name, n_rows, n)
        for n_rows in windows.rows
        for name in ALONE
        for n in windows.sizes
    ]
    before, after, name, n_rows, n = max(pairs, key=lambda pair: pair[0] - pair[1])
    rows.append(
        [
            "power, independent values",
            "within 2 points of that without measured dependence",
            f"{percent(after)} of {percent(before)} ({name}, {number(n_rows)} rows, n = {n})",
            _verdict(sum(pair[0] - pair[1] > 0.02 for pair in pairs), len(pairs)),
        ]
    )
    for name in ("normal", "log-normal", "discrete", "zero-heavy"):
        share = windows.power[ORDERED, _MOST, name, 100].mean
        verdict = _verdict(int(share < 0.95), 1)
        rows.append([f"power, {name}, n = 100", "at least 95%", percent(share, 2), verdict])
    return rows


def _paging(running: Running) -> list[list[str]]:
    rows = []
    for kind, names in (("independent values", ALONE), ("dependent values", DEPENDENT)):
        for title, goal, few in (("n ≥ 50", 0.001, False), ("n < 50", 0.01, True)):
            cells = {
                key: paged[0]
                for key, paged in running.paged.items()
                if key[0] == ORDERED and key[1] == _MOST and key[2] in names and (key[3] < 50) == few
            }
            worst = max(cells, key=lambda key: cells[key])
            rows.append(
                [
                    f"false alarms with `for: 5m`, {title}, 10,000 rows, {kind}",
                    f"at most {100 * goal:g}%",
                    f"{percent(cells[worst], 2)} ({worst[2]}, {worst[3]} in 5 minutes)",
                    _verdict(sum(cell > goal for cell in cells.values()), len(cells)),
                ]
            )
    for kind, names in (("independent values", ALONE), ("dependent values", DEPENDENT)):
        cells = {
            key: paged[1]
            for key, paged in running.paged.items()
            if key[0] == ORDERED and key[1] == _MOST and key[2] in names
        }
        worst = max(cells, key=lambda key: cells[key])
        before = running.paged[SHUFFLED, *worst[1:]][1]
        rows.append(
            [
                f"false alarms a year and feature, 10,000 rows, {kind}",
                "at most 1",
                f"{cells[worst]:,.0f} ({worst[2]}, {worst[3]} in 5 minutes; {before:,.0f} with shuffled rows)",
                _verdict(sum(cell > 1 for cell in cells.values()), len(cells)),
            ]
        )
    return rows
