"""The web configuration file, in the format of Prometheus' exporter-toolkit: TLS and users."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import bcrypt
import msgspec

from exporter.config import convert, load_yaml
from exporter.errors import ConfigError

_CACHED = 100  # credentials that were right: bcrypt is slow on purpose, and each scrape would pay
_HASH = re.compile(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``tls_server_config``; paths are absolute once loaded."""

    cert_file: str
    key_file: str
    client_ca_file: str | None = None
    client_auth_type: Literal["NoClientCert", "RequireAndVerifyClientCert"] = "NoClientCert"
    min_version: Literal["TLS12", "TLS13"] = "TLS12"


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tls_server_config: TlsConfig | None = None
    basic_auth_users: dict[str, str] = {}


class WebConfig:
    """Who may ask, and how the connection is protected.

    Parameters
    ----------
    tls
        Certificates; None for plain HTTP.
    users
        bcrypt hashes by user name; empty for no authentication.
    """

    def __init__(self, tls: TlsConfig | None = None, users: dict[str, str] | None = None) -> None:
        self.tls = tls
        self.users = users or {}
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()
        # An unknown user costs as much time as a known one.
        self._nobody = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(10)) if self.users else b""

    def authenticated(self, header: str | None) -> bool:
        """Whether an ``Authorization`` header names a user with the right password."""
        if not self.users:
            return True
        scheme, _, encoded = (header or "").partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return False
        if not colon or len(password) > 72:  # bcrypt hashes no more
            return False
        digest = hashlib.sha256(encoded.encode()).digest()
        with self._lock:
            if digest in self._good:
                return True
        known = self.users.get(user.decode("utf-8", "replace"))
        right = bcrypt.checkpw(password, known.encode() if known else self._nobody)
        if not (right and known):
            return False
        with self._lock:
            self._good[digest] = None
            if len(self._good) > _CACHED:
                self._good.popitem(last=False)
        return True

    def granian(self) -> dict[str, Any]:
        """The same as the server's arguments."""
        if self.tls is None:
            return {}
        from granian.constants import SSLProtocols

        return {
            "ssl_cert": Path(self.tls.cert_file),
            "ssl_key": Path(self.tls.key_file),
            "ssl_protocol_min": SSLProtocols.tls13 if self.tls.min_version == "TLS13" else SSLProtocols.tls12,
            "ssl_ca": Path(self.tls.client_ca_file) if self.tls.client_ca_file else None,
            "ssl_client_verify": self.tls.client_auth_type == "RequireAndVerifyClientCert",
        }


def load(path: Path | None) -> WebConfig:
    """Read a web configuration file; without one, plain HTTP for everybody.

    Raises
    ------
    ConfigError
        With the file, the key, and what is wrong with it.
    """
    if path is None:
        return WebConfig()
    document = convert(load_yaml(path) or {}, _Document, str(path))
    for user, hashed in document.basic_auth_users.items():
        if not _HASH.fullmatch(hashed):  # not quoted: it may be a password
            raise ConfigError(f"{path}: basic_auth_users.{user}: expected a bcrypt hash such as htpasswd -B makes")
    tls = document.tls_server_config
    if tls is not None:
        tls = msgspec.structs.replace(
            tls, **{key: _file(path, key, value) for key in ("cert_file", "key_file") if (value := getattr(tls, key))}
        )
        if tls.client_ca_file:
            tls = msgspec.structs.replace(tls, client_ca_file=_file(path, "client_ca_file", tls.client_ca_file))
        elif tls.client_auth_type != "NoClientCert":
            raise ConfigError(f"{path}: tls_server_config.client_ca_file: is required to verify clients")
    return WebConfig(tls, document.basic_auth_users)


def _file(path: Path, key: str, value: str) -> str:
    file = path.resolve().parent / value
    try:
        file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: tls_server_config.{key}: {file}: {error.strerror}") from None
    return str(file)
