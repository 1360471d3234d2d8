"""What the commands share: help texts, credentials, signals that stop, tables, logs."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import inspect
import json
import logging
import os
import re
import select
import signal
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from wsgiref.simple_server import WSGIServer, make_server

from exporter.errors import ExporterError, UsageError, printable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from exporter.http_client import Client, Credentials, Response


class Address(NamedTuple):
    """Where a server listens; the host is empty for every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        """``HOST:PORT``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """Parse ``HOST:PORT``; a type for argparse.

    Raises
    ------
    argparse.ArgumentTypeError
        When the text is not an address.

    >>> address("[::1]:9877")
    Address(host='::1', port=9877)
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"expected HOST:PORT such as 127.0.0.1:9877, got {text!r}")
    return Address(host.strip("[]"), int(port))


LOG_SECONDS = 10.0
"""Seconds between two lines of progress in a log."""
DRAW_SECONDS = 0.1
"""Seconds between two changes of the line on a terminal."""


class Progress:
    """A context manager that shows how much of a file has been read or written.

    Parameters
    ----------
    log
        Whether to write a line every `LOG_SECONDS` where standard error is not a terminal.
    """

    def __init__(self, *, log: bool = False) -> None:
        self._terminal = sys.stderr.isatty()
        self._log = log
        self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __call__(self, step: str, share: float | None, count: int, unit: str = "rows") -> None:
        """Show the step, the share that is done (None if unknown), and the count so far."""
        now = time.monotonic()
        if now - self._shown < (DRAW_SECONDS if self._terminal else LOG_SECONDS):
            return
        self._shown = now
        text = f"{step}: " + ("" if share is None else f"{share:.0%}, ") + f"{count:,} {unit}"
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        elif self._log:
            print(text, file=sys.stderr, flush=True)


def column_type(text: str) -> tuple[str, str]:
    """Return the column and its type in the value of ``--type``.

    Raises
    ------
    UsageError
        When it is not valid.
    """
    from exporter.features import INPUT_TYPES
    from exporter.validation import preview, suggestion

    name, equals, type_name = text.rpartition("=")
    if not equals or not name:
        raise UsageError(f"--type: expected NAME=TYPE such as zip=categorical, got {text}")
    if type_name not in INPUT_TYPES:
        raise UsageError(f"--type: {preview(type_name)} is not a valid type; {suggestion(type_name, INPUT_TYPES)}")
    return name, type_name


_Value = TypeVar("_Value")


_HELP = re.compile(r"(.*)\n\nExample::\n\n    (.*)\n\nSee (.*)\.", re.DOTALL)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps the description, and keeps the lines of the example."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return super()._fill_text(text if "\n" in text else textwrap.fill(text, width), width, indent)


_UNSAID: tuple[Any, ...] = (None, False, "", [], argparse.SUPPRESS)
"""Defaults that the help does not show."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the command, option or value that was probably meant.

    The value of an option such as ``--web.config.file`` has the name ``web_config_file``. A FILE is a `Path`, and the
    help ends with the default.
    """

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add an argument; an option with dots in its name gets a name that Python can read."""
        if settings.get("metavar") == "FILE":
            settings.setdefault("type", Path)
        text: str = settings.get("help", "")
        if settings.get("default", "") not in _UNSAID and "%(default)" not in text and not text.endswith(")"):
            settings["help"] = f"{text} (%(default)s)"
        if "." in names[-1]:
            settings.setdefault("dest", names[-1].lstrip("-").replace(".", "_").replace("-", "_"))
        return super().add_argument(*names, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options here, where the options of the command are known."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            hint = _did_you_mean(word, self._option_string_actions if word.startswith("-") else ())
            if word.endswith((".yml", ".yaml")) and "--config.file" in self._option_string_actions:
                hint = f"; did you mean --config.file={word}?"
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return options, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _did_you_mean(str(value), map(str, action.choices or ()))
            raise


def _did_you_mean(word: str, valid: Iterable[str]) -> str:
    close = difflib.get_close_matches(word[:100], list(valid), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def set_help(parser: argparse.ArgumentParser, text: str | None) -> None:
    """Describe a command by a docstring: what it does, ``Example::``, and ``See`` a page of the documentation."""
    parser.formatter_class = _HelpFormatter
    if parts := _HELP.fullmatch(inspect.cleandoc(text or "")):
        parser.description = " ".join(parts[1].split())
        page = parts[3]
        served = f", served by the exporter at /{page.replace('.md', '', 1)}" if page.startswith("docs/") else ""
        parser.epilog = f"example:\n  {parts[2]}\n\ndocumentation: {page}{served}"


def add_credentials(parser: argparse.ArgumentParser, server: str) -> None:
    """Add the options that hold the credentials for a server, and the certificates to trust.

    Parameters
    ----------
    parser
        The command's.
    server
        Begins the names of the environment variables that hold the defaults.
    """
    variable = f"{server}_USER"
    text = f"user for basic authentication (${variable})"
    parser.add_argument("--user", default=os.environ.get(variable), metavar="NAME", help=text)
    files = {
        "password-file": "file with the user's password",
        "bearer-token-file": "file with a bearer token",
        "ca-file": "file with the certificates to trust instead of the system's, in PEM",
    }
    for flag, text in files.items():
        variable = f"{server}_{flag.upper().replace('-', '_')}"
        parser.add_argument(f"--{flag}", default=os.environ.get(variable), metavar="FILE", help=f"{text} (${variable})")


def credentials(options: argparse.Namespace) -> Credentials:
    """Return the credentials in the options of `add_credentials`."""
    from exporter.http_client import Credentials

    return Credentials(options.user, options.password_file, options.bearer_token_file, options.ca_file)


class SignalEvent(threading.Event):
    """An event that the handler of a signal may set.

    A handler runs in the main thread, which may just hold the lock of `threading.Event`, and would wait for itself.
    This one has no lock: a byte in a pipe wakes those who wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reader, self._writer = os.pipe()
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and wake those who wait."""
        if not self._is_set:
            self._is_set = True
            os.write(self._writer, b"\0")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, at most ``timeout`` seconds; return whether it is."""
        select.select([self._reader], [], [], timeout)
        return self._is_set

    def close(self) -> None:
        """Close the pipe; nobody waits any more."""
        os.close(self._reader)
        os.close(self._writer)


