"""``model-exporter compare``: whether the new version is better, and whether that is real."""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, datetime

from exporter.commands.common import add_credentials, authorization
from exporter.commands.compare.counts import Period, appeared, count, known_models, versions
from exporter.commands.compare.measures import compare
from exporter.commands.compare.prometheus import Prometheus
from exporter.commands.compare.report import Comparison, Side, document, table
from exporter.config import parse_duration
from exporter.errors import CompareError

WORSE = 3
"""Exit status where ``--fail-if-worse`` finds something that is."""
HOUR = 3600.0
_TIMES = "RFC 3339, such as 2026-11-24T10:00:00Z; without an offset it is this machine's time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``model-exporter compare``."""
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090", metavar="URL", help="default: %(default)s")
    add_credentials(parser, "PROMETHEUS")
    parser.add_argument("--model", help="may be left out where Prometheus knows only one")
    parser.add_argument("--before", metavar="VERSION", help="default: the version that appeared before --after")
    parser.add_argument("--after", metavar="VERSION", help="default: the version that appeared last")
    parser.add_argument(
        "--last",
        type=_duration,
        metavar="DURATION",
        help="length of the period; default: an hour, or less if one of the versions appeared since",
    )
    parser.add_argument("--from", dest="start", type=_time, metavar="TIME", help=f"begin of the period; {_TIMES}")
    parser.add_argument("--to", dest="end", type=_time, metavar="TIME", help="its end; default: now")
    parser.add_argument(
        "--before-from",
        type=_time,
        metavar="TIME",
        help="compare two periods, each of length --last: the one begins here",
    )
    parser.add_argument("--after-from", type=_time, metavar="TIME", help="and the other here")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: %(default)s")
    parser.add_argument(
        "--fail-if-worse",
        action="store_true",
        help=f"exit with status {WORSE} if a measure is worse by more than chance",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns
    -------
    int
        Exit status, 0 or `WORSE`.

    Raises
    ------
    CompareError
        When Prometheus cannot be asked, or does not know what shall be compared.
    """
    found = comparison(args, time.time())
    print(json.dumps(document(found), indent=2, ensure_ascii=False) if args.format == "json" else table(found))
    worse = any(measure.verdict == "worse" for measure in found.measures)
    return WORSE if worse and args.fail_if_worse else 0


def comparison(args: argparse.Namespace, now: float) -> Comparison:
    """What the options ask for, at the Unix time ``now``."""
    two_periods = args.before_from is not None or args.after_from is not None
    if two_periods and (args.before_from is None or args.after_from is None):
        raise CompareError("--before-from and --after-from go together: the begins of the two periods")
    if two_periods and (args.start is not None or args.end is not None):
        raise CompareError("--from and --to are of one period; with --before-from and --after-from use --last")
    if args.start is not None and args.last is not None:
        raise CompareError("--from and --last exclude one another; --last and --to go together")
    prometheus = Prometheus(args.prometheus, authorization(args))
    model = args.model or _only_model(prometheus, now)
    if two_periods:
        after = args.after or versions(prometheus, model, now)[-1]
        chosen = (args.before or after, after)
        periods = [Period(start, start + (args.last or HOUR)) for start in (args.before_from, args.after_from)]
    else:
        chosen = _versions(prometheus, model, args.before, args.after, now)
        end = now if args.end is None else args.end
        period = Period(end - (args.last or HOUR) if args.start is None else args.start, end)
        if args.start is None and args.last is None:
            # Both sides shall have lived through the same: what one version did before the other came is left out.
            period = Period(max(appeared(prometheus, model, version, period) for version in chosen), end)
        periods = [period, period]
    for period in periods:
        if round(period.end - period.start) < 1 or period.start > now:
            raise CompareError(f"the period {period} is none: its end must be later than its begin, and that not ahead")
    return of(prometheus, model, *zip(chosen, periods, strict=True))


def of(prometheus: Prometheus, model: str, before: tuple[str, Period], after: tuple[str, Period]) -> Comparison:
    """Compare two versions, each in its period.

    Raises
    ------
    CompareError
        When Prometheus cannot be asked, or one of them did nothing.
    """
    sides = [Side(version, period, count(prometheus, model, version, period)) for version, period in (before, after)]
    return Comparison(model, sides[0], sides[1], compare(sides[0].counts, sides[1].counts))


def _only_model(prometheus: Prometheus, now: float) -> str:
    known = known_models(prometheus, now)
    if len(known) == 1:
        return known[0]
    if not known:
        raise CompareError("Prometheus knows no model: is the exporter scraped?")
    raise CompareError(f"choose one with --model; Prometheus knows: {', '.join(known)}")


def _versions(prometheus: Prometheus, model: str, before: str | None, after: str | None, now: float) -> tuple[str, str]:
    if before is not None and after is not None:
        chosen = before, after
    else:
        known = versions(prometheus, model, now)
        if after is None:
            after = next((version for version in reversed(known) if version != before), None)
        if before is None and after in known:
            before = known[known.index(after) - 1] if known.index(after) else None
        if before is None or after is None:
            raise CompareError(
                f"there is no other version of {model!r} to compare with, Prometheus knows of: {', '.join(known)}; "
                "compare two periods of one version with --before-from and --after-from"
            )
        chosen = before, after
    if chosen[0] == chosen[1]:
        raise CompareError("--before and --after are the same version; compare two periods of it with --before-from")
    return chosen


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _time(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a time such as 2026-11-24T10:00:00Z, got {text!r}") from None
    return moment.astimezone(UTC).timestamp()
