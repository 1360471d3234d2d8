"""Answer scrapes and probes without a framework."""

from __future__ import annotations

import gzip
from collections.abc import Collection

from exporter.server.application import Exporter
from exporter.server.http.problem import Reply

TEXT = "text/plain; charset=utf-8"


class Probes:
    """Responses to scrapes and probes, in the form that Prometheus itself uses.

    Parameters
    ----------
    exporter
        The exporter's state.
    """

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def metrics(self, accept: str, encodings: str, names: Collection[str]) -> Reply:
        """Return the metrics (``GET /metrics``).

        Parameters
        ----------
        accept, encodings
            The request's ``Accept`` and ``Accept-Encoding``.
        names
            The families or samples to return; all of them without any.
        """
        body, content_type = self._exporter.metrics(accept, names)
        headers: tuple[tuple[str, str], ...] = (("Vary", "Accept, Accept-Encoding"),)
        if len(body) > 1000 and takes_gzip(encodings):
            body = gzip.compress(body, compresslevel=1, mtime=0)
            headers += (("Content-Encoding", "gzip"),)
        return Reply(200, body, headers, content_type)

    def healthy(self) -> Reply:
        """Return whether the process runs (``GET /-/healthy``)."""
        if self._exporter.status.alive:
            return _text("model-exporter is healthy.\n")
        return _text("a thread of model-exporter has stopped: see its log, and restart it.\n", 503)

    def ready(self) -> Reply:
        """Return whether events are accepted (``GET /-/ready``); a ready exporter may have warnings."""
        if not self._exporter.status.ready:
            return _text("model-exporter is stopping.\n", 503)
        if self._exporter.store.fault:  # the log has it; a probe may be open to everyone
            return _text(
                "model-exporter cannot store anything: see its log for what is wrong with its database.\n", 503
            )
        return _text(
            "".join(["model-exporter is ready.\n", *(f"warning: {w}\n" for w in self._exporter.status.warnings)])
        )


def takes_gzip(encodings: str) -> bool:
    """Return whether an ``Accept-Encoding`` header allows gzip.

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
