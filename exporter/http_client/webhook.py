"""Signed webhooks, after the Standard Webhooks specification (https://www.standardwebhooks.com).

The receiver computes the HMAC-SHA256 of ``ID.TIMESTAMP.BODY`` with the shared secret and compares it with the header
``webhook-signature``. It refuses old timestamps, and ignores an ``ID`` that it knows: a request may arrive twice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from exporter.errors import ConfigError
from exporter.secret_file import read_secret_file

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
