"""Compare two versions of a model, or two periods of one, with data from Prometheus: which one is better, and whether
the difference may be due to chance.

Example::

    model-exporter compare --model=digits --before=1 --after=2

See docs/compare.md.
"""

from __future__ import annotations

import argparse
import json
import time

from exporter.commands.common import add_credentials, aligned, checked, credentials, moment
from exporter.comparison import prometheus as counters
from exporter.comparison import report
from exporter.comparison.measures import Comparison, Measure, Period, at_every_look, choose, shadow_only
from exporter.config.checks import parse_margin
from exporter.errors import CompareError, NoPairError, UsageError
from exporter.prometheus import DEFAULT_URL, Prometheus
from exporter.validation import parse_duration


def table(comparison: Comparison, decisions: report.Decisions | None = None) -> str:
    """Return the summary, both sides as a table, a sentence for each measure, and the decision if there is one."""
    sides = comparison.before, comparison.after
    titles = (name[0].lower() + name[1:] for name in report.titles(comparison))
    rows = [("", *titles, "difference, 95 % interval")]
    rows.append(("requests", *(f"{side.counts.requests:,.0f}" for side in sides), ""))
    rows += [_table_row(measure) for measure in comparison.measures]
    periods = ", and ".join(dict.fromkeys(str(side.period) for side in sides))
    versions = " and ".join(dict.fromkeys(side.version for side in sides))
    head = f"{comparison.model}, version {versions}, {periods}"
    if comparison.shared_seconds is not None:
        head += f", {report.minutes(comparison.shared_seconds)} in which both served"
    text = [head, report.summary(comparison), "", *aligned(rows), "", *report.sentences(comparison)]
    if decisions:
        text += ["", f"Decision: {decisions.word}", *decisions.reasons()]
    return "\n".join(text)


def _table_row(measure: Measure) -> tuple[str, ...]:
    wording = report.WORDINGS[measure.name]
    cells = [
        f"{wording.value(estimate.value)} ({report.interval_text(wording, estimate.interval())})"
        if estimate
        else "unknown"
        for estimate in (measure.before, measure.after)
    ]
    change = ""
    if measure.difference:
        change = f"{report.difference_text(wording, measure.difference)}, {measure.verdict}"
    return (report.title(measure), *cells, change)


