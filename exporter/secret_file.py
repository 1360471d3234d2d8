"""Read a password, a token or another secret from a file."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from pathlib import Path

from exporter.errors import ConfigError

MAX_BYTES = 64 * 1024
"""Size of a file up to which it may hold a secret."""


def read_secret_file(path: str, setting: str) -> str:
    """Return the only line of a file, without its line end.

    Parameters
    ----------
    path
        The file.
    setting
        The key, option or variable that names the file, for error messages. They never show what is in it.

    Raises
    ------
    ConfigError
        When the file cannot be read, or does not hold one line of text.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig").rstrip("\r\n")  # editors on Windows put a byte order mark before it
    except OSError as error:
        raise ConfigError(f"{setting}: {path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{setting}: {path}: cannot be read: it is not UTF-8") from None
    if not text:
        raise ConfigError(f"{setting}: {path}: is empty; expected one line of text")
    if len(content) > MAX_BYTES or "\n" in text or "\r" in text:
        raise ConfigError(f"{setting}: {path}: expected one line with the secret and nothing else")
    return text


PREFIX = "whsec_"
"""Secrets that begin so are base64, as the libraries of the specification have them; others are taken as text."""
MIN_BYTES = 16


def read_secret(path: str, key: str) -> bytes:
    """Return the secret in a file.

    Parameters
    ----------
    path
        The file.
    key
        The key of the configuration that names it, for error messages.

    Raises
    ------
    ConfigError
        When the file cannot be read, or does not hold one line with a secret of `MIN_BYTES` bytes.
    """
    text = read_secret_file(path, key)
    if not text.startswith(PREFIX):
        secret = text.encode()
    else:
        try:
            secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            raise ConfigError(f"{key}: {path}: expected base64 after {PREFIX}") from None
    if len(secret) < MIN_BYTES:
        raise ConfigError(f"{key}: {path}: expected a secret of at least {MIN_BYTES} bytes, got {len(secret)}")
    return secret


def signed_headers(secret: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message.

    >>> headers = signed_headers(b"0123456789abcdef", "msg_1", 1764000000, b"{}")
    >>> headers["webhook-id"], headers["webhook-timestamp"]
    ('msg_1', '1764000000')
    """
    signature = sign(secret, message_id, str(timestamp), body)
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
    }


def sign(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a message: ``v1,`` and base64."""
    signed = b"%s.%s.%s" % (message_id.encode(), timestamp.encode(), body)
    return f"v1,{base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()}"


def is_signed(secret: bytes, message_id: str, timestamp: str, body: bytes, signatures: str) -> bool:
    """Return whether one of the signatures, separated by spaces, is that of the message; in constant time."""
    expected = sign(secret, message_id, timestamp, body).encode()
    return any(hmac.compare_digest(expected, given.encode()) for given in signatures.split(" "))
