"""Prometheus' HTTP API: instant queries."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

from exporter.commands.common import DIRECT
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
    authorization
        The header of that name, None for none.

    Raises
    ------
    CompareError
        When the URL is none.
    """

    def __init__(self, url: str, authorization: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise CompareError(f"--prometheus: expected a URL such as http://127.0.0.1:9090, got {url!r}")
        if parts.username is not None:
            raise CompareError(
                "--prometheus: name the user with --user, and a file with the password with --password-file"
            )
        self._url = url.rstrip("/")
        self._authorization = authorization

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
                    f"{self._url}: refuses ({error.code}): say who asks with --user and --password-file, "
                    "or with --bearer-token-file"
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


def _reason(said: bytes) -> str:
    try:
        return str(json.loads(said)["error"])
    except (ValueError, LookupError, TypeError):
        return said.decode(errors="replace").strip()[:300] or "without a reason"
