"""Clients of the Prometheus at ``prometheus_url``, each with its own timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from exporter.http_client.credentials import Credentials

if TYPE_CHECKING:
    from exporter.http_client.prometheus import Prometheus

ALERTS_SECONDS = 10.0
"""Time that Prometheus has for each part of a response."""
COMPARISON_SECONDS = 20.0
"""The same for a comparison, which may read a week of counters. A stop waits for it, too."""


class PrometheusClients:
    """Makes the clients when they are needed first, and again after another URL is configured.

    Parameters
    ----------
    url
        Returns ``prometheus_url``; None without the key.
    """

    def __init__(self, url: Callable[[], str | None]) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._clients: dict[float, Prometheus] = {}

    def get(self, timeout: float) -> Prometheus | None:
        """Return the client whose responses may take ``timeout`` seconds; None without a ``prometheus_url``.

        Raises
        ------
        ExporterError
            When the file with certificates cannot be read.
        """
        url = self._url()
        if url is None:
            return None
        with self._lock:
            client = self._clients.get(timeout)
            if client is None or client.url != url.rstrip("/"):
                from exporter.http_client.prometheus import Prometheus  # urllib3 takes time to load

                credentials = Credentials.from_environment("PROMETHEUS")
                client = self._clients[timeout] = Prometheus(url, "prometheus_url", credentials, timeout)
            return client
