"""The client around real frameworks on real servers: one event a request, with its duration, code and identifier."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import flask
import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse
from support.applications import asgi_server, ask, wsgi_server
from support.fake_exporter import Exporter
from support.reviewers import in_parallel
from support.servers import eventually

from exporter import Monitor


def flask_app(monitor: Monitor) -> Any:
    app = flask.Flask("service")

    @app.get("/predict")
    def predict() -> dict[str, Any]:
        time.sleep(0.02)
        given = monitor.record(inputs={"age": 41}, prediction="yes", confidence=0.9)
        assert given == monitor.prediction_id == flask.request.environ["exporter.prediction_id"]
        return {"id": given}

    @app.get("/own")
    def own() -> dict[str, Any]:
        monitor.record(id="mine", prediction="no", duration_seconds=7.0, code=207)
        return {"id": "mine"}

    @app.get("/several")
    def several() -> dict[str, Any]:
        return {"id": [monitor.record(prediction=label) for label in ("a", "b", "c")]}

    @app.get("/plain")
    def plain() -> dict[str, Any]:
        return {"id": monitor.prediction_id}

    @app.get("/broken")
    def broken() -> dict[str, Any]:
        monitor.record(inputs={"age": 1})
        raise KeyError("model")

    @app.get("/stream")
    def stream() -> Any:
        def parts() -> Iterator[str]:
            for part in range(3):
                time.sleep(0.05)
                yield str(part)
            monitor.record(prediction="streamed")

        return parts(), {"Content-Type": "text/plain"}

    return app


def fast_app(monitor: Monitor) -> FastAPI:
    app = FastAPI()

    @app.get("/predict")
    def predict(request: Request) -> dict[str, Any]:
        time.sleep(0.02)
        given = monitor.record(inputs={"age": 41}, prediction="yes", confidence=0.9)
        assert given == monitor.prediction_id == request.state.prediction_id
        return {"id": given}

    @app.get("/own")
    async def own() -> dict[str, Any]:
        monitor.record(id="mine", prediction="no", duration_seconds=7.0, code=207)
        return {"id": "mine"}

    @app.get("/several")
    async def several() -> dict[str, Any]:
        return {"id": [monitor.record(prediction=label) for label in ("a", "b", "c")]}

    @app.get("/plain")
    async def plain() -> dict[str, Any]:
        return {"id": monitor.prediction_id}

    @app.get("/broken")
    async def broken() -> dict[str, Any]:
        monitor.record(inputs={"age": 1})
        raise KeyError("model")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            for part in range(3):
                await asyncio.sleep(0.05)
                yield str(part)
            monitor.record(prediction="streamed")

        return StreamingResponse(parts(), media_type="text/plain")

    return app


def add_background_route(app: FastAPI, monitor: Monitor) -> threading.Event:
    """Add a route that records after its response, once the event is set."""
    answered = threading.Event()

    @app.get("/later")
    async def later(tasks: BackgroundTasks) -> dict[str, Any]:
        def record() -> None:
            answered.wait(60)
            monitor.record(prediction="later")

        tasks.add_task(record)
        return {}

    return answered


@pytest.fixture(params=["flask", "fastapi"])
def port(request: pytest.FixtureRequest, monitor: Monitor) -> Iterator[int]:
    """The same service by either framework, monitored."""
    logging.getLogger("service").disabled = True
    if request.param == "flask":
        app = flask_app(monitor)
        app.wsgi_app = monitor.wsgi(app.wsgi_app)
        with wsgi_server(app) as port:
            yield port
    else:
        app = fast_app(monitor)
        app.add_middleware(monitor.asgi)
        with asgi_server(app) as port:
            yield port


def only(exporter: Exporter, monitor: Monitor) -> dict[str, Any]:
    assert eventually(lambda: monitor.sent)
    (event,) = exporter.events()
    return event


def test_a_recorded_prediction_is_one_event(port: int, exporter: Exporter, monitor: Monitor) -> None:
    """A recorded prediction has the request's identifier, duration and code; the response has the identifier."""
    status, headers, body = ask(port, "/predict", X_Request_ID="req-7")
    assert (status, headers["x-request-id"], json.loads(body)) == (200, "req-7", {"id": "req-7"})
    event = only(exporter, monitor)
    assert event["id"] == "req-7"
    assert (event["prediction"], event["code"], event["inputs"]) == ("yes", 200, {"age": 41})
    assert event["duration_seconds"] >= 0.02


def test_a_request_without_an_id_gets_one(port: int, exporter: Exporter, monitor: Monitor) -> None:
    """Without a valid header the request gets an identifier; every response has it."""
    seen = set()
    for given in ({}, {"X_Request_ID": "x" * 129}, {"X_Request_ID": "two words"}):
        _, headers, body = ask(port, "/plain", **given)
        assert headers["x-request-id"] == json.loads(body)["id"]
        seen.add(headers["x-request-id"])
    assert eventually(lambda: monitor.sent == 3)
    assert {event["id"] for event in exporter.events()} == seen
    assert max(map(len, seen)) == 36


def test_the_services_own_id_takes_precedence(port: int, exporter: Exporter, monitor: Monitor) -> None:
    """An identifier, duration and code given by the handler are kept, and the response header has the identifier."""
    _, headers, _ = ask(port, "/own", X_Request_ID="req-7")
    event = only(exporter, monitor)
    assert headers["x-request-id"] == event["id"] == "mine"
    assert (event["duration_seconds"], event["code"], event["alias"]) == (7.0, 207, "req-7")


