"""The OpenAPI document describes the exporter: all routes, no others, and responses of the documented types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from support.servers import Served, ask, eventually

from exporter.server.access import SCOPES, USER
from exporter.server.api.schemas import Problem
from exporter.server.routes import ROUTES

METHODS = {"get", "put", "post", "delete", "patch", "head", "options", "trace"}


@pytest.fixture(scope="module")
def described(shared: Served) -> Any:
    answer = shared.get("/openapi.json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    return answer.json


def find(document: Any, key: str) -> Iterator[Any]:
    """Yield all values of a key at any depth."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name == key:
                yield value
            yield from find(value, key)
    elif isinstance(document, list):
        for value in document:
            yield from find(value, key)


def test_the_document_is_openapi(described: Any) -> None:
    """The document has what OpenAPI 3.1 requires: references that resolve, parameters of paths, responses."""
    assert described["openapi"] == "3.1.0"
    assert {"title", "version"} <= described["info"].keys()
    for reference in find(described, "$ref"):
        target = described
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
    used = {reference.rsplit("/", 1)[1] for reference in find(described, "$ref")}
    assert used == described["components"]["schemas"].keys() | described["components"]["responses"].keys()
    for path, methods in described["paths"].items():
        assert re.fullmatch(r"(/[\w.-]*|/\{\w+\}[\w.]*)+", path)
        assert methods.keys() <= METHODS
        for operation in methods.values():
            parameters = operation.get("parameters", [])
            assert len({(item["in"], item["name"]) for item in parameters}) == len(parameters)
            in_path = {item["name"] for item in parameters if item["in"] == "path" and item["required"]}
            assert in_path == set(re.findall(r"\{(\w+)\}", path))
            assert all(item["schema"] for item in parameters)
            assert operation["summary"].endswith(".")
            assert "default" in operation["responses"]
            assert all(answer.get("description") or "$ref" in answer for answer in operation["responses"].values())


def test_each_operation_names_its_scope(described: Any) -> None:
    """The scopes of the bearer scheme are those that authorization checks."""
    scopes = {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route): entry.scope for route, entry in ROUTES.items()}
    assert set(SCOPES) < {*scopes.values(), "read"}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if method == "get":
                wanted: str | None = None if path in {"/-/healthy", "/-/ready"} else "read"
            else:
                wanted = scopes[f"{method.upper()} {path}"]
            bearer: list[dict[str, list[str]]] = [{"bearer": [wanted] if wanted else []}]
            assert operation["security"] == [{"basic": []}, *([] if wanted == USER else bearer)]


QUESTIONS: list[tuple[str, str, Any]] = [
    ("POST /v1/predictions", "/v1/predictions?ids=1", [{"model": "credit", "id": "o-1", "prediction": "yes"}, {}]),
    ("POST /v1/predictions", "/v1/predictions", {"model": "credit", "prediction": "yes", "confidence": 0.9}),
    ("POST /v1/feedback", "/v1/feedback", {"model": "credit", "prediction": "yes", "label": "no", "inputs": {"a": 1}}),
    ("POST /v1/feedback", "/v1/feedback", [{"prediction_id": "o-2", "verdict": "accepted"}, {"label": 3}]),
    ("GET /v1/predictions/<path:prediction_id>", "/v1/predictions/o-1", None),
    ("POST /v1/events", "/v1/events", {"event": "contracts", "model": "credit"}),
    ("POST /v1/notifications", "/v1/notifications", {"status": "firing", "alerts": []}),
    ("GET /v1/corrections", "/v1/corrections", None),
    ("GET /v1/corrections", "/v1/corrections?limit=1&source=all&since=2020-01-01T00:00:00Z", None),
    ("GET /v1/corrections/<int:correction_id>", "/v1/corrections/1", None),
    ("PATCH /v1/corrections/<int:correction_id>", "/v1/corrections/1", {"status": "accepted", "revision": 1}),
    ("PATCH /v1/corrections/<int:correction_id>", "/v1/corrections/1", {"status": "accepted", "revision": 1}),
    ("PATCH /v1/corrections", "/v1/corrections", [{"id": "1", "status": "accepted", "revision": 2}]),
    ("PATCH /v1/corrections", "/v1/corrections", [{"id": i, "status": "accepted", "revision": 2} for i in (1, 99)]),
    ("GET /v1/corrections/<int:correction_id>", "/v1/corrections/1", None),
    ("GET /v1/corrections/<int:correction_id>", "/v1/corrections/99", None),
    ("POST /v1/corrections/samples", "/v1/corrections/samples", {"model": "credit", "count": 3}),
    ("POST /v1/dataset/releases", "/v1/dataset/releases", {"model": "credit", "name": "one"}),
    ("POST /v1/dataset/releases", "/v1/dataset/releases", {"model": "credit", "name": "two"}),
    ("GET /v1/dataset/releases", "/v1/dataset/releases", None),
    ("GET /v1/dataset/releases/<key>", "/v1/dataset/releases/one", None),
    ("GET /openapi.json", "/openapi.json", None),
]


def test_responses_are_as_described(served: Served) -> None:
    """Each response has a documented status and exactly the members of its type; errors are problems."""
    covered = set()
    statuses = set()
    for route, path, body in QUESTIONS:
        method, operation = route.split()[0], ROUTES[route]
        answer = ask(served.url + path, body, method, Accept="application/json")
        statuses.add(answer.status)
        if answer.status in operation.responses:
            kind = operation.responses[answer.status]
            covered.add(route)
        else:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert msgspec.convert(answer.json, Problem).status == answer.status
            continue
        kind = kind["application/json"] if isinstance(kind, dict) else kind
        assert any(fits(answer.json, item) for item in alternatives(kind)), (route, answer.json)
        eventually(lambda: served.samples()["model_exporter_queue_length"] == 0)
    assert covered == {route for route, _, _ in QUESTIONS}
    assert {200, 201, 202, 404, 409} <= statuses


def alternatives(kind: Any) -> tuple[Any, ...]:
    return kind.__args__ if "|" in str(kind) else (kind,)


def fits(document: Any, kind: Any) -> bool:
    """Return whether a document has a type and no further members."""
    try:
        return json.loads(msgspec.json.encode(msgspec.convert(document, kind))) == document
    except msgspec.ValidationError:
        return False
