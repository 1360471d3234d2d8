"""The command ``dataset export``: write a release, or all accepted corrections, to a file."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlencode

from exporter.commands.common import set_help
from exporter.commands.dataset.requests import TIMEOUT, read_release, write_document
from exporter.commands.exporter_client import add_exporter_options, exporter_client
from exporter.commands.progress import download
from exporter.datasets import FORMATS
from exporter.errors import ExporterError, UsageError
from exporter.http_client.client import Client, Response

_SUFFIXES = {f".{form.suffix}": form.name for form in FORMATS.values() if form.suffix != "json"}
"""Formats by the ending of a file; JSON is also what any program may call its JSON lines."""
_OTHER_COMPRESSIONS = frozenset({".7z", ".bz2", ".lz4", ".xz", ".zip", ".zst"})
_FILTERS = {
    "version": "of this version of the model",
    "label": "with this label",
    "since": "from this time on, RFC 3339",
    "until": "before this time, RFC 3339",
}


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dataset export``."""
    set_help(
        parser,
        "Write a release, or all accepted corrections of a model, to a file.",
        "model-exporter dataset export 2026-11 -o corrections.parquet",
        "docs/dataset.md",
    )
    parser.add_argument("release", nargs="?", metavar="RELEASE", help="identifier or name of a release")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="file to write")
    text = "format of the file; default: that of its ending, or jsonl; a file that ends in .gz is compressed"
    parser.add_argument("--format", choices=tuple(FORMATS), help=text)
    help_ = "file for the origin of the release as JSON, for an experiment tracker or a registry"
    parser.add_argument("--lineage", type=Path, metavar="FILE", help=help_)
    parser.add_argument("--model", metavar="NAME", help="export this model's accepted corrections instead of a release")
    for name, text in _FILTERS.items():
        parser.add_argument(
            f"--{name}",
            metavar="TIME" if name in {"since", "until"} else name.upper(),
            help=f"with --model: only corrections {text}",
        )
    parser.set_defaults(step=_export)
    add_exporter_options(parser)


def _export(options: argparse.Namespace) -> int:
    filters = {name: getattr(options, name) for name in ("model", "version", "label", "since", "until")}
    filters = {name: value for name, value in filters.items() if value is not None}
    if options.lineage and not options.release:
        raise UsageError("--lineage: only a release has one; name a release")
    if bool(options.release) == ("model" in filters) or (options.release and filters):
        raise UsageError("dataset export: expected RELEASE, or --model NAME and its filters")
    name = options.format or _format_of(options.output)
    with exporter_client(options, TIMEOUT, downloads=True) as client:
        if options.release:
            path, release = read_release(client, options.release)
            sha256 = release["sha256"] if name == "jsonl" else None
            size = download_content(client, f"{path}?format={name}", options.output, sha256)
            if options.lineage:
                write_document(options.lineage, lineage_document(release, f"{client.url}{path}"))
        else:
            query = urlencode({**filters, "format": name})
            size = download_content(client, f"/v1/dataset?{query}", options.output, None)
    print(f"{size} bytes written to {options.output}")
    return 0


def lineage_document(release: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the origin of a release in the plain fields that experiment trackers and registries have.

    Parameters
    ----------
    release
        The exporter's document.
    source
        URL of the release.
    """
    lineage = release["lineage"]
    fields = {name: release[name] for name in ("model", "sha256", "examples", "bytes")}
    return {
        "name": release["name"],
        "digest": release["id"],
        "source": source,
        "source_type": "http",
        "created_at": release["created"],
        "created_by": release["by"],
        **fields,
        "versions": sorted(lineage["versions"]),
        **{name: lineage.get(name) for name in ("profile", "parent", "exporter_version")},
        "lineage": lineage,
    }


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
