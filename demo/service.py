"""The model service: a Flask application in a process of its own, recorded by `exporter.client`.

Served by Werkzeug's threaded server: one process, so that an incident and the monitor have one
state, and one signal stops everything. A thread for each of some 20 requests a second is enough.
A real service runs a production server instead; its monitoring is the same.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flask import Flask, Response, abort, g, render_template_string, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

from demo import model, scenario
from demo.incidents import INCIDENTS, ActiveIncident, Incidents
from demo.retraining import RefusedError, Trainer
from exporter.client import Monitor
from exporter.commands import common
from exporter.commands.common import Address
from exporter.errors import StackError
from exporter.http_client import Client


class Served(NamedTuple):
    """A version that is served."""

    version: str
    classifier: model.Classifier
    monitor: Monitor


class Versions:
    """The last two versions; safe to use from many threads.

    Parameters
    ----------
    directory
        Folder with the trained versions.
    monitor
        Returns the exporter's client for a version.
    """

    def __init__(self, directory: Path, monitor: Callable[[str], Monitor]) -> None:
        self._directory = directory
        self._monitor = monitor
        self._lock = threading.Lock()
        self._served: list[Served] = []
        for version in model.versions(directory)[-2:]:
            self.deploy(version)

    @property
    def served(self) -> list[Served]:
        """The versions that are served, the newest last."""
        with self._lock:
            return list(self._served)

    def pick(self) -> Served:
        """Return the version for a request: at random, so that both can be compared."""
        return random.choice(self.served)  # noqa: S311 (not for security)

    def deploy(self, version: str) -> None:
        """Serve a version beside the newest so far; the one before that retires.

        Raises
        ------
        StackError
            When the version was not trained.
        """
        if version not in model.versions(self._directory):
            raise StackError(f"version: expected one of {', '.join(model.versions(self._directory))}")
        with self._lock:
            if any(served.version == version for served in self._served):
                return
            newest = Served(version, model.load(self._directory, version), self._monitor(version))
            retired, self._served = self._served[:-1], [*self._served[-1:], newest]
        for served in retired:
            served.monitor.close(timeout=3)

    def close(self) -> None:
        """Send the events that the clients still hold."""
        for served in self.served:
            served.monitor.close(timeout=3)


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>The demo's model service</title>
<h1>The demo's model service</h1>
<p>It reads handwritten digits for the demo's simulated users. What it does is shown by the exporter that monitors it:
<a href="{{ exporter }}/">{{ exporter }}/</a>, with its <a href="{{ exporter }}/drift">drift</a> and the
<a href="{{ exporter }}/review">corrections to review</a>.</p>
<ul>
<li><code>POST /predict</code> reads a digit: <code>{"image": [[0, 5, 13, 9, 1, 0, 0, 0], ...]}</code>, 8 rows of 8
numbers from 0 (black) to 16 (white)</li>
<li><a href="/healthz"><code>GET /healthz</code></a> names the versions that are served</li>
<li><a href="/incident"><code>GET /incident</code></a> names the active incident, <code>POST /incident</code> starts or
ends one</li>
<li><code>POST /retrain</code> takes the exporter's requests for the next version</li>
</ul>
</html>
"""