@contextlib.contextmanager
def stopping(*signals: signal.Signals) -> Iterator[threading.Event]:
    """An event that the signals set; their former handlers are put back afterwards."""
    event = SignalEvent()
    before = {number: signal.signal(number, lambda *_: event.set()) for number in signals}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        event.close()


def add_config_file(parser: argparse.ArgumentParser, names: str = "") -> None:
    """Add the option ``--config.file``, with a default where the command needs what the configuration ``names``."""
    default = Path("exporter.yml") if names else None
    text = f"configuration that names {names}" if names else "configuration (exporter.yml)"
    parser.add_argument("--config.file", default=default, metavar="FILE", help=text)


def add_web_files(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the files with TLS, users and tokens."""
    parser.add_argument("--web.config.file", metavar="FILE", help="file with TLS settings and users")
    parser.add_argument("--web.tokens.file", metavar="FILE", help="file with bearer tokens")


def add_log_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a server's log."""
    levels, formats = ("debug", "info", "warn", "error"), ("logfmt", "json")
    parser.add_argument("--log.level", default="info", choices=levels, help="lowest level to log")
    parser.add_argument("--log.format", default="logfmt", choices=formats, help="format of the log")


def add_table_options(parser: argparse.ArgumentParser, types: Iterable[str]) -> None:
    """Add the options that say what the columns of a table are, and how its fields are written.

    Parameters
    ----------
    parser
        The command's.
    types
        The input types.
    """
    add = parser.add_argument
    add("--prediction-column", metavar="NAME", help="column with the model's prediction")
    add("--confidence-column", metavar="NAME", help="column with the model's confidence, 0 to 1")
    add("--label-column", metavar="NAME", help="column with the true label, which is not a feature")
    add("--time-column", metavar="NAME", help="column with the time at which a row arrived, which is not a feature")
    add("--ignore", action="append", default=[], metavar="NAME", help="column that is not a feature; repeatable")
    add_csv_options(parser, types)
    add("--confidence-percent", action="store_true", help="the confidence is in percent: 93 or 93%% is 0.93")


def add_csv_options(parser: argparse.ArgumentParser, types: Iterable[str]) -> None:
    """Add the options that say how the fields of a table are read, which may have these input types."""
    add = parser.add_argument
    text = f"type of a column: {', '.join(types)}; repeatable"
    add("--type", action="append", default=[], metavar="NAME=TYPE", help=text)
    add("--delimiter", type=_delimiter, default=",", metavar="CHARACTER", help="field separator of CSV")
    add("--decimal", choices=(".", ","), default=".", metavar="CHARACTER", help="decimal separator of numbers in CSV")


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> Iterator[str]:
    """Yield the rows of a table as lines, with columns of equal width; those in ``right`` are aligned there.

    >>> list(aligned([("slice", "size"), ("a", "1")], right=[1]))
    ['slice  size', 'a         1']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        yield "  ".join(cell.rjust(size) if at in right else cell.ljust(size) for at, (cell, size) in cells).rstrip()


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a type for argparse: a whole number within bounds."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, got {text}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """Parse a number of seconds, up to a day; a type for argparse."""
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) <= 86_400:
            return number
    raise argparse.ArgumentTypeError(f"expected seconds above 0 and up to 86400, got {text!r}")


def moment(text: str) -> datetime:
    """Parse a time, RFC 3339, local without an offset; a type for argparse."""
    with contextlib.suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).astimezone(UTC)
    raise argparse.ArgumentTypeError(f"expected a time such as 2026-11-24T10:00:00Z, got {text!r}")


def checked(parse: Callable[[str], _Value]) -> Callable[[str], _Value]:
    """Return a type for argparse that reports the ValueError of a function."""

    def checked_parse(text: str) -> _Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked_parse


def _delimiter(text: str) -> str:
    delimiter = {"tab": "\t", r"\t": "\t"}.get(text, text)
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
        raise argparse.ArgumentTypeError(f"expected one character such as ; or the word tab, got {text!r}")
    return delimiter


DEFAULT_URL = "http://127.0.0.1:9877"


def add_exporter_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name an exporter, and hold the credentials for it."""
    parser.add_argument("--exporter", default=DEFAULT_URL, metavar="URL", help="URL of the exporter")
    add_credentials(parser, "MODEL_EXPORTER")


def exporter_client(options: argparse.Namespace, timeout: float, **settings: Any) -> Client:
    """Return a client of the exporter in ``--exporter``, with the credentials in the options of `add_credentials`.

    Parameters
    ----------
    options
        The options.
    timeout, settings
        See `Client`.
    """
    from exporter.http_client import WHEN_BUSY, Client

    settings = {"retries": WHEN_BUSY, "ca_file": options.ca_file, "timeout": timeout} | settings
    return Client(options.exporter, "--exporter", authorization=lambda: credentials(options).header(), **settings)


def serve_metrics(where: Address, registry: CollectorRegistry, readiness: Callable[[], tuple[bool, str]]) -> WSGIServer:
    """Serve metrics, those of the process too, and probes from a thread.

    Parameters
    ----------
    where
        The address.
    registry
        The metrics.
    readiness
        Returns whether the program is ready, and a sentence about it.

    Raises
    ------
    ExporterError
        When the address cannot be used.
    """
    from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
    from prometheus_client.exposition import ThreadingWSGIServer, _SilentHandler, make_wsgi_app

    for kind in (ProcessCollector, PlatformCollector, GCCollector):
        kind(registry=registry)
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return cast(Iterable[bytes], metrics(environ, start_response))
        ready, text = readiness() if path == "/-/ready" else (path == "/-/healthy", path.removeprefix("/-/"))
        status = "200 OK" if ready else "503 Service Unavailable" if path == "/-/ready" else "404 Not Found"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    class Server(ThreadingWSGIServer):
        address_family = socket.AF_INET6 if ":" in where.host else socket.AF_INET

    try:
        server = make_server(where.host or "0.0.0.0", where.port, app, Server, _SilentHandler)  # noqa: S104
    except OSError as error:
        raise ExporterError(f"cannot listen on {where}: {error.strerror or error}") from None
    threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True).start()
    logging.getLogger(__name__).info("metrics and probes on http://%s", Address(where.host, server.server_port))
    return server


