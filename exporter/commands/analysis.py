"""Commands that find what differs: compare versions, explain slices, suspect labels."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from exporter.commands import common, tables
from exporter.commands.common import checked
from exporter.comparison import measures as report
from exporter.comparison import prometheus as counters
from exporter.comparison.measures import Comparison, Measure, Period, at_every_look, choose, shadow_only
from exporter.config import parse_margin
from exporter.datasets import csv_cell
from exporter.errors import BatchError, CompareError, NoPairError, UsageError, printable
from exporter.features import INPUT_TYPES
from exporter.features.base import as_list, scalar_text
from exporter.features.similarity import MIN_NEIGHBOURS, InputEncoder, unlike_neighbours
from exporter.prometheus import DEFAULT_URL, Prometheus
from exporter.slices import DEFAULT_LIMIT, MAX_LIMIT, QUESTIONS
from exporter.validation import parse_duration


def comparison_table(comparison: Comparison, decisions: report.Decisions | None = None) -> str:
    """Return the summary, both sides as a table, a sentence for each measure, and the decision if there is one."""
    sides = comparison.before, comparison.after
    titles = (name[0].lower() + name[1:] for name in report.titles(comparison))
    rows = [("", *titles, "difference, 95% interval")]
    rows.append(("requests", *(f"{side.counts.requests:,.0f}" for side in sides), ""))
    rows += [_table_row(measure) for measure in comparison.measures]
    periods = ", and ".join(dict.fromkeys(str(side.period) for side in sides))
    versions = " and ".join(dict.fromkeys(side.version for side in sides))
    head = f"{comparison.model}, version {versions}, {periods}"
    if comparison.shared_seconds is not None:
        head += f", {report.minutes(comparison.shared_seconds)} in which both served"
    text = [head, report.summary(comparison), "", *common.aligned(rows), "", *report.sentences(comparison)]
    if decisions:
        text += ["", f"Decision: {decisions.word}", *decisions.reasons()]
    return "\n".join(text)


def _table_row(measure: Measure) -> tuple[str, ...]:
    kind = report.KINDS[measure.name]
    cells = [
        f"{kind.value(estimate.value)} ({kind.interval(estimate.interval())})" if estimate else "unknown"
        for estimate in (measure.before, measure.after)
    ]
    change = ""
    if measure.difference:
        change = f"{kind.change(measure.difference)}, {measure.verdict}"
    return (report.title(measure), *cells, change)


WORSE = 3
"""Exit status where ``--fail-if-worse`` finds something that is."""
HOUR = 3600.0


def compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    add("--prometheus", default=DEFAULT_URL, metavar="URL", help="URL of Prometheus")
    common.add_credentials(parser, "PROMETHEUS")
    add("--model", metavar="NAME", help="model; default: the only one in Prometheus")
    text = "version to compare with (baseline); default: the one before --after"
    add("--before", metavar="VERSION", help=text)
    add("--after", metavar="VERSION", help="version to judge (candidate); default: the newest")
    text = "how far back from --to to look for the overlap period; default: since the newer version appeared, up to 7d"
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
    text = "anytime-valid intervals and verdicts, if requests are independent, and a decision on the rollout"
    add("--sequential", action="store_true", help=text)
    text = "how much worse the candidate may be with --sequential, such as error_ratio=0.01; repeatable"
    add("--margin", type=checked(parse_margin), action="append", default=[], metavar="MEASURE=NUMBER", help=text)


def compare(args: argparse.Namespace) -> int:
    """Compare two versions of a model, or two periods of one, with data from Prometheus: is one better, or could the
    difference be chance?

    Example::

        model-exporter compare --model=digits --before=1 --after=2

    See docs/compare.md.
    """
    try:
        comparison = compare_selected(args, time.time())
    except NoPairError as error:
        raise CompareError(f"{error}; compare two periods with --before-from and --after-from") from None
    worse = any(measure.verdict == "worse" for measure in comparison.measures)
    result, text = report.document(comparison), comparison_table(comparison)
    if args.sequential:
        comparison = at_every_look(comparison)
        decisions = report.decide(comparison, dict(args.margin))
        worse = decisions.word == "rollback"
        result, text = report.document_with(comparison, decisions), comparison_table(comparison, decisions)
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.format == "json" else text)
    return WORSE if worse and args.fail_if_worse else 0


def compare_selected(args: argparse.Namespace, now: float) -> Comparison:
    """Compare what the options select, at the Unix time ``now``."""
    _check_periods(args)
    prometheus = Prometheus(args.prometheus, credentials=common.credentials(args))
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
    return common.moment(text).timestamp()


TIMEOUT = 120.0
"""Seconds to wait for a response: searches of other clients may come first."""
_LOOKED_AT = {
    "corrections": "confident predictions",
    "errors": "predictions with a label",
}


def explain_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    common.add_exporter_options(parser)
    add("--model", metavar="NAME", help="model; default: the only one that is configured")
    add("--version", metavar="VERSION", help="version; default: all that have the same profile")
    add("--of", choices=QUESTIONS, default="corrections", help="what the slices contain")
    text = "predictions since then: a duration such as 6h, or a time, RFC 3339; default: the last day"
    add("--since", type=_since, metavar="TIME", help=text)
    limit = common.whole_number(1, MAX_LIMIT)
    add("--limit", type=limit, default=DEFAULT_LIMIT, metavar="N", help="maximum number of slices")
    add("--format", choices=("table", "json"), default="table", help="format of the output")


def explain(options: argparse.Namespace) -> int:
    """Find the slices of a model (a bin, or two together) that account for most of its corrections, errors,
    estimated loss or drift.

    Example::

        model-exporter explain --model=loans --of=corrections --since=6h

    See docs/slices.md.
    """
    names = ("model", "version", "of", "since", "limit")
    query = {name: value for name in names if (value := getattr(options, name)) is not None}
    with common.exporter_client(options, TIMEOUT) as client:
        document = common.ask(client, "GET", f"/v1/slices?{urlencode(query)}")
    as_json = options.format == "json"
    print(printable(json.dumps(document, indent=2, ensure_ascii=False) if as_json else slices_table(document)))
    return 0


def slices_table(document: dict[str, Any]) -> str:
    """Return an answer as a table with sentences."""
    what = document["of"].replace("_", " ")
    version = f", version {document['version']}" if document["version"] else ""
    head = f"{document['model']}{version}: {what} from {document['since']} to {document['until']}"
    looked_at = _LOOKED_AT.get(document["of"], "predictions")
    looked = f"{document['total']:,.6g} of {document['predictions']:,} {looked_at}"
    if document["of"] in {"errors", "estimated_loss"} and document["total"] % 1:
        looked = f"a loss of {document['total']:,.6g} in {document['predictions']:,} {looked_at}"
    lines = [head, looked, *document["remarks"]]
    if document["truncated"]:
        lines.append("Older predictions were left out: the search is limited in memory.")
    if not document["slices"]:
        none = f"No combination of at most two bins contains significantly more {what} than its share."
        return "\n".join([*lines, "", none])
    rows = [("slice", "share", document["compared_with"], "ratio", "size", "q-value")]
    rows += [
        (
            " and ".join(f"{feature} {name}" for feature, name in one["where"].items()),
            f"{one['share']:.1%}",
            f"{one['traffic_share']:.2%}",
            f"{one['ratio']:.3g}",
            f"{one['size']:,}",
            f"{one['q_value']:.1g}",
        )
        for one in document["slices"]
    ]
    lines += ["", *common.aligned(rows), ""]
    lines += [one["sentence"] for one in document["slices"]]
    if segment := document["slices"][0]["segment_by"]:
        lines.append(f"To watch the first one from now on, configure segment_by: {segment}")
    return "\n".join(lines)


def _since(text: str) -> str:
    """
    >>> _since("2026-11-24T10:00:00Z")
    '2026-11-24T10:00:00Z'
    """
    since: datetime | None = None
    with contextlib.suppress(ValueError, OverflowError):
        since = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    with contextlib.suppress(argparse.ArgumentTypeError):
        since = since or common.moment(text)
    if since is None:
        expected = "expected a duration such as 6h, or a time such as 2026-11-24T10:00:00Z"
        raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
    return since.isoformat(timespec="seconds").replace("+00:00", "Z")


HEAD = ("row", "label", "likely", "compared", "with_likely", "with_label")
SHOWN = 20
"""Suspects that are printed."""
MAX_COMPARED = 30_000
"""Rows whose inputs are compared with each other."""
SAMPLE = 1000
"""Rows from which it is learned how to compare inputs."""


def suspects_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add = parser.add_argument
    tables.add_input_options(parser, tables.TABLES)
    add("--label-column", default="label", metavar="NAME", help="column with the label")
    add("--ignore", action="append", default=[], metavar="NAME", help="column that is not compared; repeatable")
    add("-o", "--output", metavar="FILE", help="CSV file to write all suspects to")
    common.add_csv_options(parser, INPUT_TYPES)


def suspects(options: argparse.Namespace) -> int:
    """Find labels in a training file that may be wrong, by the labels of similar rows.

    Example::

        model-exporter suspects training.parquet --label-column=paid --ignore=customer -o suspects.csv

    See docs/dataset.md#labels-of-training-files.
    """
    refused = tables.Refused()
    types = dict(map(common.column_type, options.type))
    with tables.open_input(options.file, options.format, tables.TABLES) as source:
        where = source.where
        roles = tables.Roles(label=options.label_column, ignored=tuple(options.ignore))
        table = tables.read_table(options, source, roles, refused)
        found, checked = _find(table, types)
    if not checked:
        raise BatchError(f"{where}: no label was checked; {refused.first[0] if refused.first else 'it has no rows'}")
    if options.output:
        _write(options.output, found)
    print(
        f"{where}: {common.count(checked, 'label')} checked, {common.count(len(found), 'suspect')},"
        f" {refused.count:,} rows rejected"
    )
    for line in refused.reasons():
        print(line)
    shown = [HEAD, *found[:SHOWN]] if found else []
    for line in common.aligned([[str(value) for value in row] for row in shown]):
        print(line)
    if len(found) > SHOWN:
        print(f"and {len(found) - SHOWN:,} more" + ("" if options.output else "; -o FILE writes them all"))
    return 0


def _find(table: tables.Table, types: Mapping[str, str]) -> tuple[list[Sequence[Any]], int]:
    """Find suspects among similar rows; see `exporter.features.similarity`."""
    numbers: list[int] = []
    texts: list[str] = []
    parts: list[Any] = []
    encoder: InputEncoder | None = None
    for batch in table:
        rows = list(_labelled(batch, table.refused))
        if not rows:
            continue
        if len(numbers) + len(rows) > MAX_COMPARED:
            most = f"{MAX_COMPARED:,} rows whose inputs are compared"
            raise BatchError(f"{table.source.where}: expected at most {most}: check a part of the file")
        inputs = [values for _, _, values in rows]
        encoder = encoder or InputEncoder(inputs[:: max(len(inputs) // SAMPLE, 1)], types)
        parts.append(encoder.encode(inputs))
        numbers += [number for number, _, _ in rows]
        texts += [text for _, text, _ in rows]
    classes = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    names = list(classes)
    labels = np.array([classes[text] for text in texts], np.intp)
    if not numbers:
        return [], 0
    found = unlike_neighbours(np.concatenate(parts), labels, len(classes))
    if not found.compared:
        raise BatchError(f"{table.source.where}: expected {4 * MIN_NEIGHBOURS} rows or more with a label and inputs")
    values = zip(*(array.tolist() for array in found[:4]), strict=True)
    return [
        (numbers[row], texts[row], names[class_], found.compared, other, own) for row, class_, other, own in values
    ], len(numbers)


def _labelled(batch: tables.Rows, refused: tables.Refused) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the number, the label and the inputs of each row with a label."""
    columns = {name: as_list(values) for name, values in batch.inputs.items()}
    for row, label in enumerate(as_list(batch.labels)):
        number, text = int(batch.numbers[row]), scalar_text(label)
        if text in {"", "nan"}:
            refused.add(number, "", "has no label")
        else:
            yield number, text, {name: values[row] for name, values in columns.items()}


def _write(output: Path, found: list[Sequence[Any]]) -> None:
    try:
        with output.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEAD, *([csv_cell(value) for value in row] for row in found)])
    except OSError as error:
        raise BatchError(f"{output}: cannot be written: {error.strerror}") from None
