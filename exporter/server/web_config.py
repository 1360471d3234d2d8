"""The web configuration file, in the format of Prometheus' exporter-toolkit: TLS and users; and who asks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import bcrypt
import msgspec

from exporter.errors import ConfigError
from exporter.server import tokens
from exporter.server.tokens import Caller, Tokens
from exporter.validation import any_of, convert, load_yaml, preview

_CACHED = 100  # credentials that were right: bcrypt is slow on purpose, and each scrape would pay
_HASH = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$([./A-Za-z0-9]{22})[./A-Za-z0-9]{31}")
_UNSUPPORTED = {
    "tls_server_config.cert": "name a cert_file instead",
    "tls_server_config.key": "name a key_file instead",
    "tls_server_config.client_ca": "name a client_ca_file instead",
    "tls_server_config.client_allowed_sans": "every certificate of client_ca_file is taken",
    "tls_server_config.max_version": "TLS13 is the newest that is spoken",
    "tls_server_config.cipher_suites": "the server chooses safe ones",
    "tls_server_config.prefer_server_cipher_suites": "the server chooses safe ones",
    "tls_server_config.curve_preferences": "the server chooses safe ones",
    "http_server_config": "the server speaks HTTP/1.1 and sets its headers itself",
    "rate_limit": "the queue refuses what is too much",
}
"""Keys of the format that would mean something else here, and what to know without them."""
_FILES = ("cert_file", "key_file", "client_ca_file")
_CHOICES = {"client_auth_type": ("NoClientCert", "RequireAndVerifyClientCert"), "min_version": ("TLS12", "TLS13")}


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``tls_server_config``; paths are absolute once loaded."""

    cert_file: str
    key_file: str
    client_ca_file: str | None = None
    client_auth_type: str = "NoClientCert"
    min_version: str = "TLS12"


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tls_server_config: dict[Any, Any] | None = None
    basic_auth_users: dict[Any, Any] | None = None