QUIET_SECONDS = 10.0
"""Seconds between two lines of a kind."""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class LogFormatter(logging.Formatter):
    """Formats a record as one line: time, level, component, message, and the traceback if there is one."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self._as_json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": "warn" if record.levelno == logging.WARNING else record.levelname.lower(),
            "component": record.name.removeprefix("exporter.").replace("._", "."),
            "msg": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        if self._as_json:
            return printable(json.dumps(fields, ensure_ascii=False))
        return " ".join(f"{key}={_quote(value)}" for key, value in fields.items())


def _quote(value: str) -> str:
    plain = value.isascii() and value.isprintable() and value and not set(' "=') & set(value)
    return value if plain else printable(json.dumps(value, ensure_ascii=False))


class Moderation:
    """Logs of each kind of line one in ten seconds."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._logged = log, dict[str, float]()

    def warn(self, kind: str, text: str, *values: object) -> None:
        """Log a warning unless one of this kind was logged a moment ago."""
        if self.is_due(kind):
            self._log.warning(text, *values)

    def is_due(self, kind: str) -> bool:
        """Return whether no line of this kind was logged a moment ago."""
        now = time.monotonic()
        if now - self._logged.get(kind, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        self._logged[kind] = now
        return True


def configure_logging(level: str, style: str) -> None:
    """Log this package's records from ``level`` on, and warnings of other packages."""
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter(style))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("exporter").setLevel(LEVELS[level])
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each retry; the commands log those now and then


def refused_events(document: Any) -> Iterator[tuple[int, str, str]]:
    """Yield the index in the request, the pointer and the detail of each event that an exporter's response refuses."""
    for item in document.get("rejected", ()):
        yield int(item["index"]), str(item.get("pointer", "")), str(item["detail"])
    for item in document.get("errors", ()):
        index, _, rest = str(item["pointer"]).removeprefix("/").partition("/")
        yield int(index), rest and f"/{rest}", str(item["detail"])


def ask(client: Client, method: str, path: str, document: Any = None, **headers: str) -> Any:
    """Return the document of a successful response of an exporter.

    Raises
    ------
    ExporterError
        When the exporter does not answer, or refuses the request.
    """
    response = client.request(method, path, json=document, headers=headers)
    if response.status >= 400:
        raise ExporterError(f"{client.url}: {response.error_message()}")
    return read_document(client, response)


def read_document(client: Client, response: Response) -> Any:
    """Return the JSON document of a response."""
    try:
        return json.loads(response.body)
    except ValueError:
        expected = "expected a JSON document, got another response: is it an exporter?"
        raise ExporterError(f"{client.url}: {expected}") from None
