"""``/openapi.json``: the HTTP API for programs (OpenAPI 3.1), from the wire types and the table of operations."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib.metadata import version
from types import UnionType
from typing import Any, get_origin

import msgspec
from flask import Blueprint, Response

from exporter.server import authorization
from exporter.server import problem as problems
from exporter.server.api.operations_table import JSON, OPERATIONS, Operation
from exporter.server.api.schemas import Problem
from exporter.server.problem import Reply
from exporter.server.tokens import USER

_CONVERTER = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?(\w+)>")
_OBJECT = dict[str, Any] | None
_ABOUT = (
    "Monitors deployed models and keeps what users corrected. "
    "An exporter without users and tokens asks nobody who it is; one with them wants the scope that stands "
    "beside bearer, or a user with a password."
)


def blueprint() -> Blueprint:
    """The route ``/openapi.json``."""
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return Reply(200, _encoded()).flask()

    return routes


@functools.cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The OpenAPI document of all `OPERATIONS`."""
    components: dict[str, Any] = {}

    def schema(kind: Any) -> dict[str, Any]:
        """The JSON schema of a type; those of its structs go into the components."""
        if isinstance(kind, UnionType) and any(_is_struct(one) for one in kind.__args__):
            return {"anyOf": [schema(one) for one in kind.__args__]}
        if get_origin(kind) is list and _is_struct(kind.__args__[0]):
            return {"type": "array", "items": schema(kind.__args__[0])}
        (found,), structs = msgspec.json.schema_components([_spelt(kind)], ref_template="#/components/schemas/{name}")
        components.update(structs)
        return dict(found)

    problem = {"description": "What was wrong.", "content": {problems.CONTENT_TYPE: {"schema": schema(Problem)}}}
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in OPERATIONS.items():
        method, _, rule = route.partition(" ")
        path = paths.setdefault(_CONVERTER.sub(r"{\2}", rule), {})
        path[method.lower()] = _operation(method, rule, operation, schema)
    for component in components.values():
        if "description" in component:  # the first line of a docstring: the rest is for whoever reads the code
            component["description"] = component["description"].partition("\n")[0].replace("``", "`")
    return {
        "openapi": "3.1.0",
        "info": {"title": "model-exporter", "version": version("model-exporter"), "description": _ABOUT},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "responses": {"Problem": problem},
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


_Schema = Callable[[Any], dict[str, Any]]


def _operation(method: str, rule: str, operation: Operation, schema: _Schema) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0} if converter == "int" else {"type": "string"},
        }
        for converter, name in _CONVERTER.findall(rule)
    ]
    for one in operation.parameters:
        described = {"name": one.name, "in": one.place, "required": one.required, "schema": schema(one.type)}
        parameters.append({**described, "description": one.description} if one.description else described)
    answers: dict[str, Any] = {
        str(status): {"description": operation.summary, "content": _content(kind, schema)}
        for status, kind in operation.answers.items()
    }
    found: dict[str, Any] = {"summary": operation.summary, "security": _security(authorization.scope(method, rule))}
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _content(operation.body, schema)}
    return {**found, "responses": {**answers, "default": {"$ref": "#/components/responses/Problem"}}}


def _security(scope: str | None) -> list[dict[str, list[str]]]:
    basic: list[dict[str, list[str]]] = [{"basic": []}]
    return basic if scope == USER else [*basic, {"bearer": [] if scope is None else [scope]}]


def _content(kind: Any, schema: _Schema) -> dict[str, Any]:
    """Schemas by media type; a type alone is JSON's."""
    media = kind if isinstance(kind, dict) else {JSON: kind}
    return {name: {} if one is None else {"schema": schema(one)} for name, one in media.items()}


def _is_struct(kind: Any) -> bool:
    return isinstance(get_origin(kind) or kind, type) and (
        issubclass(kind, msgspec.Struct) if get_origin(kind) is None else _is_struct(kind.__args__[0])
    )


def _spelt(kind: Any) -> Any:
    """A wire type with what stays undecoded as the objects it holds, which alone can be described."""
    if not _is_struct(kind) or all(field.type is not msgspec.Raw for field in msgspec.structs.fields(kind)):
        return kind
    members = [
        (field.encode_name, _OBJECT, None)
        if field.type is msgspec.Raw
        else (field.encode_name, field.type, *(() if field.required else (field.default,)))
        for field in msgspec.structs.fields(kind)
    ]
    return msgspec.defstruct(kind.__name__, members, namespace={"__doc__": kind.__doc__}, kw_only=True)
