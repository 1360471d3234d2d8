"""Credentials for other servers: the files that hold them, and the header that they make."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable
from typing import NamedTuple

from exporter.errors import ExporterError
from exporter.secret_file import read_secret_file

BEARER_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""A token of RFC 6750."""


class Credentials(NamedTuple):
    """Credentials for a server, and the certificates to trust.

    Attributes
    ----------
    user
        User for basic authentication.
    password_file, bearer_token_file
        Files with the user's password, or with a token instead of a user. Each has one line.
    ca_file
        File with the certificates to trust instead of the system's, in PEM.
    setting
        Returns the name of the option or variable that holds an attribute, for messages.
    """

    user: str | None = None
    password_file: str | None = None
    bearer_token_file: str | None = None
    ca_file: str | None = None
    setting: Callable[[str], str] = lambda name: f"--{name.replace('_', '-')}"

    @classmethod
    def from_environment(cls, server: str) -> Credentials:
        """Read the environment variables of a server, such as ``PROMETHEUS_USER`` for ``PROMETHEUS``."""

        def variable(name: str) -> str:
            return f"{server}_{name.upper()}"

        def value(name: str) -> str | None:
            return os.environ.get(variable(name)) or None

        names = "user", "password_file", "bearer_token_file", "ca_file"
        return cls(**{name: value(name) for name in names}, setting=variable)

    def header(self) -> str | None:
        """Return the ``Authorization`` header; None without credentials.

        Raises
        ------
        ExporterError
            When a file cannot be read, or does not hold one line of text.
        """
        if self.bearer_token_file:
            return f"Bearer {self._secret('bearer_token_file', self.bearer_token_file)}"
        if not self.user:
            return None
        if not self.password_file:
            raise ExporterError(f"{self.setting('password_file')}: is required with {self.setting('user')}")
        return basic_authorization(self.user, self._secret("password_file", self.password_file))

    def _secret(self, name: str, path: str) -> str:
        text = read_secret_file(path, self.setting(name)).strip()
        if not (BEARER_TOKEN.fullmatch(text) if name == "bearer_token_file" else text and text.isprintable()):
            raise ExporterError(f"{self.setting(name)}: {path}: expected one line with the secret and nothing else")
        return text


def basic_authorization(user: str, password: str) -> str:
    """
    >>> basic_authorization("Aladdin", "open sesame")
    'Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=='
    """
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
