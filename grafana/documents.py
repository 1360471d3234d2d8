"""The tables of metrics in ``docs/metrics.md`` and of flags in ``docs/commands.md``, from the declarations."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from exporter import cli
from exporter.metrics.exporter import SECTION, ExporterMetrics
from exporter.metrics.exposition import GROUPS
from exporter.metrics.lines import Family

_COMMANDS = re.compile(r"(<!-- commands -->\n).*(<!-- /commands -->)", re.DOTALL)
_CREDENTIALS = {"user", "password_file", "bearer_token_file", "ca_file"}
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
    return ", ".join(names) or f"`{value}`"


def _cell(action: argparse.Action) -> str:
    meaning = (action.help or "") % {**vars(action), "prog": ""}
    choices = ", ".join(f"`{choice}`" for choice in action.choices or ())
    parts = (meaning, choices, "required" if action.required and action.option_strings else "")
    return "; ".join(filter(None, parts)).replace("|", "\\|")
