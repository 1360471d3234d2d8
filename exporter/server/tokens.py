"""Bearer tokens: their names, scopes and rate limits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from exporter.config.yaml_file import load_yaml
from exporter.errors import ConfigError
from exporter.validation import convert, preview, suggestion

SCOPES = ("feedback", "ingest", "read", "review")
"""The scopes of tokens."""
USER = "user"
"""The scope of users with a password; no token has it."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


class Bucket:
    """The rate limit of a token, a token bucket that holds the requests of one second.

    Parameters
    ----------
    rate
        Requests a second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._available = max(rate, 1.0)
        self._last = 0.0

    def take(self, now: float) -> float:
        """Take one request from the bucket; return the seconds to wait if it is empty, otherwise 0.

        >>> bucket = Bucket(2)
        >>> [bucket.take(now) for now in (10.0, 10.0, 10.0, 10.5, 10.5)]
        [0.0, 0.0, 0.5, 0.0, 0.5]
        """
        self._available = min(self._available + (now - self._last) * self.rate, max(self.rate, 1.0))
        self._last = now
        if self._available < 1:
            return (1 - self._available) / self.rate
        self._available -= 1
        return 0.0


class Caller(NamedTuple):
    """The sender of a request: a user of the web configuration or the name of a token, which may have a rate limit."""

    name: str
    scopes: frozenset[str]
    bucket: Bucket | None = None


Tokens = dict[bytes, Caller]
"""Callers by the SHA-256 of their token."""


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    sha256: Any  # not typed, so that no message shows it: it may be the token itself by mistake
    scopes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    rate: Annotated[float, msgspec.Meta(ge=0.001, le=1e6)] | None = None


def user(name: str) -> Caller:
    """Return the caller for a user, who has all scopes."""
    return Caller(name, frozenset((*SCOPES, USER)))


def digest(token: str) -> bytes:
    """Return the SHA-256 by which a token is looked up."""
    return hashlib.sha256(token.encode()).digest()


def load(path: Path, users: Iterable[str] = ()) -> Tokens:
    """Read a tokens file.

    Parameters
    ----------
    path
        YAML: a list of objects with ``name``, ``sha256``, ``scopes`` and optionally ``rate``.
    users
        Names that tokens cannot have: a name in the history must stand for one person or one program.

    Raises
    ------
    ConfigError
        With the file, the key, and what is wrong with it.
    """
    raw = load_yaml(path)
    return check([] if raw is None else raw, str(path), users)


def check(document: Any, where: str, users: Iterable[str] = ()) -> Tokens:
    """Check the document of a tokens file; see `load`."""
    names: dict[str, str] = dict.fromkeys(users, "a user of the web configuration")
    indices: dict[bytes, int] = {}
    callers: Tokens = {}
    for index, token in enumerate(convert(document, tuple[_Token, ...], where, quoted=False)):
        path = f"{where}: [{index}]"
        if token.name in names:
            detail = f"{preview(token.name)} is also {names[token.name]}; the history needs a name for each"
            raise ConfigError(f"{path}.name: {detail}")
        if not isinstance(token.sha256, str) or not _SHA256.fullmatch(token.sha256):
            detail = "expected the SHA-256 of the token, 64 hexadecimal digits as model-exporter token prints them"
            size = f"; got {len(token.sha256)} characters" if isinstance(token.sha256, str) else ""
            raise ConfigError(f"{path}.sha256: {detail}{size}")
        key = bytes.fromhex(token.sha256)
        if key in indices:
            raise ConfigError(f"{path}.sha256: is the same as that of [{indices[key]}]; each name needs its own token")
        for number, scope in enumerate(token.scopes):
            if scope not in SCOPES:
                raise ConfigError(
                    f"{path}.scopes[{number}]: {preview(scope)} is not a valid scope; {suggestion(scope, SCOPES)}"
                )
        names[token.name], indices[key] = f"the name of [{index}]", index
        callers[key] = Caller(token.name, frozenset(token.scopes), Bucket(token.rate) if token.rate else None)
    return callers
