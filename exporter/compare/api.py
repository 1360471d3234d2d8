"""Prometheus' HTTP API: instant queries."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

from exporter.commands import DIRECT
from exporter.errors import CompareError

TIMEOUT = 130.0
"""Seconds; Prometheus itself gives up on a query after two minutes."""
_MOST = 64 << 20


class Sample(NamedTuple):
    """One series of an answer."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """A Prometheus, or what answers as one.

    Parameters
    ----------
    url
        Such as ``http://127.0.0.1:9090``; a path is a prefix.
    credentials
        File with one line: ``USER:PASSWORD`` for basic authentication, or a bearer token.

    Raises
    ------
    CompareError
        When the URL is none, or the file cannot be read or is empty.
    """

    def __init__(self, url: str, credentials: Path | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise CompareError(f"--prometheus: expected a URL such as http://127.0.0.1:9090, got {url!r}")
        if parts.username is not None:
            raise CompareError("--prometheus: put the user and the password into a file and name it with --credentials")
        self._url = url.rstrip("/")
        self._authorization = _authorization(credentials) if credentials else None

    def query(self, text: str, at: float) -> list[Sample]:
        """The answer to an instant query at a Unix time.

        Raises
        ------
        CompareError
            When Prometheus is not there or does not answer it; the text has its own words.
        """
        body = urllib.parse.urlencode({"query": text, "time": f"{at:.3f}"}).encode()
        request = urllib.request.Request(f"{self._url}/api/v1/query", body)  # noqa: S310
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        try:
            with DIRECT.open(request, timeout=TIMEOUT) as answer:
                whole = answer.read(_MOST + 1)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(2000)
            if error.code in {401, 403}:
                raise CompareError(
                    f"{self._url}: refuses ({error.code}): name a file with the user or the token with --credentials"
                ) from None
            raise CompareError(
                f"{self._url}: the query failed ({error.code}): {_reason(said)}; it was: {text}"
            ) from None
        except (OSError, ValueError) as error:
            raise CompareError(
                f"{self._url}: Prometheus cannot be reached ({getattr(error, 'reason', error)}); "
                "name another with --prometheus URL"
            ) from None
        if len(whole) > _MOST:
            raise CompareError(
                f"{self._url}: the answer is above {_MOST >> 20} MiB; choose a model with fewer features"
            )
        try:
            series = json.loads(whole)["data"]["result"]
            return [Sample(dict(one["metric"]), float(one["value"][1])) for one in series]
        except (ValueError, LookupError, TypeError):
            raise CompareError(f"{self._url}: what answers there is no Prometheus") from None


def quoted(value: str) -> str:
    r"""A label's value as PromQL wants it.

    >>> print(quoted('a"b'))
    "a\"b"
    """
    return json.dumps(value, ensure_ascii=False)


def _authorization(path: Path) -> str:
    try:
        line = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CompareError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not line or "\n" in line or not line.isprintable():
        raise CompareError(f"{path}: expected one line, USER:PASSWORD or a bearer token")
    return f"Basic {base64.b64encode(line.encode()).decode()}" if ":" in line else f"Bearer {line}"


def _reason(said: bytes) -> str:
    try:
        return str(json.loads(said)["error"])
    except (ValueError, LookupError, TypeError):
        return said.decode(errors="replace").strip()[:300] or "without a reason"