class WebConfig:
    """Who may ask, and how the connection is protected.

    Parameters
    ----------
    tls
        Certificates; None for plain HTTP.
    users
        bcrypt hashes by user name.
    tokens
        Bearer tokens; None where no file of them is named. Without users and without it everybody is let in.
    open_metrics
        Whether scrapes and probes are let in whoever they are.

    Attributes
    ----------
    renewed
        Called by `reload`, in its thread, when the server must read the certificates again.
    """

    def __init__(
        self,
        tls: TlsConfig | None = None,
        users: dict[str, str] | None = None,
        tokens: Tokens | None = None,
        open_metrics: bool = False,
    ) -> None:
        self.tls = tls
        self.renewed: Callable[[], None] = lambda: None
        self._files = _contents(tls)
        self.open_metrics = open_metrics
        self._lock = threading.Lock()
        self._hashing = threading.Lock()
        self._set(users or {}, tokens)

    def _set(self, users: dict[str, str], tokens: Tokens | None) -> None:
        """From now on these users and their passwords of now, and these tokens."""
        self.users = users
        self.tokens = tokens
        self._good: OrderedDict[bytes, Caller] = OrderedDict()
        # An unknown user costs as much time as a known one: a hash of the same cost, of no password.
        cost = max((int(hashed.split("$")[2]) for hashed in self.users.values()), default=10)
        self._nobody = bcrypt.gensalt(cost) + b"." * 31

    @property
    def guarded(self) -> bool:
        """Whether a caller must say who it is."""
        return bool(self.users) or self.tokens is not None

    @property
    def wanted(self) -> str:
        """What a caller needs to be let in, in words."""
        ways = ["a user with a password"] * bool(self.users)
        ways += ["a bearer token"] * (self.tokens is not None)
        return f"{' or '.join(ways)} is needed"

    @property
    def challenges(self) -> tuple[tuple[str, str], ...]:
        """The headers that say how to."""
        schemes = (("Basic", bool(self.users)), ("Bearer", self.tokens is not None))
        return tuple(("WWW-Authenticate", f'{name} realm="model-exporter"') for name, offered in schemes if offered)

    def reload(self, path: Path | None, token_file: Path | None = None) -> None:
        """Read users, tokens and certificates again; other settings of TLS need a restart.

        Calls ``renewed`` where a certificate or a key is another one than before.

        Raises
        ------
        ConfigError
            When a file is wrong, or the TLS settings changed.
        """
        newer = load(path, token_file)
        if newer.tls != self.tls:
            raise ConfigError(f"{path}: tls_server_config: a change needs a restart; renewed files do not")
        self._set(newer.users, newer.tokens)
        if newer._files != self._files:
            self._files = newer._files
            self.renewed()

    def remembered(self, header: str | None) -> Caller | None:
        """Who sends an ``Authorization`` header with a token, or a password that was right before: costs no hashing.

        What is looked up is a SHA-256, never the secret: how long that takes tells nothing about one.
        """
        scheme, _, credentials = (header or "").partition(" ")
        if scheme.lower() == "bearer":
            return (self.tokens or {}).get(tokens.digest(credentials.strip()))
        return self._good.get(tokens.digest(credentials)) if scheme.lower() == "basic" else None

    def authenticated(self, header: str | None) -> Caller | None:
        """Who sends an ``Authorization`` header; None where nobody is known by it."""
        if caller := self.remembered(header):
            return caller
        good, users = self._good, self.users  # in this order: a reload meanwhile must not remember a former user
        scheme, _, encoded = (header or "").partition(" ")
        if scheme.lower() != "basic" or not users:
            return None
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return None
        if not colon or len(password) > 72:  # bcrypt hashes no more
            return None
        name = user.decode("utf-8", "replace")
        known = users.get(name)
        with self._hashing:  # one at a time: wrong passwords must not take every processor
            right = bcrypt.checkpw(password, known.encode() if known else self._nobody)
        if not (right and known):
            return None
        caller = tokens.user(name)
        with self._lock:
            good[tokens.digest(encoded)] = caller
            if len(good) > _CACHED:
                good.popitem(last=False)
        return caller

    def context(self) -> ssl.SSLContext | None:
        """The certificates of now, for a server; None for plain HTTP.

        Raises
        ------
        OSError, ssl.SSLError
            When a file changed for the worse since it was checked.
        """
        if self.tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if self.tls.min_version == "TLS13" else ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.tls.cert_file, self.tls.key_file, password="")  # or it would ask at the terminal
        if self.tls.client_ca_file:
            context.load_verify_locations(self.tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def _contents(tls: TlsConfig | None) -> tuple[bytes, ...]:
    """SHA-256 of the files that protect the connection."""
    names = [getattr(tls, key) for key in _FILES] if tls else []
    return tuple(hashlib.sha256(Path(name).read_bytes()).digest() for name in names if name)


def load(path: Path | None, token_file: Path | None = None, open_metrics: bool = False) -> WebConfig:
    """Read a web configuration file and a file of tokens; without them, plain HTTP for everybody.

    Raises
    ------
    ConfigError
        With the file, the key, and what is wrong with it.
    """
    tls, users = (None, {}) if path is None else _read(path)
    known = None if token_file is None else tokens.load(token_file, users)
    return WebConfig(tls, users, known, open_metrics)


def _read(path: Path) -> tuple[TlsConfig | None, dict[str, str]]:
    raw = load_yaml(path)
    for key, instead in _UNSUPPORTED.items():
        found = raw
        for step in key.split("."):
            found = found.get(step) if isinstance(found, dict) else None
        if found is not None:
            raise ConfigError(f"{path}: {key}: is not supported here; {instead}")
    document = convert({} if raw is None else raw, _Document, str(path), quoted=False)
    users = {user: _hash(path, user, hashed) for user, hashed in (document.basic_auth_users or {}).items()}
    return _tls(path, document.tls_server_config) if document.tls_server_config else None, users


def _hash(path: Path, user: Any, hashed: Any) -> str:
    place = f"{path}: basic_auth_users.{user}"
    if not isinstance(user, str):
        raise ConfigError(f'{place}: expected a string as the user\'s name; write it in quotes: "{user}"')
    try:
        if not isinstance(hashed, str) or not (parts := _HASH.fullmatch(hashed)):
            raise ValueError
        bcrypt.hashpw(b"", f"$2b$04${parts[2]}".encode())  # as cheap as it gets: refuses what is no salt
    except ValueError:  # the value is not quoted: it may be a password
        raise ConfigError(f"{place}: expected a bcrypt hash such as htpasswd -nBC 10 {user} prints") from None
    return hashed


def _tls(path: Path, document: dict[Any, Any]) -> TlsConfig:
    """Absolute paths, once everything is known to work."""
    tls = convert(document, TlsConfig, str(path), ("tls_server_config",))

    def refuse(key: str, detail: str) -> NoReturn:
        raise ConfigError(f"{path}: tls_server_config.{key}: {detail}") from None

    for key, choices in _CHOICES.items():
        if (value := getattr(tls, key)) not in choices:
            refuse(key, f"expected {any_of(choices)}, got {preview(value)}")
    if tls.client_ca_file and tls.client_auth_type == "NoClientCert":
        refuse("client_auth_type", "is required beside client_ca_file: RequireAndVerifyClientCert")
    if not tls.client_ca_file and tls.client_auth_type != "NoClientCert":
        refuse("client_ca_file", "is required to verify clients")
    files = {key: str(path.absolute().parent / value) for key in _FILES if (value := getattr(tls, key)) is not None}
    for key, file in files.items():
        try:
            Path(file).read_bytes()
            if key != "key_file":
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
        except ssl.SSLError:
            refuse(key, f"{file}: is not a certificate in PEM")
        except OSError as error:
            refuse(key, f"{file}: cannot be read: {error.strerror}")
    try:
        # An empty password, or a key that has one would ask for it at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files["cert_file"], files["key_file"], password="")
    except ssl.SSLError as error:
        other = error.reason == "KEY_VALUES_MISMATCH"
        refuse(
            "key_file",
            f"{files['key_file']}: is not {'the key of cert_file' if other else 'a key in PEM without a password'}",
        )
    return msgspec.structs.replace(tls, **files)
