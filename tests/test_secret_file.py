"""Secrets from files, with errors that name the file and never show what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.errors import ConfigError
from exporter.secret_file import MAX_BYTES, read_secret_file


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"pass word\n", "pass word"),
        (b"pass\r\n", "pass"),
        (b"pass", "pass"),
        (b" pass \n", " pass "),
        (b"\xef\xbb\xbfpa\xc3\x9f\n", "paß"),
        (b"x" * MAX_BYTES, "x" * MAX_BYTES),
    ],
)
def test_the_only_line_is_the_secret(tmp_path: Path, content: bytes, secret: str) -> None:
    """Its line end, of any system, and a byte order mark do not belong to it; spaces do."""
    (tmp_path / "secret").write_bytes(content)
    assert read_secret_file(str(tmp_path / "secret"), "key") == secret


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\n\n", "is empty; expected one line of text"),
        (b"s3cret\ns3cret2\n", "expected one line with the secret and nothing else"),
        (b"s3cret\rs3cret2", "expected one line with the secret and nothing else"),
        (b"s" * (MAX_BYTES + 1), "expected one line with the secret and nothing else"),
        ("s3cret".encode("utf-16"), "cannot be read: it is not UTF-8"),
    ],
)
def test_anything_else_is_an_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    """The error names the setting, the file and what is wrong."""
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_secret_file(str(file), "key")
    assert str(error.value) == f"key: {file}: {message}"


def test_an_endless_file_is_not_read_to_its_end() -> None:
    """A device takes no memory."""
    with pytest.raises(ConfigError, match="expected one line"):
        read_secret_file("/dev/zero", "key")
