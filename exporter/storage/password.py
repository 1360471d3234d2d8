"""Read the database's password from a file."""

from __future__ import annotations

from pathlib import Path

from exporter.errors import StoreError


def read_password(path: str) -> str:
    """Return the password in a file, without a line end after it.

    Raises
    ------
    StoreError
        When the file cannot be read, or is empty.
    """
    try:
        password = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        detail = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise StoreError(f"store.password_file: {path}: cannot be read: {detail}") from None
    if not password:
        raise StoreError(f"store.password_file: {path}: is empty; expected the password")
    return password
