"""The command ``model-exporter dataset``: releases and exports of a running exporter, and what annotators said."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from exporter.commands.common import add_credentials, authorization
from exporter.datasets import FORMATS
from exporter.datasets.label_studio import Decided, Left, decisions
from exporter.errors import ExporterError

DEFAULT_URL = "http://127.0.0.1:9877"
TIMEOUT = 600.0
"""Seconds that an answer may take: a release of many examples is made before it is answered."""
RETRIES = 5
"""Times that a busy exporter is asked again."""
TOLD = 20
"""Tasks that are named when they are not taken."""
_WORDS = {
    "taken": "taken",
    "known": "already so",
    "conflict": "conflicts",
    "unknown": "unknown",
    "disagreed": "annotators disagree",
    "unlabelled": "without one answer",
    "foreign": "not from here",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own commands to its parser."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    release = commands.add_parser("release", help="freeze the accepted corrections of a model so far")
    release.add_argument("--model", required=True, metavar="NAME", help="whose corrections")
    release.add_argument("--name", metavar="NAME", help="what it is called; default: by its model and content")
    release.add_argument("--hold-back", action="store_true", help="without users who corrected far more than others")
    release.set_defaults(step=_release)
    export = commands.add_parser("export", help="write a release, or all that is accepted, to a file")
    export.add_argument("release", nargs="?", metavar="RELEASE", help="identifier or name of a release")
    export.add_argument("-o", "--output", required=True, type=Path, metavar="FILE")
    export.add_argument("--format", default="jsonl", choices=tuple(FORMATS), help="default: jsonl")
    export.add_argument("--model", metavar="NAME", help="whose accepted corrections, in place of a release")
    for name in ("version", "label", "since", "until"):
        export.add_argument(f"--{name}", metavar=name.upper(), help=f"with --model: see GET /v1/dataset?{name}=")
    export.set_defaults(step=_export)
    taking = commands.add_parser("import", help="take the annotations in a JSON export of Label Studio")
    taking.add_argument("file", type=Path, metavar="FILE")
    taking.set_defaults(step=_import)
    listing = commands.add_parser("list", help="the releases, the newest first")
    listing.add_argument("--model", metavar="NAME", help="whose")
    listing.set_defaults(step=_list)
    for one in (release, export, taking, listing):
        one.add_argument("--url", default=DEFAULT_URL, help=f"the exporter; default: {DEFAULT_URL}")
        add_credentials(one, "MODEL_EXPORTER")


def run(options: argparse.Namespace) -> int:
    """Run the command that was asked for."""
    status: int = options.step(options)
    return status


class Client:
    """One connection to an exporter, kept alive.

    Parameters
    ----------
    url
        Of the exporter.
    authorization
        The header, None for none.

    Raises
    ------
    ExporterError
        When the address is none, cannot be reached or refuses; so with all of its methods.
    """

    def __init__(self, url: str, authorization: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
            raise ExporterError(f"--url: expected http://HOST:PORT without a user, such as {DEFAULT_URL}")
        self._where = f"{parts.scheme}://{parts.netloc}"
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.netloc, timeout=TIMEOUT)
        self._path = parts.path.rstrip("/")
        self._headers = {"Authorization": authorization} if authorization else {}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def open(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        """An answer, whatever it is; asked again while the exporter is busy."""
        data = None if body is None else json.dumps(body).encode()
        for left in range(RETRIES, -1, -1):
            answer = self._once(method, path, data, {**self._headers, **headers})
            wait = answer.getheader("Retry-After", "")
            if answer.status != 503 or not wait.isdigit() or not left:
                break
            answer.read()
            time.sleep(min(int(wait), 30))
        return answer

    def _once(self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        for fresh in (self._connection.sock is None, True):
            try:
                self._connection.request(method, self._path + path, data, dict(headers))
                return self._connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()  # the next request opens it anew
                if fresh:
                    raise ExporterError(f"{self._where}: {error or type(error).__name__}") from None
        raise AssertionError

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and document of an answer that is one, of success or of conflict."""
        answer = self.open(method, path, body, **headers)
        text = self.read(answer)
        try:
            document = json.loads(text)
        except ValueError:
            document = {"detail": f"{method} {path}: {answer.status} {answer.reason}, and no JSON"}
            raise ExporterError(f"{self._where}: {document['detail']}") from None
        return answer.status, document

    def good(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The document of an answer of success."""
        status, document = self.ask(method, path, body, **headers)
        if status >= 400:
            raise ExporterError(f"{self._where}: {document.get('detail') or status}")
        return document

    def read(self, answer: http.client.HTTPResponse, most: int | None = None) -> bytes:
        """The answer's body, or the next bytes of it."""
        try:
            return answer.read(most)
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise ExporterError(f"{self._where}: the answer broke off; the exporter's log says why") from None


@contextlib.contextmanager
def _client(options: argparse.Namespace) -> Iterator[Client]:
    client = Client(options.url, authorization(options))
    try:
        yield client
    finally:
        client.close()


def _release(options: argparse.Namespace) -> int:
    order = {"model": options.model} | ({"name": options.name} if options.name else {})
    if options.hold_back:
        order["hold_back"] = True
    with _client(options) as client:
        document = client.good("POST", "/v1/dataset/releases", order)
    _tell(document)
    return 0


def _list(options: argparse.Namespace) -> int:
    path = "/v1/dataset/releases" + (f"?{urlencode({'model': options.model})}" if options.model else "")
    with _client(options) as client:
        while path:
            page = client.good("GET", path)
            for document in page["releases"]:
                _tell(document)
            following = urlsplit(page["next"] or "")
            path = f"/v1/dataset/releases?{following.query}" if following.query else ""
    return 0


def _tell(document: Mapping[str, Any]) -> None:
    print(f"{document['id']}  {document['created'][:19]}Z  {document['examples']:>8} examples  {document['name']}")


def _export(options: argparse.Namespace) -> int:
    chosen = {name: getattr(options, name) for name in ("model", "version", "label", "since", "until")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    if bool(options.release) == ("model" in chosen) or (options.release and chosen):
        raise ExporterError("dataset export: expected RELEASE, or --model NAME with what else chooses examples")
    with _client(options) as client:
        if options.release:
            path = f"/v1/dataset/releases/{quote(options.release, safe='')}"
            document = client.good("GET", path, Accept="application/json")
            frozen = options.format == "jsonl"
            expected = document["sha256"] if frozen else None
            size = _download(client, f"{path}?format={options.format}", options.output, expected)
        else:
            query = urlencode({**chosen, "format": options.format})
            size = _download(client, f"/v1/dataset?{query}", options.output, None)
    print(f"{size} bytes written to {options.output}")
    return 0


def _download(client: Client, path: str, output: Path, sha256: str | None) -> int:
    """Write an answer to a file, all of it or nothing; how many bytes."""
    answer = client.open("GET", path)
    if answer.status != 200:
        try:
            detail = json.loads(answer.read(2**20)).get("detail")
        except (ValueError, AttributeError):
            detail = None
        raise ExporterError(f"{path}: {detail or answer.status}")
    partial = output.with_name(output.name + ".partial")
    size, digest, shown = 0, hashlib.sha256(), 0.0
    try:
        with partial.open("wb") as file:
            while data := client.read(answer, 2**18):
                file.write(data)
                digest.update(data)
                size += len(data)
                if sys.stderr.isatty() and time.monotonic() > shown + 0.2:
                    shown = time.monotonic()
                    print(f"\r\033[K{size / 2**20:,.1f} MiB", end="", file=sys.stderr, flush=True)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ExporterError(f"{path}: SHA-256 is {digest.hexdigest()}, not {sha256}: {output} is not written")
        partial.replace(output)
    except OSError as error:
        raise ExporterError(f"{output}: cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    return size


def _import(options: argparse.Namespace) -> int:
    try:
        export = options.file.read_bytes()
    except OSError as error:
        raise ExporterError(f"{options.file}: cannot be read: {error.strerror}") from None
    counts: Counter[str] = Counter()
    told = 0
    with _client(options) as client:
        try:
            for one in decisions(export):
                result, detail = (one.why, one.detail) if isinstance(one, Left) else _decide(client, one)
                counts[result] += 1
                if detail and result != "unlabelled" and (told := told + 1) <= TOLD:
                    print(f"{_WORDS[result]}: {detail}", file=sys.stderr)
        except ExporterError as error:
            done = f" ({counts['taken']} were taken before)" if counts["taken"] else ""
            raise ExporterError(f"{options.file}: {error}{done}") from None
    print(", ".join(f"{counts[word]} {text}" for word, text in _WORDS.items() if counts[word] or word == "taken"))
    return 0


def _decide(client: Client, one: Decided) -> tuple[str, str]:
    """What became of a decision, and what to say of it."""
    if one.known:
        return "known", ""
    if not one.correction.isascii() or not one.correction.isdigit():
        return "unknown", f"correction {one.correction}"
    body = {"status": "accepted", "revision": one.revision, "label": one.label, "reviewer": one.reviewer}
    path = f"/v1/corrections/{one.correction}"
    status, document = client.ask("PATCH", path, body)
    if status == 409:
        stands = document.get("correction", {})
        if stands.get("status") == "accepted" and stands.get("label") == one.label:
            return "known", ""
        return "conflict", f"correction {one.correction}: {document.get('detail')}"
    if status == 404:
        return "unknown", f"correction {one.correction}"
    if status >= 400:
        raise ExporterError(f"correction {one.correction}: {document.get('detail') or status}")
    return "taken", ""
