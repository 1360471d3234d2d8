"""Read a password, a token or another secret from a file."""

from __future__ import annotations

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
