"""Read the examples of a release, from a file that ``dataset export`` wrote or from an exporter."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec

from exporter.commands.dataset.export import download_content
from exporter.commands.dataset.requests import TIMEOUT, read_release
from exporter.commands.exporter_client import exporter_client
from exporter.datasets.examples import Example
from exporter.errors import ExporterError
from exporter.profiles.readers.compression import is_gzip

PAGE = 1000
"""Examples that are read at a time."""


class ReleaseFile(NamedTuple):
    """The content of a release in a file.

    Attributes
    ----------
    path
        JSON lines, plain or compressed with gzip.
    where
        The release's name in messages.
    document
        What the exporter says about it; None if the release was named by a file.
    """

    path: Path
    where: str
    document: dict[str, Any] | None

    def pages(self) -> Iterator[list[Example]]:
        """Yield the examples.

        Raises
        ------
        ExporterError
            When a line is not an example, with its number.
        """
        decoder = msgspec.json.Decoder(Example)
        page: list[Example] = []
        try:
            with _open(self.path) as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        page.append(_example(decoder, line, f"{self.where}: line {number}"))
                    if len(page) == PAGE:
                        yield page
                        page = []
        except (OSError, EOFError, zlib.error) as error:
            raise ExporterError(f"{self.where}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if page:
            yield page


@contextlib.contextmanager
def open_release(name: str, options: argparse.Namespace) -> Iterator[ReleaseFile]:
    """Open a release until the block ends: the file of this name, else the release of an exporter.

    Raises
    ------
    ExporterError
        When there is neither, or the exporter cannot be asked.
    """
    if Path(name).is_file():
        yield ReleaseFile(Path(name), name, None)
        return
    with tempfile.TemporaryDirectory() as folder, exporter_client(options, TIMEOUT, downloads=True) as client:
        try:
            path, document = read_release(client, name)
        except ExporterError as error:
            raise ExporterError(f"{name}: is neither a file here nor a release of the exporter: {error}") from None
        file = Path(folder) / "release.jsonl"
        download_content(client, f"{path}?format=jsonl", file, document["sha256"])
        yield ReleaseFile(file, name, document)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_gzip(file) else file


def _example(decoder: msgspec.json.Decoder[Example], line: bytes, where: str) -> Example:
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        detail = f"expected an example as dataset export writes it with --format=jsonl: {error}"
        raise ExporterError(f"{where}: {detail}") from None
