"""Bearer tokens by name, and the scopes that say what each may do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from exporter.errors import ConfigError
from exporter.validation import convert, load_yaml, preview, suggestion

SCOPES = ("feedback", "ingest", "read", "review")
"""What a token may be for."""
USER = "user"
"""What only a user with a password may: no token has this scope."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


class Bucket:
    """Requests that a token may send: so many a second, and after a quiet second as many at once.

    Parameters
    ----------
    rate
        Requests a second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._room = max(rate, 1.0)
        self._last = 0.0

    def take(self, now: float) -> float:
        """Take one; how many seconds are to wait where there is none left, else 0.

        >>> bucket = Bucket(2)
        >>> [bucket.take(now) for now in (10.0, 10.0, 10.0, 10.5, 10.5)]
        [0.0, 0.0, 0.5, 0.0, 0.5]
        """
        self._room = min(self._room + (now - self._last) * self.rate, max(self.rate, 1.0))
        self._last = now
        if self._room < 1:
            return (1 - self._room) / self.rate
        self._room -= 1
        return 0.0


class Caller(NamedTuple):
    """Who asks: a user of the web configuration, or a token by its name; a token's requests may be limited."""

    name: str
    scopes: frozenset[str]
    bucket: Bucket | None = None


Tokens = dict[bytes, Caller]
"""Who has which token, by the token's SHA-256."""


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    sha256: Any  # not typed, so that no message shows it: it may be the token itself
    scopes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    rate: Annotated[float, msgspec.Meta(ge=0.001, le=1e6)] | None = None


def user(name: str) -> Caller:
    """A user, who may everything."""
    return Caller(name, frozenset((*SCOPES, USER)))


def digest(token: str) -> bytes:
    """What a token is known by."""
    return hashlib.sha256(token.encode()).digest()


def load(path: Path, users: Iterable[str] = ()) -> Tokens:
    """Read a file of tokens.

    Parameters
    ----------
    path
        YAML: a list of ``name``, ``sha256``, ``scopes`` and perhaps ``rate``.
    users
        Names that are taken: a name in the history must be one person or one program.

    Raises
    ------
    ConfigError
        With the file, the key, and what is wrong with it.
    """
    raw = load_yaml(path)
    return check([] if raw is None else raw, str(path), users)


def check(document: Any, where: str, users: Iterable[str] = ()) -> Tokens:
    names: dict[str, str] = dict.fromkeys(users, "a user of the web configuration")
    places: dict[bytes, int] = {}
    found: Tokens = {}
    for index, token in enumerate(convert(document, tuple[_Token, ...], where, quoted=False)):
        place = f"{where}: [{index}]"
        if token.name in names:
            detail = f"{preview(token.name)} is also {names[token.name]}; the history needs a name for each"
            raise ConfigError(f"{place}.name: {detail}")
        if not isinstance(token.sha256, str) or not _SHA256.fullmatch(token.sha256):
            detail = "expected the SHA-256 of the token, 64 hexadecimal digits as model-exporter token prints them"
            size = f"; got {len(token.sha256)} characters" if isinstance(token.sha256, str) else ""
            raise ConfigError(f"{place}.sha256: {detail}{size}")
        key = bytes.fromhex(token.sha256)
        if key in places:
            raise ConfigError(f"{place}.sha256: is that of [{places[key]}]; each name needs a token of its own")
        for number, scope in enumerate(token.scopes):
            if scope not in SCOPES:
                raise ConfigError(
                    f"{place}.scopes[{number}]: {preview(scope)} is no scope; {suggestion(scope, SCOPES)}"
                )
        names[token.name], places[key] = f"the name of [{index}]", index
        found[key] = Caller(token.name, frozenset(token.scopes), Bucket(token.rate) if token.rate else None)
    return found
