"""What Prometheus and probes ask again and again, answered without a framework."""

from __future__ import annotations

import gzip

from exporter.server.application import Exporter
from exporter.server.problem import Reply

TEXT = "text/plain; charset=utf-8"


class Probes:
    """Answers as Prometheus answers them.

    Parameters
    ----------
    exporter
        Who is asked.
    """

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def metrics(self, accept: str, encodings: str, names: list[str]) -> Reply:
        """``GET /metrics``.

        Parameters
        ----------
        accept, encodings
            The request's ``Accept`` and ``Accept-Encoding``.
        names
            The families or samples that are wanted; all, if none are given.
        """
        body, content_type = self._exporter.metrics(accept, names)
        headers: tuple[tuple[str, str], ...] = (("Vary", "Accept, Accept-Encoding"),)
        if len(body) > 1000 and takes_gzip(encodings):
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers += (("Content-Encoding", "gzip"),)
        return Reply(200, body, headers, content_type)

    def healthy(self) -> Reply:
        """``GET /-/healthy``."""
        if self._exporter.alive:
            return _text("model-exporter is healthy.\n")
        return _text("a thread of model-exporter has ended: restart it, and read its log.\n", 503)

    def ready(self) -> Reply:
        """``GET /-/ready``."""
        if self._exporter.ready:
            return _text("model-exporter is ready.\n")
        return _text("model-exporter is stopping.\n", 503)


def takes_gzip(encodings: str) -> bool:
    """Whether a client that sends such an ``Accept-Encoding`` can read gzip.

    >>> takes_gzip("deflate, gzip;q=0.5"), takes_gzip("*"), takes_gzip("gzip; q=0, *"), takes_gzip("")
    (True, True, False, False)
    """
    weights = {}
    for part in encodings.lower().split(","):
        coding, _, weight = part.replace(" ", "").partition(";q=")
        weights[coding] = weight.strip("0.") != "" if weight else True
    return weights.get("gzip", weights.get("*", False))


def _text(text: str, status: int = 200) -> Reply:
    return Reply(status, text.encode(), content_type=TEXT)