def create_app(versions: Versions, incidents: Incidents, trainer: Trainer, exporter: str) -> Flask:
    """Return the service: ``POST /predict``, ``GET /healthz``, ``GET`` and ``POST /incident``, ``POST /retrain``.

    ``GET /`` says so to people, with links to the ``exporter``, its URL.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
    _add_predict(app, versions, incidents)
    _add_health(app, versions)
    _add_trainer(app, trainer)
    _add_incident(app, incidents)

    @app.get("/")
    def page() -> str:
        return render_template_string(_PAGE, exporter=exporter.rstrip("/"))

    @app.errorhandler(HTTPException)
    def problem(error: HTTPException) -> tuple[dict[str, str | None], int]:
        return {"error": error.description}, error.code or 500

    return app


def _add_predict(app: Flask, versions: Versions, incidents: Incidents) -> None:
    @app.before_request
    def start() -> None:
        g.started = time.perf_counter()
        g.event = {"id": str(uuid.uuid4())}
        g.served = versions.pick()

    @app.after_request
    def record(response: Response) -> Response:
        if request.endpoint == "predict":
            duration = time.perf_counter() - g.started
            g.served.monitor.record(**g.event, duration_seconds=duration, code=response.status_code)
        return response

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        body = request.get_json()
        pixels = body.get("image") if isinstance(body, dict) else None
        device = body.get("device") if isinstance(body, dict) else None
        others = {"device": device} if isinstance(device, str) else {}
        g.event["inputs"] = {"image": pixels, **others}
        image = incidents.apply(_image(pixels))
        g.event["inputs"] = {"image": image, **others}
        time.sleep(incidents.delay())
        if incidents.fails():
            abort(503, "the archive of images does not respond")
        classifier = g.served.classifier
        probabilities = classifier.predict_proba(model.rows(image[None]))[0]
        digit = str(classifier.classes_[probabilities.argmax()])
        confidence = float(probabilities.max())
        g.event |= {"prediction": digit, "confidence": confidence}
        return {"id": g.event["id"], "version": g.served.version, "digit": digit, "confidence": confidence}


def _add_health(app: Flask, versions: Versions) -> None:
    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"status": "ok", "model": model.NAME, "versions": [served.version for served in versions.served]}


def _add_trainer(app: Flask, trainer: Trainer) -> None:
    @app.post("/retrain")
    def retrain() -> tuple[dict[str, Any], int]:
        try:
            trainer.take({name.lower(): value for name, value in request.headers.items()}, request.get_data())
        except RefusedError as error:
            abort(400, str(error))
        return {}, 202

    @app.get("/retrain/<request_id>")
    def progress(request_id: str) -> dict[str, Any]:
        training = trainer.progress(request_id)
        if training is None:
            abort(404, "this request did not arrive")
        return training._asdict()


def _add_incident(app: Flask, incidents: Incidents) -> None:
    @app.get("/incident")
    def incident() -> dict[str, Any]:
        return _document(incidents.current()) | {"known": sorted(INCIDENTS)}

    @app.post("/incident")
    def begin() -> dict[str, Any]:
        name, seconds, by_hand = _parse_incident(request.get_json())
        previous = incidents.begin(name, seconds, by_hand=by_hand)
        return incident() | {"before": _document(previous)}


def _parse_incident(body: object) -> tuple[str | None, float, bool]:
    """Return an incident's name, its seconds, and whether it is started by hand; abort when the body is not valid."""
    if not isinstance(body, dict):
        abort(400, 'expected an object such as {"name": "dark", "seconds": 480}')
    name = body.get("name")
    if name is not None and (not isinstance(name, str) or name not in INCIDENTS):
        abort(400, f"name: expected one of {', '.join(sorted(INCIDENTS))}, or null to end the active incident")
    seconds = body.get("seconds", INCIDENTS[name].seconds if name else 0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 86400:
        abort(400, "seconds: expected a number from 0 to 86400")
    by_hand = body.get("by_hand", True)
    if not isinstance(by_hand, bool):
        abort(400, "by_hand: expected true or false")
    return name, seconds, by_hand


def _document(incident: ActiveIncident) -> dict[str, Any]:
    return {"name": incident.name, "seconds_left": round(incident.seconds_left, 1), "by_hand": incident.by_hand}


def _image(pixels: object) -> model.Images:
    try:
        image = np.array(pixels, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        image = np.empty(0)
    if image.shape != (8, 8) or not ((image >= 0) & (image <= 16)).all():
        abort(400, "image: expected 8 rows of 8 numbers from 0 (black) to 16 (white)")
    return image


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: the exporter counts requests."""


def listen(address: Address) -> socket.socket:
    """Return a listening socket for the service's process.

    Raises
    ------
    StackError
        When the port is in use, or the host is not one of this machine.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(128)
    except (OSError, UnicodeError) as error:
        listener.close()
        raise StackError(
            f"the model service cannot listen on {address}: {error}; "
            "stop the program that uses it, or set another --listen-address HOST:PORT"
        ) from None
    return listener


def main(arguments: list[str] | None = None) -> int:
    """Serve on an inherited socket until SIGINT or SIGTERM, or until standard input ends with the parent process."""
    parser = argparse.ArgumentParser(prog="python -m demo.service")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--exporter", required=True)
    parser.add_argument("--ca-file")
    parser.add_argument("--fd", type=int, required=True)
    options = parser.parse_args(arguments)

    with common.stopping(signal.SIGINT, signal.SIGTERM) as stopping:
        threading.Thread(target=_stop_at_end_of_input, args=(stopping,), daemon=True).start()

        def monitor(version: str) -> Monitor:
            return Monitor(options.exporter, model.NAME, version, ca_file=options.ca_file)

        versions = Versions(options.directory, monitor)
        exporter = Client(options.exporter, "--exporter", ca_file=options.ca_file)
        trainer = Trainer(options.directory, exporter, versions, scenario.say)
        app = create_app(versions, Incidents(), trainer, exporter.url)
        server = make_server("", 0, app, threaded=True, request_handler=_Quiet, fd=options.fd)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stopping.wait()
        server.shutdown()
        server.server_close()
        versions.close()
    return 0


def _stop_at_end_of_input(stopping: threading.Event) -> None:
    while os.read(0, 1):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    stopping.set()


if __name__ == "__main__":
    sys.exit(main())
