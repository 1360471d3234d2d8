"""The commands for reviewed corrections: releases, exports, and annotations from Label Studio."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlencode

from exporter.commands.common import Progress, add_exporter_options, ask, exporter_client, read_document, set_help
from exporter.datasets import FORMATS, ImportedDecision, SkippedTask, read_decisions
from exporter.errors import ExporterError, UsageError
from exporter.http_client import Client, Response

TIMEOUT = 600.0
"""Seconds to wait for a response: a release of many examples is made before it is answered."""


@contextlib.contextmanager
def _open(partial: Path, output: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Open the file to write; the same content compressed is always the same file."""
    with partial.open("wb") as file:
        if output.suffix.lower() != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
            yield compressed


def download_content(client: Client, path: str, output: Path, sha256: str | None) -> int:
    """Write a response's body to a file, all of it or nothing, and return its size in bytes."""
    partial = output.with_name(output.name + ".partial")
    size, digest = 0, hashlib.sha256()
    try:
        with client.open("GET", path) as response:
            if response.status != 200:
                raise ExporterError(f"{path}: {Response(response.status, response.read(2**20)).error_message()}")
            if sha256 is not None and response.headers.get("ETag") is None:
                sha256 = None
                print("inputs that were redacted since the release are left out: its SHA-256 differs", file=sys.stderr)
            with _open(partial, output) as file, Progress() as progress:
                for piece in response.stream(2**18):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    progress(output.name, None, size, "bytes")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ExporterError(f"{path}: SHA-256 is {digest.hexdigest()}, not {sha256}: {output} is not written")
        size = partial.stat().st_size
        partial.replace(output)
    except OSError as error:
        raise ExporterError(f"{output}: cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return size


MAX_REPORTED = 20
"""Tasks that are named when they are not accepted."""
_OUTCOMES = {
    "accepted": "accepted",
    "unchanged": "unchanged",
    "conflict": "conflicting",
    "unknown": "unknown",
    "disagreed": "with disagreeing annotators",
    "unclear": "with an unclear answer",
    "unlabelled": "without an answer",
    "foreign": "not from this exporter",
}
"""Outcomes of importing a task, and their names in the summary."""


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="JSON export of Label Studio")


def _import(options: argparse.Namespace) -> int:
    """Accept corrections with the labels that annotators chose in Label Studio.

    Example::

        model-exporter dataset import project-1.json

    See docs/dataset.md.
    """
    try:
        export = options.file.read_bytes()
    except OSError as error:
        raise ExporterError(f"{options.file}: cannot be read: {error.strerror}") from None
    outcomes: Counter[str] = Counter()
    reported = 0
    with exporter_client(options, TIMEOUT) as client:
        try:
            for decision in read_decisions(export):
                outcome, detail = _submit(client, decision)
                outcomes[outcome] += 1
                if detail and outcome != "unlabelled" and (reported := reported + 1) <= MAX_REPORTED:
                    print(f"{_OUTCOMES[outcome]}: {detail}", file=sys.stderr)
        except ExporterError as error:
            done = f" ({outcomes['accepted']} were accepted before)" if outcomes["accepted"] else ""
            raise ExporterError(f"{options.file}: {error}{done}") from None
    if reported > MAX_REPORTED:
        print(f"and {reported - MAX_REPORTED} more", file=sys.stderr)
    summary = [f"{outcomes[name]} {text}" for name, text in _OUTCOMES.items() if outcomes[name] or name == "accepted"]
    print(", ".join(summary))
    return int(outcomes.total() > sum(outcomes[name] for name in ("accepted", "unchanged", "unlabelled")))


def _submit(client: Client, decision: ImportedDecision | SkippedTask) -> tuple[str, str]:
    """Send the decision of annotators on a task; return one of `_OUTCOMES` and a line for the report."""
    if isinstance(decision, SkippedTask):
        return decision.reason, decision.detail
    if not decision.correction_id.isascii() or not decision.correction_id.isdigit():
        return "unknown", decision.task
    path = f"/v1/corrections/{decision.correction_id}"
    if (response := client.request("GET", path)).status == 200:
        current = read_document(client, response)
        if current["status"] == "accepted" and current["label"] == decision.label:
            return "unchanged", ""
        body = {"status": "accepted", "revision": decision.revision, "label": decision.label}
        response = client.request("PATCH", path, json={**body, "reviewer": decision.reviewer})
    outcome = {200: "accepted", 400: "unclear", 404: "unknown", 409: "conflict"}.get(response.status)
    if outcome is None:
        raise ExporterError(f"{decision.task}: {response.error_message()}")
    reason = response.error_message().partition(" ")[2]  # without the status
    return outcome, "" if outcome == "accepted" else f"{decision.task}: {reason}"


def _add_release_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="NAME", help="model whose corrections are released")
    parser.add_argument("--name", metavar="NAME", help="name of the release; default: derived from the content")
    text = "leave out accepted corrections whose label may be wrong and that no reviewer has kept"
    parser.add_argument("--exclude-suspects", action="store_true", help=text)
    _add_include(parser, "")


