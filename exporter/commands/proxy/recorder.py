"""Record requests and responses, and send the records to the exporter in the background."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple
from urllib.parse import unquote

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exporter.client.encoding import rfc3339
from exporter.client.sender import Sender
from exporter.client.transport import Transport
from exporter.commands.logs import Moderation

MAX_COPY = 4 * 2**20
"""Bytes of a body at most: two of them fit into what the exporter takes in one request."""
MAX_HELD = 64 * 2**20
"""Bytes of the copies of all requests under way; as many wait for the exporter at most."""
_NAME = r"(?P<model>[^/:]{1,384})"
_PATHS = [
    re.compile(pattern)
    for pattern in (
        rf"/v2/models/{_NAME}(?:/versions/(?P<version>[^/]+))?/infer$",
        rf"/v1/models/{_NAME}(?:/versions/(?P<version>[^/:]+)|/labels/[^/:]+)?:predict$",
        rf"/predictions/{_NAME}(?:/(?P<version>[^/]+))?$",
        r"/invocations$",
    )
]
_BATCH_BYTES = 128 * 1024  # so many have hardly more rows than the exporter takes in one request
_UNREAD = ("audio/", "image/", "multipart/", "text/event-stream", "text/html", "video/")
_OVERHEAD = 1024  # bytes of what waits beside its bodies


class Record(NamedTuple):
    """An exchange that waits for the exporter; its size comes first, as the sender has it."""

    size: int
    model: str
    version: str | None
    id: str
    time: int
    seconds: float
    code: int
    request: bytes | None
    response: bytes | None


class Copy:
    """A body as it passes, up to a bound."""

    __slots__ = ("_body", "_recorder", "whole")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._body = bytearray()  # and no list of parts: a byte each would take forty times the bound
        self.whole = True

    def add(self, part: bytes) -> None:
        """Keep a part, or nothing any more where the body is too large."""
        if self.whole:
            self._recorder.held += len(part)
            self._body += part
            if len(self._body) > self._recorder.limit:
                self.leave("too_large")
            elif self._recorder.held > MAX_HELD:
                self.leave("no_room")

    def leave(self, why: str) -> None:
        """Do without this body."""
        self.take()
        self.whole = False
        self._recorder.left_out[why] += 1

    def take(self) -> bytes | None:
        """The body, which is kept here no longer; None where it is not known whole, or empty."""
        body, self._body = self._body, bytearray()
        self._recorder.held -= len(body)
        return bytes(body) if body and self.whole else None


class Recorder:
    """Decides what is recorded, and hands it to the client's sender.

    Parameters
    ----------
    target
        The exporter.
    model, version
        What everything recorded is of, whatever paths and bodies say.
    paths
        Patterns of the paths to record in place of the known ones.
    limit
        Bytes of a body that are kept at most.
    """

    def __init__(
        self, target: Transport, model: str | None, version: str | None, paths: Sequence[str] = (), limit: int = 2**20
    ) -> None:
        self._model = model
        self._version = version
        self._paths = paths
        self.limit = limit
        self.held = 0
        self.records = 0
        self.unnamed = 0
        self.left_out = dict.fromkeys(("encoding", "no_room", "too_large", "type"), 0)
        self.sender = Sender(
            target,
            line,
            "proxy",
            capacity=50_000,
            capacity_bytes=MAX_HELD,
            batch_size=500,
            interval=1.0,
            give_up=300.0,
            path="/v1/exchanges",
            batch_bytes=_BATCH_BYTES,
        )

    def named(self, method: str, path: str) -> tuple[str, str | None] | None:
        """Return model and version of a request; None where it is not recorded."""
        if method != "POST":
            return None
        if self._paths:
            if not any(fnmatchcase(path, pattern) for pattern in self._paths):
                return None
            groups: dict[str, str | None] = {}
        else:
            match = next((match for pattern in _PATHS if (match := pattern.search(path))), None)
            if match is None:
                return None
            groups = match.groupdict()
        given, version = groups.get("model"), groups.get("version")
        model = self._model or (unquote(given) if given else None)
        if model is None:
            self.unnamed += 1
            return None
        return model, self._version or (unquote(version)[:128] if version else None)

    def copy(self, headers: Mapping[str, str]) -> Copy:
        """Return a copy of a body that is about to pass; it stays empty where the exporter could not read the body."""
        copy = Copy(self)
        media_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type.startswith(_UNREAD):
            copy.leave("type")
        elif headers.get("Content-Encoding", "identity").strip().lower() not in {"identity", "gzip"}:
            copy.leave("encoding")
        return copy

    def record(
        self,
        named: tuple[str, str | None],
        name: str,
        times: tuple[int, float],
        code: int,
        copies: tuple[Copy, Copy | None],
    ) -> None:
        """Hand on an exchange: its model and version, identifier, time and duration, code, request and response."""
        request, response = copies[0].take(), copies[1].take() if copies[1] else None
        if code == 404 and self._model is None:
            return  # a model that is not there: anybody may ask for any name
        self.records += 1
        size = _OVERHEAD + len(request or b"") + len(response or b"")
        self.sender.add(Record(size, *named, name, *times, code, request, response))


def line(record: Record) -> bytes:
    """A record as ``POST /v1/exchanges`` takes it; bodies are spliced in, for base64 needs no quoting."""
    document = {
        "model": record.model,
        "version": record.version,
        "id": record.id,
        "time": rfc3339(record.time // 1000 / 1e6),
        "duration_seconds": record.seconds,
        "code": record.code,
    }
    text = json.dumps(document).encode()[:-1]
    for member, body in (("request", record.request), ("response", record.response)):
        if body is not None:
            text += b', "%b": "%b"' % (member.encode(), base64.b64encode(body))
    return text + b"}"


_log = logging.getLogger("exporter.commands.proxy")


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
        self._moderation = Moderation()

    def failure(self, reason: str, detail: str) -> None:
        """Count a failure of the model server, and log it unless the same was logged a moment ago."""
        self.failures[reason] += 1
        if self._moderation.is_due(reason):
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
