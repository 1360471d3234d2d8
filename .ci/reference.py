"""Write the tables of the reference from the code: metrics, commands, routes, rules and limits.

``make docs`` runs it, and a test compares the documents with it. Meanings of rules are written by hand, and kept.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exporter import cli  # noqa: E402 (of this checkout)
from exporter.client.middleware import MAX_DEFERRED  # noqa: E402
from exporter.features.embedding import MAX_DIMENSION  # noqa: E402
from exporter.features.image import MAX_PIXELS  # noqa: E402
from exporter.features.text import MAX_CHARACTERS  # noqa: E402
from exporter.metrics.exposition import GROUPS, SECTION, ExporterMetrics  # noqa: E402
from exporter.metrics.lines import Family  # noqa: E402
from exporter.monitoring import quality, registry  # noqa: E402
from exporter.monitoring.shadow_answers import MAX_REQUESTS  # noqa: E402
from exporter.profiles import bins, profile  # noqa: E402
from exporter.server import alerts, asgi, connections, ingest, pipeline  # noqa: E402
from exporter.server.api import schemas  # noqa: E402
from exporter.server.routes import ROUTES, SMALL_BODY, document  # noqa: E402
from exporter.slices import MAX_LIMIT  # noqa: E402
from exporter.storage import _review  # noqa: E402
from exporter.wire import cloudevents, events, formats, otlp  # noqa: E402

_MIB = 2**20
LIMITS = (
    ("body of a request with predictions, feedback, labels or events", formats.MAX_BODY, "413"),
    ("any other body of a request", SMALL_BODY, "413"),
    ("objects in a body", f"{events.MAX_OBJECTS:,}", "413"),
    ("decoded size of an event's inputs, or of another server's body", events.MAX_DECODED, "413"),
    ("an event in an array with invalid events", f"{events.WHOLE_EVENT:,} characters", "413"),
    ("compressed bodies in a request, unpacked, in total", formats.MAX_UNPACKED, "413"),
    ("head of a request", connections.MAX_HEAD, "431"),
    (
        "events that wait in the queue",
        f"{pipeline.QUEUE_BYTES // _MIB // 2} MiB and `queue.capacity` for each sender, four times that together",
        "503",
    ),
    (
        "large bodies that arrive at the same time",
        f"{asgi.INFLIGHT_BYTES // _MIB // 2} MiB for each sender, {2 * asgi.INFLIGHT_BYTES // _MIB} MiB together; "
        f"more wait for {asgi.HOLD_SECONDS:.0f} s",
        "503",
    ),
    ("requests that wait for a thread of a pool", f"{asgi.WAITING:,}", "503"),
    ("exports that are sent at the same time", f"{asgi.STREAMS}", "503"),
    ("unread responses, in total", connections.HELD_BYTES, "the connection is closed"),
    ("refused events listed in a response", f"{events.MAX_REJECTED:,}", "the rest of the body is not read"),
    ("feedback in a request", f"{ingest.MAX_FEEDBACK:,}", "400"),
    ("labels in a request", f"{ingest.MAX_LABELS:,}", "400"),
    ("rows in a request of another server", f"{formats.MAX_ROWS:,}", "400"),
    ("protobuf from OpenTelemetry, unpacked", otlp.MAX_PROTOBUF, "413"),
    ("OpenTelemetry records in a request", f"{otlp.MAX_RECORDS:,}", "400"),
    (
        "KServe events that wait for their counterpart",
        f"{cloudevents.MAX_WAITING:,}, {cloudevents.MAX_WAITING_BYTES // _MIB} MiB, {cloudevents.MAX_SECONDS:g} s",
        "the oldest is removed",
    ),
    (
        "remembered idempotency keys",
        f"{ingest.MAX_KEYS:,} of {ingest.MAX_KEY_LENGTH} characters",
        "the oldest is forgotten",
    ),
    ("OpenTelemetry spans whose repeats do not count", f"{otlp.MAX_SPANS:,}", "the oldest are forgotten"),
    (
        "OpenTelemetry predictions that evaluations can join",
        f"{otlp.MAX_CALLS:,} identifiers",
        "the oldest is forgotten",
    ),
    (
        "confirmed predictions, and labelled predictions, in a dataset",
        f"about {_review.MAX_ADDED:,} each",
        "only every second (third, fourth …) is included, with more weight",
    ),
    (
        "weight of a row in a dataset",
        f"{_review.MAX_WEIGHTS[1]:,.0f}, without {_review.MIN_LABELLED} labelled rows {_review.MAX_WEIGHTS[0]:.0f}",
        "limited; the release says so",
    ),
    ("unknown inputs of a model that are named", f"{registry.MAX_UNKNOWN}", "only counted"),
    ("label that can be compared", f"{events.MAX_COMPARED:,} characters", "refused"),
    ("classes in the confusion matrix, each side", f"{quality.MAX_LABELS}", "`other`"),
    ("names of a model's evaluations, and their labels", f"{quality.MAX_LABELS} each", "`other`"),
    (
        "answers that wait for another version in shadow mode",
        f"{MAX_REQUESTS:,} requests",
        "the oldest is counted as unpaired",
    ),
    ("pixels of an image", f"{MAX_PIXELS:,}", "the value is invalid"),
    ("share of the counting time for image files", f"{pipeline.IMAGES_RATE / 10:.0%}", "the value is invalid"),
    ("components of an embedding", f"{MAX_DIMENSION:,}", "the value is invalid"),
    ("characters of a text that features are computed from", f"{MAX_CHARACTERS:,}", "the rest is not read"),
    ("categories of a column in a profile", f"{bins.MAX_CATEGORIES:,}", "counted in a second pass"),
    ("rare categories that a profile lists", f"{profile.MAX_RARE:,}", "counted as not seen in training"),
    ("size of a profile", f"{profile.MAX_MIB} MiB", "neither written nor read"),
    ("entries on a page of a list", f"{schemas.MAX_LIMIT:,}", "400"),
    ("slices in a response", f"{MAX_LIMIT}", "400"),
    ("characters of a search", f"{schemas.MAX_SEARCH}", "400"),
    (
        "alerts that the home page keeps",
        f"{alerts.MAX_FIRING}, and {alerts.MAX_LAST} notifications",
        "the oldest is forgotten",
    ),
    ("predictions of a request that wait for its duration in the client", f"{MAX_DEFERRED:,}", "sent without it"),
)
"""What is limited, where, and what happens beyond it. Numbers are bytes."""
_COMMANDS = re.compile(r"(<!-- commands -->\n).*(<!-- /commands -->)", re.DOTALL)
_CREDENTIALS = {"user", "password_file", "bearer_token_file", "ca_file"}
_ROUTES = re.compile(r"(<!-- routes -->\n).*(<!-- /routes -->)", re.DOTALL)
_LIMITS = re.compile(r"(<!-- limits -->\n).*(<!-- /limits -->)", re.DOTALL)
_RULES = re.compile(r"(<!-- rules -->\n).*(<!-- /rules -->)", re.DOTALL)
_ALERTS = re.compile(r"(<!-- alerts -->\n).*(<!-- /alerts -->)", re.DOTALL)
_TABLE = re.compile(r"(<!-- metrics: (.*?) -->\n).*?(<!-- /metrics -->)", re.DOTALL)


def metrics(text: str) -> str:
    """Return a document whose tables of metrics, each between two comments, are written again.

    Raises
    ------
    ValueError
        When the document lacks the table of a section.
    """
    tables: dict[str, list[Family]] = {}
    for section, family in _families():
        tables.setdefault(section, []).append(family)
    missing = tables.keys() - {match[2] for match in _TABLE.finditer(text)}
    if missing:
        raise ValueError(f"no table of: {', '.join(sorted(missing))}; expected <!-- metrics: {min(missing)} -->")
    return _TABLE.sub(lambda match: f"{match[1]}\n{_table(tables[match[2]])}\n{match[3]}", text)


def _families() -> Iterator[tuple[str, Family]]:
    for group in GROUPS:
        yield from ((group.section, family) for family in group.families)
    yield from ((SECTION, family) for family in ExporterMetrics(CollectorRegistry()).families)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        registry = CollectorRegistry()
        collector(registry=registry)
        for metric in registry.collect():
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            labels = dict.fromkeys(label for sample in metric.samples for label in sample.labels)
            yield "Process", Family(name, metric.type, metric.documentation.rstrip(".") + ".", tuple(sorted(labels)))


def _table(families: list[Family]) -> str:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in families:
        labels = ", ".join([*family.labels, *(["le"] if family.kind == "histogram" else [])])
        rows.append(f"| `{family.name}` | {family.kind} | {labels} | {family.help} |")
    return "\n".join(rows) + "\n"


def commands(text: str) -> str:
    """Return a document whose sections of commands, between two comments, are written again."""
    sections = "\n".join(_section(parser) for parser in _parsers(cli.build_parser(cli.COMMANDS)))
    return _COMMANDS.sub(lambda match: f"{match[1]}\n{sections}\n{match[2]}", text)


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for subparser in action.choices.values():
            yield from _parsers(subparser)
    if not inner:
        yield parser


def _section(parser: argparse.ArgumentParser) -> str:
    """Return what a command does, an example, and its arguments."""
    example = (parser.epilog or "").partition("example:\n")[2].partition("\n\n")[0].strip()
    lines = [f"## `{parser.prog.partition(' ')[2]}`", "", parser.description or "", "", "```text", example, "```", ""]
    lines += ["| argument | meaning |", "|---|---|"]
    credentials = ""
    for action in parser._actions:
        if action.dest == "help":
            continue
        if action.dest in _CREDENTIALS:
            credentials = re.findall(r"\$(\w+)_USER", action.help or "")[0] if action.dest == "user" else credentials
            continue
        lines.append(f"| {_argument(action)} | {_cell(action)} |")
    if credentials:
        lines.append(f"| [credentials](#credentials) | from `${credentials}_USER` and so on |")
    return "\n".join(lines) + "\n"


def _argument(action: argparse.Action) -> str:
    value = action.metavar or ("" if action.nargs == 0 or action.choices else action.dest.upper())
    names = [f"`{f'{name} {value}'.strip()}`" for name in reversed(action.option_strings)]
    return ", ".join(names) or f"`{value or action.dest.upper()}`"


def _cell(action: argparse.Action) -> str:
    meaning = (action.help or "") % {**vars(action), "prog": ""}
    choices = ", ".join(f"`{choice}`" for choice in action.choices or ())
    parts = (meaning, choices, "required" if action.required and action.option_strings else "")
    return "; ".join(filter(None, parts)).replace("|", "\\|")


def _fill(section: re.Pattern[str], text: str, head: str, rows: list[str]) -> str:
    """Return a text with the table between two comments written again."""
    table = "\n".join([f"| {head} |", re.sub(r"[^|]+", "---", f"|{head}|"), *rows])
    return section.sub(lambda match: f"{match[1]}\n{table}\n\n{match[2]}", text)


def routes(text: str) -> str:
    """Return the page of the API with the table of all routes."""
    paths, rows = document()["paths"], []
    for route, entry in ROUTES.items():
        method, _, rule = route.partition(" ")
        summary = paths[re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)][method.lower()]["summary"]
        anchor = re.sub(r"[^\w -]", "", route.lower()).replace(" ", "-")
        name = f"[`{route}`](#{anchor})" if f"\n## `{route}`\n" in text else f"`{route}`"
        rows.append(f"| {name} | {entry.scope or 'none'} | {summary} |")
    return _fill(_ROUTES, text, "route | scope | what it does", rows)


def limits(text: str) -> str:
    """Return the page of limits with the values of the constants."""
    rows = [
        f"| {what} | {_size(limit) if isinstance(limit, int) else limit} | {beyond} |" for what, limit, beyond in LIMITS
    ]
    return _fill(_LIMITS, text, "what | at most | beyond that", rows)


def _size(number: int) -> str:
    return f"{number // 1024} KiB" if number < _MIB else f"{number // _MIB} MiB"


def rules(text: str) -> str:
    """Return the page of rules with all of them.

    The meaning of a threshold is in its rule's comment. Another recording rule keeps the meaning that the page has.
    """
    files = {
        path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
    }
    meanings = dict(re.findall(r"^\| `([\w:]+)` \| (.+) \|$", text, re.M))
    for name, alert, unit in re.findall(r"record: (\w+:threshold:(\w+)) # ([^\n]+)", "\n".join(files.values())):
        meanings[name] = f"Threshold of {alert}: {unit}."
    groups = [
        (name, rule)
        for name, file in files.items()
        for group in yaml.safe_load(file)["groups"]
        for rule in group["rules"]
    ]
    recorded = list(dict.fromkeys(rule["record"] for _, rule in groups if "record" in rule))
    rows = [f"| `{name}` | {meanings.get(name, 'TO DO')} |" for name in recorded]
    text = _fill(_RULES, text, "series | meaning", rows)
    alerts: dict[str, tuple[set[str], str, set[str]]] = {}
    for layer, rule in groups:
        if "alert" in rule:
            severities, _, waits = alerts.setdefault(rule["alert"], (set(), rule["labels"].get("layer", layer), set()))
            severities.add(rule["labels"]["severity"])
            waits.add(rule.get("for", "0m"))
    rows = [
        f"| [{name}](runbooks/{name}.md) | {', '.join(sorted(severities))} | {layer} | {', '.join(sorted(waits))} |"
        for name, (severities, layer, waits) in alerts.items()
    ]
    return _fill(_ALERTS, text, "alert | severity | layer | for", rows)


PAGES = {"metrics.md": metrics, "commands.md": commands, "api.md": routes, "limits.md": limits, "rules.md": rules}


def main() -> None:
    """Write the pages."""
    for name, update in PAGES.items():
        page = ROOT / "docs" / name
        page.write_text(update(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
