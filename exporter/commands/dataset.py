"""The command ``model-exporter dataset``: releases and exports of a running exporter, and annotations to import."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

from exporter.commands.common import set_help
from exporter.commands.exporter_client import add_exporter_options, exporter_client
from exporter.commands.progress import download
from exporter.datasets import FORMATS
from exporter.datasets.label_studio import ImportedDecision, SkippedTask, read_decisions
from exporter.errors import ExporterError
from exporter.http_client.client import Client, Response

TIMEOUT = 600.0
"""Seconds to wait for a response: a release of many examples is made before it is answered."""
MAX_REPORTED = 20
"""Tasks that are named when they are not accepted."""
_SUFFIXES = {f".{form.suffix}": form.name for form in FORMATS.values() if form.suffix != "json"}
"""Formats by the ending of a file; JSON is also what any program may call its JSON lines."""
_OTHER_COMPRESSIONS = frozenset({".7z", ".bz2", ".lz4", ".xz", ".zip", ".zst"})
_OUTCOMES = {
    "accepted": "accepted",
    "unchanged": "unchanged",
    "conflict": "conflicting",
    "unknown": "unknown",
    "disagreed": "with disagreeing annotators",
    "unlabelled": "without a single answer",
    "foreign": "not from this exporter",
}
"""Outcomes of importing a task, and their names in the summary."""
_FILTERS = {
    "version": "of this version of the model",
    "label": "with this label",
    "since": "from this time on, RFC 3339",
    "until": "before this time, RFC 3339",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own commands to its parser."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    release = commands.add_parser("release", help="freeze the accepted corrections of a model as a release")
    set_help(
        release,
        "Create a release of the accepted corrections of a model. Its content never changes.",
        "model-exporter dataset release --model=digits --name=2026-11",
        "docs/dataset.md#releases",
    )
    release.add_argument("--model", required=True, metavar="NAME", help="model whose corrections are released")
    release.add_argument("--name", metavar="NAME", help="name of the release; default: derived from the content")
    text = "omit the corrections of users who sent far more than others"
    release.add_argument("--hold-back", action="store_true", help=text)
    release.set_defaults(step=_release)

    export = commands.add_parser("export", help="write a release, or all accepted corrections, to a file")
    set_help(
        export,
        "Write a release, or all accepted corrections of a model, to a file.",
        "model-exporter dataset export 2026-11 -o corrections.parquet",
        "docs/dataset.md",
    )
    export.add_argument("release", nargs="?", metavar="RELEASE", help="identifier or name of a release")
    export.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="file to write")
    text = "format of the file; default: that of its ending, or jsonl; a file that ends in .gz is compressed"
    export.add_argument("--format", choices=tuple(FORMATS), help=text)
    export.add_argument("--model", metavar="NAME", help="export this model's accepted corrections instead of a release")
    for name, text in _FILTERS.items():
        export.add_argument(f"--{name}", metavar=name.upper(), help=f"with --model: only corrections {text}")
    export.set_defaults(step=_export)

    annotations = commands.add_parser("import", help="import annotations from Label Studio")
    set_help(
        annotations,
        "Accept corrections with the labels that annotators chose in Label Studio.",
        "model-exporter dataset import project-1.json",
        "docs/dataset.md",
    )
    annotations.add_argument("file", type=Path, metavar="FILE", help="JSON export of Label Studio")
    annotations.set_defaults(step=_import)

    releases = commands.add_parser("list", help="list the releases, the newest first")
    set_help(
        releases,
        "List the releases, the newest first.",
        "model-exporter dataset list --model=digits",
        "docs/dataset.md#releases",
    )
    releases.add_argument("--model", metavar="NAME", help="only releases of this model")
    releases.set_defaults(step=_list)

    for command in (release, export, annotations, releases):
        add_exporter_options(command)


def run(options: argparse.Namespace) -> int:
    """Run the chosen subcommand; return the exit status."""
    status: int = options.step(options)
    return status


def _request(client: Client, method: str, path: str, document: Any = None, **headers: str) -> Any:
    """Return the document of a successful response."""
    response = client.request(method, path, json=document, headers=headers)
    if response.status >= 400:
        raise ExporterError(f"{client.url}: {response.error_message()}")
    return _document(client, response)


def _document(client: Client, response: Response) -> Any:
    try:
        return json.loads(response.body)
    except ValueError:
        raise ExporterError(
            f"{client.url}: expected a JSON document, got another response: is it an exporter?"
        ) from None


def _release(options: argparse.Namespace) -> int:
    body = {"model": options.model} | ({"name": options.name} if options.name else {})
    if options.hold_back:
        body["hold_back"] = True
    with exporter_client(options, TIMEOUT) as client:
        _print_release(_request(client, "POST", "/v1/dataset/releases", body))
    return 0


def _list(options: argparse.Namespace) -> int:
    path = "/v1/dataset/releases" + (f"?{urlencode({'model': options.model})}" if options.model else "")
    with exporter_client(options, TIMEOUT) as client:
        while path:
            page = _request(client, "GET", path)
            for release in page["releases"]:
                _print_release(release)
            query = urlsplit(page["next"] or "").query
            path = f"/v1/dataset/releases?{query}" if query else ""
    return 0


def _print_release(release: Mapping[str, Any]) -> None:
    print(f"{release['id']}  {release['created'][:19]}Z  {release['examples']:>8} examples  {release['name']}")


def _export(options: argparse.Namespace) -> int:
    filters = {name: getattr(options, name) for name in ("model", "version", "label", "since", "until")}
    filters = {name: value for name, value in filters.items() if value is not None}
    if bool(options.release) == ("model" in filters) or (options.release and filters):
        raise ExporterError("dataset export: expected RELEASE, or --model NAME and its filters")
    name = options.format or _format_of(options.output)
    with exporter_client(options, TIMEOUT) as client:
        if options.release:
            path = f"/v1/dataset/releases/{quote(options.release, safe='')}"
            release = _request(client, "GET", path, Accept="application/json")
            sha256 = release["sha256"] if name == "jsonl" else None
            size = _download(client, f"{path}?format={name}", options.output, sha256)
        else:
            query = urlencode({**filters, "format": name})
            size = _download(client, f"/v1/dataset?{query}", options.output, None)
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


@contextlib.contextmanager
def _open(partial: Path, output: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """Open the file to write; the same content compressed is always the same file."""
    with partial.open("wb") as file:
        if output.suffix.lower() != ".gz":
            yield file
            return
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as compressed:
            yield compressed


def _download(client: Client, path: str, output: Path, sha256: str | None) -> int:
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
            with _open(partial, output) as file, download(output.name) as bar:
                for piece in response.stream(2**18):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
                    bar.update(bar.tasks[0].id, completed=size)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ExporterError(f"{path}: SHA-256 is {digest.hexdigest()}, not {sha256}: {output} is not written")
        size = partial.stat().st_size
        partial.replace(output)
    except OSError as error:
        raise ExporterError(f"{output}: cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return size


def _import(options: argparse.Namespace) -> int:
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
    summary = [f"{outcomes[name]} {text}" for name, text in _OUTCOMES.items() if outcomes[name] or name == "accepted"]
    print(", ".join(summary))
    return 0


def _submit(client: Client, decision: ImportedDecision | SkippedTask) -> tuple[str, str]:
    """Send what annotators decided on a task; return one of `_OUTCOMES` and what to report of it."""
    if isinstance(decision, SkippedTask):
        return decision.reason, decision.detail
    if decision.keeps_label:
        return "unchanged", ""
    where = f"correction {decision.correction_id}"
    if not decision.correction_id.isascii() or not decision.correction_id.isdigit():
        return "unknown", where
    body = {"status": "accepted", "revision": decision.revision, "label": decision.label, "reviewer": decision.reviewer}
    response = client.request("PATCH", f"/v1/corrections/{decision.correction_id}", json=body)
    if response.status == 409:
        return _conflict(_document(client, response), decision)
    if response.status == 404:
        return "unknown", where
    if response.status >= 400:
        raise ExporterError(f"{where}: {response.error_message()}")
    return "accepted", ""


def _conflict(problem: Mapping[str, Any], decision: ImportedDecision) -> tuple[str, str]:
    """Return the outcome when the correction was decided meanwhile: `unchanged` if in the same way."""
    current = problem.get("correction", {})
    if current.get("status") == "accepted" and current.get("label") == decision.label:
        return "unchanged", ""
    return "conflict", f"correction {decision.correction_id}: {problem.get('detail')}"
