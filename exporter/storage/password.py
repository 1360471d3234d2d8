"""The password of the database, from a file."""

from __future__ import annotations

from pathlib import Path

from exporter.errors import StoreError


def read_password(path: str) -> str:
    """The password in a file; a line's end after it does not belong to it.

    Raises
    ------
    StoreError
        When it cannot be read, or there is none in it.
    """
    try:
        password = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise StoreError(f"store.password_file: {path}: cannot be read: {detail}") from None
    if not password:
        raise StoreError(f"store.password_file: {path}: is empty; expected the password")
    return password
