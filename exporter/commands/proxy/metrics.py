"""The proxy's own metrics and probes."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exporter.commands.proxy.handler import Local, Site

_TEXT = "text/plain; charset=utf-8"


class Status(Collector):
    """Metrics of a site, and who asks for them.

    Parameters
    ----------
    site
        The model server behind the proxy.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._registry = CollectorRegistry()
        self._registry.register(self)
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=self._registry)

    def answer(self, method: bytes, target: bytes) -> Local:
        """``GET /metrics``, ``/-/healthy`` and ``/-/ready``."""
        if method not in {b"GET", b"HEAD"}:
            return 405, _TEXT, b"expected GET\n"
        path = target.partition(b"?")[0]
        if path == b"/metrics":
            return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(self._registry)
        if path == b"/-/healthy":
            return 200, _TEXT, b"healthy\n"
        if path == b"/-/ready":
            return (503, _TEXT, b"stopping\n") if self._site.draining else (200, _TEXT, b"ready\n")
        return 404, _TEXT, b"expected /metrics, /-/healthy or /-/ready\n"

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        site, recorder = self._site, self._site.recorder
        yield _counter("requests", "Answers to clients.", "code", {str(c): n for c, n in site.codes.items()})
        yield GaugeMetricFamily("model_proxy_requests_in_flight", "Requests that are being answered.", site.in_flight)
        yield _counter("upstream_failures", "Requests that the model server did not answer.", "reason", site.faults)
        connections = GaugeMetricFamily("model_proxy_connections", "Open connections.", labels=["side"])
        connections.add_metric(["client"], len(site.fronts))
        connections.add_metric(["upstream"], len(site.pool.open))
        yield connections
        if recorder is None:
            return
        sender = recorder.sender
        for name, text, value in (
            ("records", "Exchanges noted for the exporter.", recorder.records),
            ("records_sent", "Exchanges that the exporter has taken.", sender.sent),
            (
                "records_dropped",
                "Exchanges lost: the exporter was away, did not keep up or refused them.",
                sender.dropped,
            ),
            ("unnamed", "Requests not recorded, for neither their path nor --model names a model.", recorder.unnamed),
        ):
            yield CounterMetricFamily(f"model_proxy_{name}", text, value)
        yield _counter(
            "bodies_left_out", "Bodies that were recorded without what they say.", "reason", recorder.left_out
        )
        yield GaugeMetricFamily("model_proxy_copies_bytes", "Copies of bodies under way.", recorder.held)


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"model_proxy_{name}", text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
