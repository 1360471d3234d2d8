"""The proxy's own metrics and probes."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exporter.commands.proxy.recorder import Recorder

_log = logging.getLogger("exporter.commands.proxy")
_QUIET_SECONDS = 10.0


class Metrics:
    """The counters of the proxy.

    Attributes
    ----------
    in_flight
        Requests that are being answered.
    codes
        Responses to clients, by code.
    failures
        Requests that the model server did not answer, by reason.
    draining
        Whether the process is stopping.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.codes: Counter[int] = Counter()
        self.failures = dict.fromkeys(("closed", "connect", "malformed", "timeout"), 0)
        self.draining = False
        self._logged: dict[str, float] = {}

    def failure(self, reason: str, detail: str) -> None:
        """Count a failure of the model server, and log it unless the same was logged a moment ago."""
        self.failures[reason] += 1
        now = time.monotonic()
        if now - self._logged.get(reason, -_QUIET_SECONDS) >= _QUIET_SECONDS:
            self._logged[reason] = now
            _log.warning("%s (%s, %d so far)", detail, reason, self.failures[reason])


class ProxyCollector(Collector):
    """Collects the proxy's metrics.

    Parameters
    ----------
    metrics
        What is counted while requests pass.
    recorder
        What records them.
    connections
        Open connections, of ``client`` and ``upstream``.
    """

    def __init__(self, metrics: Metrics, recorder: Recorder, connections: Callable[[], dict[str, int]]) -> None:
        self._metrics = metrics
        self._recorder = recorder
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        metrics, recorder, sender = self._metrics, self._recorder, self._recorder.sender
        codes = {str(code): count for code, count in metrics.codes.items()}
        yield _counter("requests", "Responses to clients.", "code", codes)
        yield GaugeMetricFamily("model_proxy_requests_in_flight", "Requests in progress.", metrics.in_flight)
        yield _counter("upstream_failures", "Failures of the model server.", "reason", metrics.failures)
        connections = GaugeMetricFamily("model_proxy_connections", "Open connections.", labels=["side"])
        for side, count in self._connections().items():
            connections.add_metric([side], count)
        yield connections
        for name, text, value in (
            ("records", "Requests recorded for the exporter.", recorder.records),
            ("records_sent", "Records that the exporter accepted.", sender.sent),
            (
                "records_dropped",
                "Records that were lost: the exporter was unavailable, too slow, or refused them.",
                sender.dropped,
            ),
            ("unnamed", "Requests that were not recorded because their model is unknown.", recorder.unnamed),
        ):
            yield CounterMetricFamily(f"model_proxy_{name}", text, value)
        yield _counter("bodies_left_out", "Bodies that were not copied.", "reason", recorder.left_out)
        yield GaugeMetricFamily(
            "model_proxy_copies_bytes", "Memory of the copies of bodies in progress.", recorder.held
        )


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"model_proxy_{name}", text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def create_app(collector: ProxyCollector, metrics: Metrics) -> web.Application:
    """Return the application that serves ``/metrics``, ``/-/healthy`` and ``/-/ready``."""
    registry = CollectorRegistry()
    registry.register(collector)
    for kind in (ProcessCollector, PlatformCollector, GCCollector):
        kind(registry=registry)

    async def exposition(_request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def healthy(_request: web.Request) -> web.Response:
        return web.Response(text="healthy\n")

    async def ready(_request: web.Request) -> web.Response:
        return web.Response(status=503, text="stopping\n") if metrics.draining else web.Response(text="ready\n")

    app = web.Application()
    app.router.add_get("/metrics", exposition)
    app.router.add_get("/-/healthy", healthy)
    app.router.add_get("/-/ready", ready)
    return app
