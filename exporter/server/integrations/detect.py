"""Which format a body is of: the Open Inference Protocol, version 2 or 1, MLflow's or Seldon's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.errors import EventError
from exporter.server.integrations import open_inference, seldon
from exporter.server.integrations.payload import Body, Column, columnar, convert, document, rows, table
from exporter.validation import preview


def request(body: bytes, head: int | None = None) -> Body:
    """The inputs of a request.

    Parameters
    ----------
    body
        As it went over the wire.
    head
        The ``Inference-Header-Content-Length``, where it is known.

    Raises
    ------
    EventError
        When it is of no known format, or wrong.
    """
    return read_request(*document(body, head))


def response(body: bytes, head: int | None = None) -> Body:
    """The outputs of a response; see `request`."""
    return read_response(*document(body, head))


def read_request(found: Any, rest: bytes = b"") -> Body:
    """The same of decoded JSON and the bytes behind it."""
    if isinstance(found, Mapping):
        if _are_tensors(found.get("inputs")):
            return open_inference.read(found, "inputs", rest)
        _nothing_behind(rest)
        if "instances" in found:
            return Body(table(_list(found, "instances"), "instances"))
        if "dataframe_split" in found:
            return Body([_split(found["dataframe_split"])])
        if "dataframe_records" in found:
            return Body(table(_list(found, "dataframe_records"), "dataframe_records"))
        if "inputs" in found:
            return Body(columnar(found["inputs"], "inputs"))
        if seldon.is_message(found):
            return seldon.message(found)
    elif isinstance(found, list):
        _nothing_behind(rest)
        return Body(table(found, "instances"))
    known = "inputs, instances, dataframe_split, dataframe_records, data, strData, jsonData and binData"
    raise EventError("", f"expected a request, an object with one of {known}", "missing_field")


def read_response(found: Any, rest: bytes = b"") -> Body:
    """The same of decoded JSON and the bytes behind it."""
    if isinstance(found, Mapping) and _are_tensors(found.get("outputs")):
        return open_inference.read(found, "outputs", rest)
    _nothing_behind(rest)
    if not isinstance(found, Mapping):
        return Body(table(rows(found), "predictions"))
    version = found.get("model_version")
    version = version if isinstance(version, str) else None
    for member in ("predictions", "outputs"):
        if member in found:
            return Body(columnar(found[member], member), version=version)
    if seldon.is_message(found):
        return seldon.message(found)
    if found.get("error") is not None:
        return Body([], failed=True)
    if found and all(type(share) in {int, float} for share in found.values()):
        return Body([Column("predictions", [list(found.values())], tuple(found))])  # TorchServe's labels with scores
    known = "outputs, predictions, data, strData, jsonData, binData and error"
    raise EventError("", f"expected a response, an object with one of {known}", "missing_field")


def _are_tensors(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return not value or (isinstance(value[0], Mapping) and "datatype" in value[0])


def _nothing_behind(rest: bytes) -> None:
    if rest:
        raise EventError("", f"{len(rest)} bytes follow the JSON, which belong to no tensor", "malformed")


def _list(found: Mapping[str, Any], member: str) -> list[Any]:
    return convert(found[member], list[Any], (member,))


def _split(value: Any) -> Column:
    """MLflow's ``dataframe_split``."""
    at = "dataframe_split"
    frame = convert(value, dict[str, Any], (at,))
    names = tuple(str(name) for name in convert(frame.get("columns", []), list[str | int], (at, "columns")))
    cells = convert(frame.get("data"), list[list[Any]], (at, "data"))
    for place, row in enumerate(cells):
        if names and len(row) != len(names):
            detail = f"expected the {len(names)} values of {preview(names)}, got {len(row)}"
            raise EventError(f"/{at}/data/{place}", detail, "malformed")
    return Column(at, cells, names)