WORSE = 3
"""Exit status where ``--fail-if-worse`` finds something that is."""
HOUR = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add("--prometheus", default=DEFAULT_URL, metavar="URL", help="URL of Prometheus")
    add_credentials(parser, "PROMETHEUS")
    add("--model", metavar="NAME", help="model; default: the only one in Prometheus")
    text = "version to compare with; default: the one that appeared last before --after"
    add("--before", metavar="VERSION", help=text)
    add("--after", metavar="VERSION", help="version to judge; default: the one that appeared last")
    text = "length of the window in which both served, up to --to; default: since the newer version appeared, up to 7d"
    add("--last", type=checked(parse_duration), metavar="DURATION", help=text)
    text = "start of the window, RFC 3339, such as 2026-11-24T10:00:00Z; local time without an offset"
    add("--from", dest="start", type=_time, metavar="TIME", help=text)
    add("--to", dest="end", type=_time, metavar="TIME", help="end of the window; default: now")
    add("--before-from", type=_time, metavar="TIME", help="compare two periods of length --last: start of the first")
    add("--after-from", type=_time, metavar="TIME", help="start of the second period")
    add("--format", choices=("table", "json"), default="table", help="format of the output")
    add(
        "--fail-if-worse",
        action="store_true",
        help=f"exit with status {WORSE} if a measure is significantly worse, or if --sequential decides on rollback",
    )
    text = "intervals and verdicts that hold at every look, and a decision: promote, rollback or wait"
    add("--sequential", action="store_true", help=text)
    text = "by how much the version may be worse for --sequential, such as error_ratio=0.01; may be repeated"
    add("--margin", type=checked(parse_margin), action="append", default=[], metavar="MEASURE=NUMBER", help=text)


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns
    -------
    int
        Exit status, 0 or `WORSE`.

    Raises
    ------
    CompareError
        When Prometheus has no data to compare.
    PrometheusError
        When it cannot be queried.
    """
    try:
        comparison = compare_selected(args, time.time())
    except NoPairError as error:
        raise CompareError(f"{error}; compare two periods with --before-from and --after-from") from None
    worse = any(measure.verdict == "worse" for measure in comparison.measures)
    result, text = report.document(comparison), table(comparison)
    if args.sequential:
        comparison = at_every_look(comparison)
        decisions = report.decide(comparison, dict(args.margin))
        worse = decisions.word == "rollback"
        result, text = report.document_with(comparison, decisions), table(comparison, decisions)
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.format == "json" else text)
    return WORSE if worse and args.fail_if_worse else 0


def compare_selected(args: argparse.Namespace, now: float) -> Comparison:
    """Compare what the options select, at the Unix time ``now``."""
    _check_periods(args)
    prometheus = Prometheus(args.prometheus, credentials=credentials(args))
    model = args.model or _only_model(prometheus, now)
    if args.before_from is not None:
        after = args.after or list(counters.versions(prometheus, model, now))[-1]
        starts = args.before_from, args.after_from
        periods = [_checked(Period(start, start + (args.last or HOUR)), now) for start in starts]
        return counters.compare_periods(prometheus, model, (args.before or after, periods[0]), (after, periods[1]))
    selected, end = _window(args, now), now if args.end is None else args.end
    period = selected or Period(end - counters.WINDOW, end)
    try:
        comparison = _compare_served(args, prometheus, model, selected, now)
    except CompareError:
        found = counters.same_requests(prometheus, model, (args.before, args.after), period)
        if found is None:
            raise
        return shadow_only(model, *found)
    found = counters.same_requests(prometheus, model, (comparison.before.version, comparison.after.version), period)
    return comparison._replace(same_requests=found and found[2])


def _compare_served(
    args: argparse.Namespace, prometheus: Prometheus, model: str, window: Period | None, now: float
) -> Comparison:
    """Compare two versions over the time in which both served, in a window or in the default one."""
    if window and args.before and args.after:
        pair = choose(model, (args.before, args.after), args.before, args.after)  # they may be older than 30 days
    else:
        appeared = counters.versions(prometheus, model, now)
        pair = choose(model, list(appeared), args.before, args.after)
        end = now if args.end is None else args.end
        window = window or counters.default_window([appeared[version] for version in pair], end)
    return counters.compare_shared(prometheus, model, pair, _checked(window, now))


def _window(args: argparse.Namespace, now: float) -> Period | None:
    """Return the window that the options select; None for the default."""
    end = now if args.end is None else args.end
    if args.start is not None:
        return Period(args.start, end)
    return None if args.last is None else Period(end - args.last, end)


def _checked(period: Period, now: float) -> Period:
    if round(period.end - period.start) < 1 or period.start > now:
        raise CompareError(f"the period {period} is not valid: it must start in the past and end after its start")
    return period


def _check_periods(args: argparse.Namespace) -> None:
    if (args.before_from is None) != (args.after_from is None):
        raise UsageError("--before-from and --after-from must be set together: they start the two periods")
    if args.before_from is not None and (args.start is not None or args.end is not None):
        raise UsageError("--from and --to select one period; use --last with --before-from and --after-from")
    if args.margin and not args.sequential:
        raise UsageError("--margin needs --sequential: only that makes a decision")
    if args.sequential and (args.before_from is not None or args.last is not None):
        raise UsageError("--sequential needs counts from a fixed start on: use --from, or leave the period out")
    if args.start is not None and args.last is not None:
        raise UsageError("--from and --last cannot be used together; use --last and --to")


def _only_model(prometheus: Prometheus, now: float) -> str:
    names = counters.models(prometheus, now)
    if len(names) == 1:
        return names[0]
    if not names:
        raise CompareError("Prometheus has no model: is the exporter scraped?")
    raise CompareError(f"set --model to one of: {', '.join(names)}")


def _time(text: str) -> float:
    return moment(text).timestamp()
