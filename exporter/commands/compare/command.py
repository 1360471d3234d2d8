"""``model-exporter compare``: whether the new version is better, and whether that is real."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime

from exporter.commands.common import add_credentials, checked, credentials
from exporter.commands.compare.counts import Period, count, first_seen, models, versions
from exporter.commands.compare.metrics import compare
from exporter.commands.compare.report import Comparison, Side, document, table
from exporter.errors import CompareError
from exporter.prometheus_api import DEFAULT_URL, Prometheus
from exporter.validation import parse_duration

WORSE = 3
"""Exit status where ``--fail-if-worse`` finds something that is."""
HOUR = 3600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add("--prometheus", default=DEFAULT_URL, metavar="URL", help="URL of Prometheus (%(default)s)")
    add_credentials(parser, "PROMETHEUS")
    add("--model", metavar="NAME", help="model; default: the only one in Prometheus")
    text = "version to compare with; default: the one that appeared last before --after"
    add("--before", metavar="VERSION", help=text)
    add("--after", metavar="VERSION", help="version to judge; default: the one that appeared last")
    text = "length of the period; default: an hour, or the time since the newer version appeared if that is shorter"
    add("--last", type=checked(parse_duration), metavar="DURATION", help=text)
    text = "start of the period, RFC 3339, such as 2026-11-24T10:00:00Z; local time without an offset"
    add("--from", dest="start", type=_time, metavar="TIME", help=text)
    add("--to", dest="end", type=_time, metavar="TIME", help="end of the period; default: now")
    add("--before-from", type=_time, metavar="TIME", help="compare two periods of length --last: start of the first")
    add("--after-from", type=_time, metavar="TIME", help="start of the second period")
    add("--format", choices=("table", "json"), default="table", help="format of the output (%(default)s)")
    add("--fail-if-worse", action="store_true", help=f"exit with status {WORSE} if a measure is significantly worse")


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
    comparison = compare_selected(args, time.time())
    if args.format == "json":
        print(json.dumps(document(comparison), indent=2, ensure_ascii=False))
    else:
        print(table(comparison))
    worse = any(metric.verdict == "worse" for metric in comparison.metrics)
    return WORSE if worse and args.fail_if_worse else 0


def compare_selected(args: argparse.Namespace, now: float) -> Comparison:
    """Compare what the options select, at the Unix time ``now``."""
    _check_periods(args)
    prometheus = Prometheus(args.prometheus, credentials=credentials(args))
    model = args.model or _only_model(prometheus, now)
    if args.before_from is not None:
        after = args.after or versions(prometheus, model, now)[-1]
        pair = (args.before or after, after)
        periods = [Period(start, start + (args.last or HOUR)) for start in (args.before_from, args.after_from)]
    else:
        pair = _versions(prometheus, model, args.before, args.after, now)
        periods = [_common_period(prometheus, model, pair, args, now)] * 2
    for period in periods:
        if round(period.end - period.start) < 1 or period.start > now:
            raise CompareError(f"the period {period} is not valid: it must start in the past and end after its start")
    return compare_versions(prometheus, model, *zip(pair, periods, strict=True))


def _check_periods(args: argparse.Namespace) -> None:
    if (args.before_from is None) != (args.after_from is None):
        raise CompareError("--before-from and --after-from must be set together: they start the two periods")
    if args.before_from is not None and (args.start is not None or args.end is not None):
        raise CompareError("--from and --to select one period; use --last with --before-from and --after-from")
    if args.start is not None and args.last is not None:
        raise CompareError("--from and --last cannot be used together; use --last and --to")


def _common_period(
    prometheus: Prometheus, model: str, pair: tuple[str, str], args: argparse.Namespace, now: float
) -> Period:
    """Return the period of both versions: by default the part of the last hour since both exist."""
    end = now if args.end is None else args.end
    period = Period(end - (args.last or HOUR) if args.start is None else args.start, end)
    if args.start is None and args.last is None:
        return Period(max(first_seen(prometheus, model, version, period) for version in pair), end)
    return period


def compare_versions(
    prometheus: Prometheus, model: str, before: tuple[str, Period], after: tuple[str, Period]
) -> Comparison:
    """Compare two versions, each in its period.

    Raises
    ------
    CompareError
        When Prometheus has no data of one of them.
    PrometheusError
        When it cannot be queried.
    """
    sides = [Side(version, period, count(prometheus, model, version, period)) for version, period in (before, after)]
    return Comparison(model, sides[0], sides[1], compare(sides[0].counts, sides[1].counts))


def _only_model(prometheus: Prometheus, now: float) -> str:
    names = models(prometheus, now)
    if len(names) == 1:
        return names[0]
    if not names:
        raise CompareError("Prometheus has no model: is the exporter scraped?")
    raise CompareError(f"set --model to one of: {', '.join(names)}")


def _versions(prometheus: Prometheus, model: str, before: str | None, after: str | None, now: float) -> tuple[str, str]:
    if before is None or after is None:
        names = versions(prometheus, model, now)
        if after is None:
            after = next((version for version in reversed(names) if version != before), None)
        if before is None and after in names:
            before = names[names.index(after) - 1] if names.index(after) else None
        if before is None or after is None:
            raise CompareError(
                f"there is no other version of {model!r} to compare with: Prometheus has only {', '.join(names)}; "
                "compare two periods of one version with --before-from and --after-from"
            )
    if before == after:
        raise CompareError("--before and --after are the same version; compare two periods of it with --before-from")
    return before, after


def _time(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time such as 2026-11-24T10:00:00Z, got {text!r}") from None
    return moment.astimezone(UTC).timestamp()
