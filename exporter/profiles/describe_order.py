"""Describe the order of the training rows, and how much successive values depend on each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from exporter.config import THRESHOLDS
from exporter.profiles.block_record import FILE, GROUPED, SHUFFLED, UNSORTED, Blocks, Times
from exporter.profiles.profile import Feature, Profile
from exporter.stats.dependence import block_sizes
from exporter.stats.divergence import Reference, chi2_quantiles
from exporter.validation import preview

_VALUES = 100
_THRESHOLD = THRESHOLDS["ModelFeatureDrift"].default
_MAX_UNREADABLE = 0.01  # share of rows
_FIRST_YEAR, _LAST_YEAR = 1990, 2100
_YEAR = 31_556_952  # seconds of the mean year of the calendar
_INDEPENDENT = "values are taken as independent"


def order_line(blocks: Blocks | None) -> str:
    """Return in which order the rows are, and what follows from it."""
    if not blocks:
        return f"(order)  not known, since the profile is older; {_INDEPENDENT}"
    column = preview(blocks.column)
    if not blocks.is_ordered:
        order = {SHUFFLED: "shuffled", GROUPED: f"grouped by {column}"}.get(blocks.order, f"not that of {column}")
        return f"(order)  {order}; {_INDEPENDENT}"
    where = "that of the file" if blocks.order == FILE else f"by {column}"
    if blocks.times and blocks.times.unreadable:
        where += f" without {blocks.times.unreadable:,} rows"
    if not blocks.sizes:
        rows = "rows" if blocks.order == FILE else "rows with a time"
        return f"(order)  {where}; too few {rows} to tell whether values depend on each other"
    dependent = sum(scores.dependent for scores in blocks.targets.values())
    found = f"depend on each other in {dependent} of {len(blocks.targets)} targets" if dependent else "are independent"
    return f"(order)  {where}; values {found}"


def dependence_note(blocks: Blocks | None, name: str, feature: Feature) -> str | None:
    """Return by how much dependence raises the noise floor of a target; None if its values are independent."""
    if not blocks or name not in blocks.targets or not blocks.targets[name].dependent:
        return None
    counts = np.array(feature.counts, dtype=np.float64)
    quantiles = chi2_quantiles(int(np.count_nonzero(counts)) - 1)
    reference = Reference.from_counts(counts, [len(counts)], quantiles)
    values = min(_VALUES, blocks.sizes[-1])
    ratio = float(blocks.noise_ratio([name], reference).at(np.array([float(values)]))[0])
    times = f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"
    higher = "" if times == "1.0" else f"{times} times "
    return f"the noise floor of {values} successive values is {higher}that of independent ones"


def order_warnings(profile: Profile, warned: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with the order of the rows, with the flag that corrects it.

    Inputs in ``warned`` have a warning already.
    """
    blocks = profile.blocks
    if not blocks:
        return
    column = preview(blocks.column)
    if blocks.order == GROUPED:
        advice = "set --time-column, or --shuffled if there is no time"
        yield f"rows are grouped by {column}, which is not the order in which they arrived: {advice}"
    elif blocks.order == UNSORTED:
        advice = "sort the file by it, or set --shuffled"
        yield f"rows are not in the order of {column}, and too many to sort in memory: {advice}"
    elif blocks.column and not blocks.sizes and block_sizes(profile.rows):
        yield f"{column}: too few rows have a time: expected an RFC 3339 time or Unix seconds in each row"
    if blocks.times and blocks.sizes:
        yield from _time_warnings(blocks.times, column, profile.rows)
    for name, scores in blocks.targets.items():
        if name.partition(".")[0] in warned or name in warned:
            continue
        if scores.dependent and scores.quantiles[-1] > _THRESHOLD and scores.effective[-1] < blocks.sizes[-1] / 3:
            found = f"even {blocks.sizes[-1]:,} successive rows can be {scores.quantiles[-1]:.2g} nats from all rows"
            advice = "profile a longer time, or set --shuffled if the order of the rows has no meaning"
            yield f"{name}: {found}, so less drift is not seen: {advice}"


def _time_warnings(times: Times, column: str, rows: int) -> Iterator[str]:
    if times.unreadable > _MAX_UNREADABLE * rows:
        found = f"{times.unreadable:,} of {rows:,} rows have no readable time in {column}"
        yield f"{found} and are left out of the order: expected an RFC 3339 time or Unix seconds"
    first, last = (_year(seconds) for seconds in (times.earliest, times.latest))
    if last < _FIRST_YEAR:
        years = f"in {last}" if first == last else f"before {last + 1}"
        yield f"the times in {column} lie {years}: is this the column of times?"
    elif first > _LAST_YEAR:
        yield f"the times in {column} lie after {_LAST_YEAR}: expected Unix seconds, not milliseconds"


def _year(seconds: float) -> int:
    """Return the year of a time in Unix seconds, also of one that no date can hold."""
    return 1970 + int(seconds // _YEAR)