def test_several_predictions_of_one_request(port: int, exporter: Exporter, monitor: Monitor) -> None:
    """Each is an event with the request's duration; the first has its identifier, the others new ones."""
    _, headers, body = ask(port, "/several")
    assert eventually(lambda: monitor.sent == 3)
    events = exporter.events()
    assert [event["id"] for event in events] == json.loads(body)["id"]
    assert headers["x-request-id"] == events[0]["id"]
    assert len({event["id"] for event in events}) == 3
    assert len({event["duration_seconds"] for event in events}) == 1


def test_a_request_that_records_nothing_is_counted(port: int, exporter: Exporter, monitor: Monitor) -> None:
    """It is an event with only duration and code, also for a missing page."""
    assert ask(port, "/plain")[0] == 200
    assert ask(port, "/nowhere")[0] == 404
    assert eventually(lambda: monitor.sent == 2)
    assert sorted(event["code"] for event in exporter.events()) == [200, 404]
    assert all(event["duration_seconds"] > 0 and "prediction" not in event for event in exporter.events())


def test_a_handler_error_is_counted(port: int, exporter: Exporter, monitor: Monitor) -> None:
    """A handler that raises still answers 500, and what it had recorded counts as the model's error."""
    assert ask(port, "/broken")[0] == 500
    event = only(exporter, monitor)
    assert (event["code"], event["inputs"]) == (500, {"age": 1})


def test_a_stream_is_timed_to_its_end(port: int, exporter: Exporter, monitor: Monitor) -> None:
    """The duration ends with the last byte, and what is recorded before belongs to the request."""
    _, headers, body = ask(port, "/stream")
    assert body == b"012"
    event = only(exporter, monitor)
    assert event["duration_seconds"] >= 0.15
    assert (event["prediction"], event["id"]) == ("streamed", headers["x-request-id"])


def test_concurrent_requests_keep_their_identifiers(port: int, exporter: Exporter, monitor: Monitor) -> None:
    """Concurrent requests keep their own identifiers."""
    in_parallel(*(partial(ask, port, "/predict", X_Request_ID=f"r-{number}") for number in range(20)))
    assert eventually(lambda: monitor.sent == 20)
    assert {event["id"] for event in exporter.events()} == {f"r-{number}" for number in range(20)}


def test_an_error_of_the_middleware_is_only_logged(
    monitor: Monitor, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error in the middleware is logged; the response is that of the service."""
    monkeypatch.setattr(monitor.sender, "add", None)
    assert ask(port, "/plain")[0] == 200
    assert eventually(lambda: "a request could not be recorded" in caplog.text)


def test_background_tasks_belong_to_the_request(exporter: Exporter, monitor: Monitor) -> None:
    """What a task records after the response is the request's event, whose duration ends with the response."""
    app = fast_app(monitor)
    answered = add_background_route(app, monitor)
    app.add_middleware(monitor.asgi)
    with asgi_server(app) as port:
        started = time.monotonic()
        ask(port, "/later", X_Request_ID="req-7")
        elapsed = time.monotonic() - started
        time.sleep(0.2)
        answered.set()
        event = only(exporter, monitor)
    assert (event["id"], event["prediction"]) == ("req-7", "later")
    assert event["duration_seconds"] < elapsed


def test_only_the_paths_of_the_model(exporter: Exporter, monitor: Monitor) -> None:
    """Given paths, other requests are not recorded, and untrusted identifiers are replaced if requested."""
    app = flask_app(monitor)
    app.wsgi_app = monitor.wsgi(app.wsgi_app, paths=["/pre*"], trust_ids=False)
    with wsgi_server(app) as port:
        assert "x-request-id" not in ask(port, "/plain")[1]
        assert ask(port, "/predict", X_Request_ID="req-7")[1]["x-request-id"] != "req-7"
        assert only(exporter, monitor)["prediction"] == "yes"


def test_nested_middleware_makes_one_event(exporter: Exporter, monitor: Monitor) -> None:
    """Two layers of middleware make one event."""
    app = flask_app(monitor)
    app.wsgi_app = monitor.wsgi(monitor.wsgi(app.wsgi_app))
    with wsgi_server(app) as port:
        ask(port, "/plain")
        only(exporter, monitor)


def test_the_end_of_the_lifespan_sends_the_queue(exporter: Exporter) -> None:
    """An ASGI server that ends by a signal sends its events first."""
    monitor = Monitor(exporter.url, "loans", interval=60)
    app = fast_app(monitor)
    app.add_middleware(monitor.asgi)
    with asgi_server(app) as port:
        ask(port, "/predict")
        assert exporter.events() == []
    assert [event["prediction"] for event in exporter.events()] == ["yes"]
    monitor.close(0)


def test_django(exporter: Exporter, monitor: Monitor) -> None:
    """The middleware wraps Django as any WSGI application."""
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, JsonResponse
    from django.urls import path

    def predict(request: HttpRequest) -> JsonResponse:
        return JsonResponse({"id": monitor.record(prediction="yes"), "same": request.META["exporter.prediction_id"]})

    urls = type("urls", (), {"urlpatterns": [path("predict", predict)]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], SECRET_KEY="of the test", LOGGING_CONFIG=None)
        django.setup()
    with wsgi_server(monitor.wsgi(get_wsgi_application())) as port:
        _, headers, body = ask(port, "/predict")
    assert {headers["x-request-id"]} == set(json.loads(body).values())
    assert only(exporter, monitor)["id"] == headers["x-request-id"]


def test_a_client_that_disconnects(exporter: Exporter, monitor: Monitor) -> None:
    """A stream whose client has disconnected is an event with the code of the response, and the server continues."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            await asyncio.sleep(0)
        raise asyncio.CancelledError

    async def gone(_: Any) -> None:
        pass

    async def nothing() -> Any:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "path": "/", "headers": [(b"x-request-id", b"r-1")]}
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(monitor.asgi(app)(scope, nothing, gone))
    event = only(exporter, monitor)
    assert (event["id"], event["code"]) == ("r-1", 200)
