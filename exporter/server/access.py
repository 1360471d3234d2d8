"""TLS, users and authentication; the web configuration file has the format of Prometheus' exporter-toolkit."""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import ipaddress
import logging
import re
import ssl
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import bcrypt
import msgspec

from exporter.config import load_yaml
from exporter.errors import ConfigError
from exporter.server.problem import Reply, problem
from exporter.validation import any_of, convert, preview, suggestion

log = logging.getLogger(__name__)

SCOPES = ("feedback", "ingest", "notify", "read", "review")
"""The scopes of tokens."""
USER = "user"
"""The scope of users with a password; no token has it."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


class Bucket:
    """A rate limit: a token bucket that holds what is admitted in one second.

    Parameters
    ----------
    rate
        Events, or whatever else is counted, a second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._available = max(rate, 1.0)
        self._last = 0.0

    def spend(self, amount: float) -> None:
        """Take more than `take` was asked for, also what the bucket does not have yet."""
        self._available -= amount

    def take(self, now: float, amount: int = 1) -> float:
        """Take one event from the bucket, or another amount; return the seconds to wait if it has less, otherwise 0.

        >>> bucket = Bucket(2)
        >>> [bucket.take(now) for now in (10.0, 10.0, 10.0, 10.5, 10.5)]
        [0.0, 0.0, 0.5, 0.0, 0.5]
        """
        self._available = min(self._available + (now - self._last) * self.rate, max(self.rate, 1.0))
        self._last = now
        if self._available < amount:
            return (amount - self._available) / self.rate
        self._available -= amount
        return 0.0


class Shares:
    """What each caller has waiting, within a limit of all together.

    One caller may have half of it and, of so many that have something waiting, each an equal share with one to spare.
    So whoever comes next finds room, however much one caller sends, until ten have filled theirs: all together have at
    most twice the limit. What is added at once may exceed a share.
    """

    def __init__(self) -> None:
        self.total = 0
        self._of: dict[str, int] = {}

    def is_full(self, caller: str, limit: float, least: float = 0) -> bool:
        """Return whether a caller has its share of the limit already, which is not below ``least``."""
        share = max(limit / (len(self._of) + 1), least)
        return self.total >= share and (self.total >= 2 * limit or self._of.get(caller, 0) >= share)

    def add(self, caller: str, amount: int) -> None:
        """Count what waits now or, with a negative amount, what waits no more."""
        self.total += amount
        self._of[caller] = self._of.get(caller, 0) + amount
        if not self._of[caller]:
            del self._of[caller]


class Caller(NamedTuple):
    """The sender of a request: a user of the web configuration or the name of a token, which may have a rate limit."""

    name: str
    scopes: frozenset[str]
    bucket: Bucket | None = None


class Sender(NamedTuple):
    """Who sends a request: the client's address, which is empty on a Unix socket, and who it has proved to be."""

    address: str = ""
    caller: Caller | None = None

    @property
    def name(self) -> str:
        """The name of the user or token; empty where nobody is known."""
        return self.caller.name if self.caller else ""

    @property
    def key(self) -> str:
        """By whom queues and threads are shared: the name or, where nobody is known, the address."""
        return self.caller.name if self.caller else self.address


sender: ContextVar[Sender] = ContextVar("sender", default=Sender())  # noqa: B039 (immutable)
"""Who sends the request of this task or thread."""


Tokens = dict[bytes, Caller]
"""Callers by the SHA-256 of their token."""


class _Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
    sha256: Any  # not typed, so that no message shows it: it may be the token itself by mistake
    scopes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    rate: Annotated[float, msgspec.Meta(ge=0.001, le=1e6)] | None = None


def password_user(name: str) -> Caller:
    """Return the caller for a user, who has all scopes."""
    return Caller(name, frozenset((*SCOPES, USER)))


def digest(token: str) -> bytes:
    """Return the SHA-256 by which a token is looked up."""
    return hashlib.sha256(token.encode()).digest()


def load_tokens(path: Path, users: Iterable[str] = ()) -> Tokens:
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
    return check_tokens([] if raw is None else raw, str(path), users)


def check_tokens(document: Any, where: str, users: Iterable[str] = ()) -> Tokens:
    """Check the document of a tokens file; see `load_tokens`."""
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
            raise ConfigError(f"{path}.sha256: is the same as in [{indices[key]}]; each name needs its own token")
        for number, scope in enumerate(token.scopes):
            if scope not in SCOPES:
                raise ConfigError(
                    f"{path}.scopes[{number}]: {preview(scope)} is not a valid scope; {suggestion(scope, SCOPES)}"
                )
        names[token.name], indices[key] = f"the name of [{index}]", index
        callers[key] = Caller(token.name, frozenset(token.scopes), Bucket(token.rate) if token.rate else None)
    return callers