def _add_include(parser: argparse.ArgumentParser, when: str) -> None:
    text = f"{when}predictions to add to the corrections, with weights: confirmed, labelled, or both with a comma"
    parser.add_argument("--include", metavar="SOURCES", help=text)


def _release(options: argparse.Namespace) -> int:
    """Create a release of the accepted corrections of a model.

    Its content never changes.

    Example::

        model-exporter dataset release --model=digits --name=2026-11

    See docs/dataset.md#releases.
    """
    body = {name: getattr(options, name) for name in ("model", "name", "exclude_suspects")}
    body["include"] = options.include.split(",") if options.include else []
    with exporter_client(options, TIMEOUT) as client:
        release = ask(client, "POST", "/v1/dataset/releases", body)
    suspects = release["lineage"]["suspects"]
    print(f"{release['name']}: {release['lineage']['use']}\n{client.url}/v1/dataset/releases/{release['id']}")
    if suspects["checked"] is None:
        print("its labels are not checked for mistakes yet")
    elif suspects["found"]:
        what = "left out" if suspects["excluded"] else "in it"
        query = f"{urlencode({'model': release['model']})}&status=accepted&suspect=true&order=suspect&source=all"
        print(f"suspect labels: {suspects['found']} {what}; review them at {client.url}/review?{query}")
    return 0


_SUFFIXES = {f".{form.suffix}": form.name for form in FORMATS.values() if form.suffix != "json"}
"""Formats by the ending of a file; JSON is also what any program may call its JSON lines."""
_OTHER_COMPRESSIONS = frozenset({".7z", ".bz2", ".lz4", ".xz", ".zip", ".zst"})
_FILTERS = {
    "version": "of this version of the model",
    "label": "with this label",
    "since": "from this time on, RFC 3339",
    "until": "before this time, RFC 3339",
}


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("release", nargs="?", metavar="RELEASE", help="identifier or name of a release")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write")
    text = "format of the file; by default from its ending, else jsonl; a file that ends in .gz is compressed"
    parser.add_argument("--format", choices=tuple(FORMATS), help=text)
    parser.add_argument("--model", metavar="NAME", help="export this model's accepted corrections instead of a release")
    for name, text in _FILTERS.items():
        metavar = "TIME" if name in {"since", "until"} else name.upper()
        parser.add_argument(f"--{name}", metavar=metavar, help=f"with --model: only corrections {text}")
    _add_include(parser, "with --model: ")


def _export(options: argparse.Namespace) -> int:
    """Write a release, or all accepted corrections of a model, to a file.

    Example::

        model-exporter dataset export 2026-11 -o corrections.parquet

    See docs/dataset.md.
    """
    filters = {name: getattr(options, name) for name in ("model", "include", *_FILTERS)}
    filters = {name: value for name, value in filters.items() if value is not None}
    if bool(options.release) == ("model" in filters) or (options.release and filters):
        raise UsageError("dataset export: expected RELEASE, or --model NAME and its filters")
    name = options.format or _format_of(options.output)
    with exporter_client(options, TIMEOUT, downloads=True) as client:
        if options.release:
            path = f"/v1/dataset/releases/{quote(options.release, safe='')}"
            release = ask(client, "GET", path, Accept="application/json")
            sha256 = release["sha256"] if name == "jsonl" else None
            size = download_content(client, f"{path}?format={name}", options.output, sha256)
        else:
            query = urlencode({**filters, "format": name})
            size = download_content(client, f"/v1/dataset?{query}", options.output, None)
    print(f"{size} bytes written to {options.output}")
    return 0


def _format_of(output: Path) -> str:
    """Return the format that the ending of a file stands for."""
    suffix = output.suffix.lower()
    if suffix in _OTHER_COMPRESSIONS:
        expected = f"expected {output.with_suffix('')} or {output.with_suffix('.gz')}"
        raise ExporterError(f"{output}: cannot be compressed as {suffix}: {expected}, or set --format")
    if suffix == ".gz":
        return _format_of(output.with_suffix(""))
    return _SUFFIXES.get(suffix, "jsonl")


_COMMANDS = {
    _release: (_add_release_options, "freeze the accepted corrections of a model as a release"),
    _export: (_add_export_options, "write a release, or all accepted corrections, to a file"),
    _import: (_add_import_options, "import annotations from Label Studio"),
}
"""The subcommands: what adds the options of each, and its summary."""


def dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own commands to its parser."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for step, (add_options, text) in _COMMANDS.items():
        subparser = commands.add_parser(step.__name__[1:], help=text)
        set_help(subparser, step.__doc__)
        add_options(subparser)
        add_exporter_options(subparser)
        subparser.set_defaults(step=step)


def dataset(options: argparse.Namespace) -> int:
    """Turn reviewed corrections into training data: releases, exports, and annotations from Label Studio.

    Example::

        model-exporter dataset release --model=digits --name=2026-11

    See docs/dataset.md.
    """
    status: int = options.step(options)
    return status
