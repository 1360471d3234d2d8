"""Prometheus' HTTP API: instant queries, and what else it answers."""

from __future__ import annotations

import contextlib
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any, NamedTuple

from exporter.errors import PrometheusError
from exporter.http_client import MAX_BODY, Client, Credentials, RequestError, Response

TIMEOUT = 130.0
"""Seconds; Prometheus itself gives up on a query after two minutes."""
CONNECTIONS = 4
"""Connections that are kept open, for as many threads."""
DEFAULT_URL = "http://127.0.0.1:9090"
_NO_CREDENTIALS = Credentials()


class Sample(NamedTuple):
    """One series of a query's result."""

    labels: dict[str, str]
    value: float


class Series(NamedTuple):
    """One series of a range query's result: Unix times and values."""

    labels: dict[str, str]
    values: list[tuple[float, float]]


class Prometheus:
    """A Prometheus server, or one with the same API.

    Parameters
    ----------
    url
        Such as ``http://127.0.0.1:9090``; a path is a prefix.
    option
        Name of the option or key that the URL comes from, for error messages.
    credentials
        Sent with each request.
    timeout
        Seconds that connecting may take, and then a response.

    Raises
    ------
    ExporterError
        When the URL or the file with certificates is not valid.
    """

    def __init__(
        self,
        url: str,
        option: str = "--prometheus",
        credentials: Credentials = _NO_CREDENTIALS,
        timeout: float = TIMEOUT,
    ) -> None:
        self._option = option
        self._credentials = credentials
        self._client = Client(
            url,
            option,
            example=DEFAULT_URL,
            authorization=credentials.header,
            ca_file=credentials.ca_file,
            ca_option=credentials.setting("ca_file"),
            timeout=timeout,
            connections=CONNECTIONS,
        )

    @property
    def url(self) -> str:
        """The URL."""
        return self._client.url

    def query(self, text: str, at: float | None = None) -> list[Sample]:
        """Return the result of an instant query at a Unix time; None is the present by Prometheus' clock.

        Raises
        ------
        PrometheusError
            When Prometheus cannot be reached or reports an error.
        """
        result = self._query("/api/v1/query", text, {} if at is None else {"time": f"{at:.3f}"})
        with self._parsing():
            return [Sample(dict(item["metric"]), float(item["value"][1])) for item in result]

    def query_range(self, text: str, start: float, end: float, step: float) -> list[Series]:
        """Return the result of a query at each step from one Unix time to another.

        Raises
        ------
        PrometheusError
            When Prometheus cannot be reached or reports an error.
        """
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        result = self._query("/api/v1/query_range", text, times)
        with self._parsing():
            return [
                Series(dict(item["metric"]), [(float(time), float(value)) for time, value in item["values"]])
                for item in result
            ]

    def _query(self, path: str, text: str, times: dict[str, str]) -> Any:
        body = urllib.parse.urlencode({"query": text, **times}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        response = self._request("POST", path, body, headers=headers)
        if response.status != 200:
            detail = f"the query failed: {response.error_message()}; the query was: {text}"
            raise PrometheusError(f"{self.url}: {detail}")
        with self._parsing():
            return json.loads(response.body)["data"]["result"]

    def get(self, path: str, max_body: int = MAX_BODY) -> Any:
        """Request a path, such as ``/api/v1/alerts``, and return the member ``data`` of the response.

        Parameters
        ----------
        path
            The path, below that of the URL.
        max_body
            Largest response in bytes.

        Raises
        ------
        PrometheusError
            When Prometheus cannot be reached or reports an error.
        """
        response = self._request("GET", path, max_body=max_body)
        if response.status != 200:
            raise PrometheusError(f"{self.url}: {path} failed: {response.error_message()}")
        with self._parsing():
            return json.loads(response.body)["data"]

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _request(self, method: str, path: str, body: bytes | None = None, **options: Any) -> Response:
        try:
            response = self._client.request(method, path, body, **options)
        except RequestError as error:
            raise PrometheusError(
                f"{self.url}: Prometheus cannot be reached ({error.reason}); set another URL with {self._option}"
            ) from None
        if response.status in {401, 403}:
            name = self._credentials.setting
            raise PrometheusError(
                f"{self.url}: access denied ({response.status}): set {name('user')} and {name('password_file')}, "
                f"or {name('bearer_token_file')}"
            )
        return response

    @contextlib.contextmanager
    def _parsing(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, LookupError, TypeError, RecursionError):
            raise PrometheusError(f"{self.url}: the response is not from Prometheus") from None


def quoted(value: str) -> str:
    r"""Return a label's value as a PromQL string.

    >>> print(quoted('a"b'))
    "a\"b"
    """
    return json.dumps(value, ensure_ascii=False)