_CACHED = 100  # valid credentials: bcrypt is slow by design, and every scrape would have to wait for it
_HASH = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$([./A-Za-z0-9]{22})[./A-Za-z0-9]{31}")


def _cost(hashed: str) -> int:
    return int(hashed.split("$")[2])


def _no_password(cost: int) -> str:
    """Return a bcrypt hash that takes as long to check as others of this cost, and matches no password."""
    return bcrypt.gensalt(cost).decode() + "." * 31


_UNSUPPORTED = {
    "tls_server_config.cert": "name a cert_file instead",
    "tls_server_config.key": "name a key_file instead",
    "tls_server_config.client_ca": "name a client_ca_file instead",
    "tls_server_config.client_allowed_sans": "every certificate of client_ca_file is accepted",
    "http_server_config.headers": "the server sets its headers itself",
}
"""Keys of the format that are not supported, and what applies instead."""
_IGNORED = {
    "tls_server_config.max_version": "TLS13 is the newest version",
    "tls_server_config.cipher_suites": "only ECDHE with AES-GCM or ChaCha20 is offered, and TLS 1.3",
    "tls_server_config.prefer_server_cipher_suites": "the server chooses safe ones",
    "tls_server_config.curve_preferences": "the server chooses safe ones",
    "http_server_config": "the server speaks HTTP/1.1",
    "rate_limit": "senders share the queue and the threads, and a token may have a rate",
}
"""Keys of the format that are ignored, which weakens nothing, and what applies instead."""
_FILES = ("cert_file", "key_file", "client_ca_file")
_CHOICES = {"client_auth_type": ("NoClientCert", "RequireAndVerifyClientCert"), "min_version": ("TLS12", "TLS13")}


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``tls_server_config``; its paths are absolute after loading."""

    cert_file: str
    key_file: str
    client_ca_file: str | None = None
    client_auth_type: str = "NoClientCert"
    min_version: str = "TLS12"


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tls_server_config: dict[Any, Any] | None = None
    basic_auth_users: dict[Any, Any] | None = None


class WebConfig:
    """Authentication of requests, and TLS.

    Parameters
    ----------
    tls
        The TLS settings; None for plain HTTP.
    users
        bcrypt hashes by user name.
    tokens
        Bearer tokens; None without a tokens file. Without users and without a tokens file, all requests are allowed.
    open_metrics
        Whether scrapes and probes need no authentication.

    Attributes
    ----------
    renewed
        Called by `reload` in its thread when the server must load the certificates again.
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
        self._files = [hash(Path(file).read_bytes()) for key in _FILES if (file := getattr(tls, key, None))]
        self.open_metrics = open_metrics
        self._lock = threading.Lock()
        self._hashing = threading.Lock()
        self.users: dict[str, str] = {}
        self._valid: OrderedDict[bytes, Caller] = OrderedDict()
        self._set(users or {}, tokens)

    def _set(self, users: dict[str, str], tokens: Tokens | None) -> None:
        """Replace the users and tokens, and forget the passwords that are no longer valid."""
        kept = {name for name, hashed in users.items() if self.users.get(name) == hashed}
        self.users = users
        self.tokens = tokens
        with self._lock:
            self._valid = OrderedDict(item for item in self._valid.items() if item[1].name in kept)
        # The cost of every user, also of unknown ones, so that none takes less time than another.
        self._cost = max(map(_cost, self.users.values()), default=10)
        self._unknown_user_hash = _no_password(self._cost)

    @property
    def guarded(self) -> bool:
        """Whether requests must be authenticated."""
        return bool(self.users) or self.tokens is not None

    def refusal(self, authorization: str | None) -> str:
        """Return the message for a request without valid credentials, whatever its header ``Authorization`` holds."""
        credentials = ["a user with a password"] * bool(self.users)
        credentials += ["a bearer token"] * (self.tokens is not None)
        sent = "; those in the header Authorization are not valid" if authorization else ""
        return f"{' or '.join(credentials)} is required{sent}"

    @property
    def challenges(self) -> tuple[tuple[str, str], ...]:
        """The ``WWW-Authenticate`` headers of such a response."""
        schemes = (("Basic", bool(self.users)), ("Bearer", self.tokens is not None))
        return tuple(("WWW-Authenticate", f'{name} realm="model-exporter"') for name, offered in schemes if offered)

    def reload(self, path: Path | None, token_file: Path | None = None) -> None:
        """Read users, tokens and certificates again; other TLS settings require a restart.

        Calls ``renewed`` if a certificate or a key changed.

        Raises
        ------
        ConfigError
            When a file is not valid, or the TLS settings changed.
        """
        loaded = load(path, token_file)
        if loaded.tls != self.tls:
            raise ConfigError(f"{path}: tls_server_config: a change needs a restart; renewed files do not")
        self._set(loaded.users, loaded.tokens)
        if loaded._files != self._files:
            self._files = loaded._files
            self.renewed()

    def remembered(self, header: str | None) -> Caller | None:
        """Return the caller with a token or with a password that was valid before; takes no bcrypt hashing.

        The lookup uses the SHA-256 of the secret, so that the time it takes reveals nothing about the secret.
        """
        scheme, _, credentials = (header or "").partition(" ")
        if scheme.lower() == "bearer":
            return (self.tokens or {}).get(digest(credentials.strip()))
        return self._valid.get(digest(credentials)) if scheme.lower() == "basic" else None

    def authenticated(self, header: str | None) -> Caller | None:
        """Return the caller by an ``Authorization`` header; None if the credentials are not valid."""
        if caller := self.remembered(header):
            return caller
        valid, users = self._valid, self.users  # in this order: after a reload no former user may be remembered
        scheme, _, encoded = (header or "").partition(" ")
        if scheme.lower() != "basic" or not users:
            return None
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return None
        if not colon or len(password) > 72:  # bcrypt supports no longer passwords
            return None
        name = user.decode("utf-8", "replace")
        hashed = users.get(name)
        with self._hashing:  # one at a time: wrong passwords must not occupy every processor
            matches = bcrypt.checkpw(password, (hashed or self._unknown_user_hash).encode())
            for cost in range(_cost(hashed) if hashed else self._cost, self._cost):  # 2ⁿ + 2ⁿ + 2ⁿ⁺¹ + … rounds
                bcrypt.checkpw(password, _no_password(cost).encode())
        if not (matches and hashed):
            return None
        caller = password_user(name)
        with self._lock:
            valid[digest(encoded)] = caller
            if len(valid) > _CACHED:
                valid.popitem(last=False)
        return caller

    def context(self) -> ssl.SSLContext | None:
        """Return a server's TLS context with the current certificates; None for plain HTTP.

        Raises
        ------
        OSError, ssl.SSLError
            When a file has become invalid since it was checked.
        """
        if self.tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if self.tls.min_version == "TLS13" else ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self.tls.cert_file, self.tls.key_file, password="")  # else it prompts on the terminal
        if self.tls.client_ca_file:
            context.load_verify_locations(self.tls.client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def load(path: Path | None, token_file: Path | None = None, open_metrics: bool = False) -> WebConfig:
    """Read a web configuration file and a tokens file; without them, plain HTTP without authentication.

    Raises
    ------
    ConfigError
        With the file, the key, and what is wrong with it.
    """
    tls, users = (None, {}) if path is None else _read(path)
    callers = None if token_file is None else load_tokens(token_file, users)
    return WebConfig(tls, users, callers, open_metrics)


def _read(path: Path) -> tuple[TlsConfig | None, dict[str, str]]:
    raw = load_yaml(path)
    for key, instead in (_UNSUPPORTED | _IGNORED).items():
        *parents, name = key.split(".")
        section = raw
        for step in parents:
            section = section.get(step) if isinstance(section, dict) else None
        if not isinstance(section, dict) or section.get(name) is None:
            continue
        if key in _UNSUPPORTED:
            raise ConfigError(f"{path}: {key}: is not supported here; {instead}")
        del section[name]
        log.warning("%s: %s is ignored: %s", path, key, instead)
    document = convert({} if raw is None else raw, _Document, str(path), quoted=False)
    users = {user: _hash(path, user, hashed) for user, hashed in (document.basic_auth_users or {}).items()}
    return _tls(path, document.tls_server_config) if document.tls_server_config else None, users


def _hash(path: Path, user: Any, hashed: Any) -> str:
    where = f"{path}: basic_auth_users.{user}"
    if not isinstance(user, str):
        raise ConfigError(f'{where}: expected a string as the user\'s name; write it in quotes: "{user}"')
    try:
        if not isinstance(hashed, str) or not (parts := _HASH.fullmatch(hashed)):
            raise ValueError
        bcrypt.hashpw(b"", f"$2b$04${parts[2]}".encode())  # at the lowest cost: raises ValueError for an invalid salt
    except ValueError:  # the message does not show the value: it may be a password
        raise ConfigError(f"{where}: expected a bcrypt hash such as htpasswd -nBC 10 {user} prints") from None
    return hashed


def _tls(path: Path, document: dict[Any, Any]) -> TlsConfig:
    """Return the TLS settings with absolute paths, after checking that they work."""
    tls = convert(document, TlsConfig, str(path), ("tls_server_config",))
    where = f"{path}: tls_server_config"
    _check_settings(tls, where)
    files = {key: str(path.absolute().parent / value) for key in _FILES if (value := getattr(tls, key)) is not None}
    for key, file in files.items():
        _check_file(file, f"{where}.{key}", is_certificate=key != "key_file")
    _check_key_pair(files["cert_file"], files["key_file"], f"{where}.key_file")
    return msgspec.structs.replace(tls, **files)


def _check_settings(tls: TlsConfig, where: str) -> None:
    for key, choices in _CHOICES.items():
        if (value := getattr(tls, key)) not in choices:
            raise ConfigError(f"{where}.{key}: expected {any_of(choices)}, got {preview(value)}")
    if tls.client_ca_file and tls.client_auth_type == "NoClientCert":
        raise ConfigError(f"{where}.client_auth_type: is required with client_ca_file: RequireAndVerifyClientCert")
    if not tls.client_ca_file and tls.client_auth_type != "NoClientCert":
        raise ConfigError(f"{where}.client_ca_file: is required to verify clients")


def _check_file(file: str, where: str, *, is_certificate: bool) -> None:
    try:
        Path(file).read_bytes()
        if is_certificate:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except ssl.SSLError:
        raise ConfigError(f"{where}: {file}: is not a certificate in PEM") from None
    except OSError as error:
        raise ConfigError(f"{where}: {file}: cannot be read: {error.strerror}") from None


def _check_key_pair(cert_file: str, key_file: str, where: str) -> None:
    try:
        # Without a password OpenSSL would prompt on the terminal for that of an encrypted key.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, password="")
    except ssl.SSLError as error:
        is_other = error.reason == "KEY_VALUES_MISMATCH"
        expected = "the key of cert_file" if is_other else "a key in PEM without a password"
        raise ConfigError(f"{where}: {key_file}: is not {expected}") from None


SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Safe methods (RFC 9110)."""
PRIVATE = (".localhost", ".local", ".internal", ".svc", ".cluster.local")
"""Ends of names that nobody can register, such as those of services in Kubernetes; so are names without a dot."""
OPEN = frozenset({"/metrics", "/-/healthy", "/-/ready"})
"""Paths that need no authentication with ``--web.open-metrics``: scrapes and probes."""


def scope_error(caller: Caller, needed: str | None) -> Reply | None:
    """Return the problem of a caller without the scope; None for a caller that has it."""
    if needed is None or needed in caller.scopes:
        return None
    has = ", ".join(sorted(caller.scopes))
    if needed == USER:
        return problem(403, f"only a user with a password may do this; {preview(caller.name)} is a token")
    detail = f"the token {preview(caller.name)} does not have the scope {needed}; it has {has}"
    header = ("WWW-Authenticate", f'Bearer realm="model-exporter", error="insufficient_scope", scope="{needed}"')
    return problem(403, detail, headers=(header,), scope=needed)


@functools.lru_cache(maxsize=100)
def is_own_host(host: str, external_url: str | None) -> bool:
    """Return whether a ``Host`` header can only mean this exporter, and not a domain that somebody else owns.

    A page of such a domain, whose address changes to the exporter's once the page is loaded (DNS rebinding), has the
    same origin as the exporter for a browser.

    >>> [is_own_host(host, "https://models.example") for host in ("127.0.0.1:9877", "[::1]", "localhost:1", "")]
    [True, True, True, True]
    >>> [is_own_host(host, "https://models.example") for host in ("Models.example", "exporter:9877", "x.evil.example")]
    [True, True, False]
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        own = (urlsplit(external_url).hostname or "") if external_url else ""
    except ValueError:
        return False
    if not name or name == own or "." not in name or name.endswith(PRIVATE):
        return True
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def origin_error(method: str, header: Callable[[str], str | None]) -> Reply | None:
    """Return the problem of an unsafe request that a browser sends for a page of another origin; None for all others.

    ``header`` returns the value of a header by its name in lower case.

    Browsers name the origin of a request in headers that a page cannot change; other programs send neither.
    ``Sec-Fetch-Site`` is the more reliable one, but browsers send it only over ``https`` and to localhost. Without
    it, ``Origin`` must have the same host as ``Host``. Its scheme may differ, because a proxy may terminate TLS.
    """
    if method in SAFE:
        return None
    site, origin = header("sec-fetch-site"), header("origin")
    if site is not None:
        same_origin = site in {"same-origin", "none"}
    else:
        same_origin = origin is None or origin.partition("://")[2].lower() == (header("host") or "/").lower()
    if same_origin:
        return None
    return problem(
        403,
        f"a page of another origin ({preview(origin or site)}) sent this request, and only the exporter's own pages "
        "may send it; programs must not send an Origin header, and proxies must pass the Host header on",
    )
