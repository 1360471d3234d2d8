"""Log lines in logfmt or JSON, on standard error."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime

from exporter.errors import printable

QUIET_SECONDS = 10.0
"""Seconds between two lines of a kind."""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


class Formatter(logging.Formatter):
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
    """Says of each kind of line whether to log it: one in ten seconds."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def is_due(self, kind: str) -> bool:
        """Return whether no line of this kind was logged a moment ago."""
        now = time.monotonic()
        if now - self._logged.get(kind, -QUIET_SECONDS) < QUIET_SECONDS:
            return False
        self._logged[kind] = now
        return True


def configure(level: str, style: str) -> None:
    """Log this package's records from ``level`` on, and warnings of other packages."""
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(style))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("exporter").setLevel(LEVELS[level])
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each retry; the commands log those now and then
