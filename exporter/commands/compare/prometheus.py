"""Instant queries of Prometheus' HTTP API."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

from exporter.commands.http_client import Client, RequestError, Response
from exporter.errors import CompareError

TIMEOUT = 130.0
"""Seconds; Prometheus itself gives up on a query after two minutes."""
DEFAULT_URL = "http://127.0.0.1:9090"


class Sample(NamedTuple):
    """One series of a query's result."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """A Prometheus server, or one with the same API.

    Parameters
    ----------
    url
        Such as ``http://127.0.0.1:9090``; a path is a prefix.
    authorization
        Returns the ``Authorization`` header, None for none.
    ca_file
        File with the certificates to trust instead of the system's.

    Raises
    ------
    ExporterError
        When the URL is not valid.
    """

    def __init__(
        self, url: str, authorization: Callable[[], str | None] = lambda: None, ca_file: str | None = None
    ) -> None:
        self._client = Client(
            url, "--prometheus", example=DEFAULT_URL, authorization=authorization, ca_file=ca_file, timeout=TIMEOUT
        )

    def query(self, text: str, at: float) -> list[Sample]:
        """Return the result of an instant query at a Unix time.

        Raises
        ------
        CompareError
            When Prometheus cannot be reached or reports an error.
        """
        body = urllib.parse.urlencode({"query": text, "time": f"{at:.3f}"}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            response = self._client.request("POST", "/api/v1/query", body, headers=headers)
        except RequestError as error:
            raise CompareError(
                f"{self._client.url}: Prometheus cannot be reached ({error.reason}); set another URL with --prometheus"
            ) from None
        if response.status != 200:
            raise self._error(response, text)
        try:
            series = json.loads(response.body)["data"]["result"]
            return [Sample(dict(item["metric"]), float(item["value"][1])) for item in series]
        except (ValueError, LookupError, TypeError):
            raise CompareError(f"{self._client.url}: the response is not from Prometheus") from None

    def _error(self, response: Response, query: str) -> CompareError:
        if response.status in {401, 403}:
            return CompareError(
                f"{self._client.url}: access denied ({response.status}): set --user and --password-file, "
                "or --bearer-token-file"
            )
        return CompareError(f"{self._client.url}: the query failed: {response.error_message()}; the query was: {query}")


def quoted(value: str) -> str:
    r"""Return a label's value as a PromQL string.

    >>> print(quoted('a"b'))
    "a\"b"
    """
    return json.dumps(value, ensure_ascii=False)
