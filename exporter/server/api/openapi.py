"""``/openapi.json``: the HTTP API as an OpenAPI 3.1 document, from its types and the table of routes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib.metadata import version
from types import UnionType
from typing import Any, get_origin

import msgspec
from flask import Blueprint, Response

from exporter.server.access import USER
from exporter.server.api.schemas import Problem
from exporter.server.http import problem as problems
from exporter.server.http.problem import Reply, json_reply
from exporter.server.routes import JSON, ROUTES, Route

_CONVERTER = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?(\w+)>")
_OBJECT = dict[str, Any] | None
_ABOUT = (
    "Monitors deployed models and manages users' corrections. "
    "Without configured users and tokens no authentication is required. With them, each operation requires a token "
    "with the scope listed at bearer, or a user with a password."
)


def blueprint() -> Blueprint:
    """Return the route ``/openapi.json``."""
    routes = Blueprint("openapi", __name__)

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return _reply().flask()

    return routes


@functools.cache
def _reply() -> Reply:
    return json_reply(200, document())


def document() -> dict[str, Any]:
    """Build the OpenAPI document of all `ROUTES`."""
    components: dict[str, Any] = {}

    def schema(type_: Any) -> dict[str, Any]:
        """Return the JSON schema of a type, and add those of its structs to the components."""
        if isinstance(type_, UnionType) and any(map(_is_struct, type_.__args__)):
            return {"anyOf": list(map(schema, type_.__args__))}
        if get_origin(type_) is list and _is_struct(type_.__args__[0]):
            return {"type": "array", "items": schema(type_.__args__[0])}
        (result,), structs = msgspec.json.schema_components(
            [_describable(type_)], ref_template="#/components/schemas/{name}"
        )
        components.update(structs)
        return dict(result)

    problem = {"description": "The error.", "content": {problems.CONTENT_TYPE: {"schema": schema(Problem)}}}
    paths: dict[str, dict[str, Any]] = {}
    for route, operation in ROUTES.items():
        method, _, rule = route.partition(" ")
        path = paths.setdefault(_CONVERTER.sub(r"{\2}", rule), {})
        path[method.lower()] = _operation(operation, rule, schema)
    for component in components.values():
        if "description" in component:  # without the attributes, which are for readers of the code
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


def _operation(operation: Route, rule: str, schema: _Schema) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "integer", "minimum": 0} if converter == "int" else {"type": "string"},
        }
        for converter, name in _CONVERTER.findall(rule)
    ]
    for parameter in operation.parameters:
        entry = {
            "name": parameter.name,
            "in": parameter.location,
            "required": parameter.required,
            "schema": schema(parameter.type),
        }
        parameters.append(entry | ({"description": parameter.description} if parameter.description else {}))
    responses: dict[str, Any] = {
        str(status): {"description": operation.summary, "content": _content(type_, schema)}
        for status, type_ in operation.responses.items()
    }
    result: dict[str, Any] = {"summary": operation.summary, "security": _security(operation.scope)}
    if parameters:
        result["parameters"] = parameters
    if operation.body is not None:
        result["requestBody"] = {"required": True, "content": _content(operation.body, schema)}
    return {**result, "responses": {**responses, "default": {"$ref": "#/components/responses/Problem"}}}


def _security(scope: str | None) -> list[dict[str, list[str]]]:
    basic: list[dict[str, list[str]]] = [{"basic": []}]
    return basic if scope == USER else [*basic, {"bearer": [] if scope is None else [scope]}]


def _content(type_: Any, schema: _Schema) -> dict[str, Any]:
    """Return the schemas by media type; a type that is not a `Media` is JSON."""
    media = type_ if isinstance(type_, dict) else {JSON: type_}
    return {name: {} if item is None else {"schema": schema(item)} for name, item in media.items()}


def _is_struct(type_: Any) -> bool:
    return isinstance(get_origin(type_) or type_, type) and (
        issubclass(type_, msgspec.Struct) if get_origin(type_) is None else _is_struct(type_.__args__[0])
    )


def _describable(type_: Any) -> Any:
    """Return a type whose raw JSON members are objects, because a schema cannot describe raw JSON."""
    if not _is_struct(type_) or all(field.type is not msgspec.Raw for field in msgspec.structs.fields(type_)):
        return type_
    members = [
        (field.encode_name, _OBJECT, None)
        if field.type is msgspec.Raw
        else (field.encode_name, field.type, *(() if field.required else (field.default,)))
        for field in msgspec.structs.fields(type_)
    ]
    return msgspec.defstruct(type_.__name__, members, namespace={"__doc__": type_.__doc__}, kw_only=True)
