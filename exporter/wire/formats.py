"""Detect the format of a payload, and decode it: Open Inference Protocol, TensorFlow Serving, MLflow, TorchServe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from exporter.errors import EventError
from exporter.validation import preview
from exporter.wire import open_inference
from exporter.wire.payload import (
    Column,
    Payload,
    as_rows,
    columns_of_rows,
    convert,
    decode_json,
    decompress_if_gzip,
    named_columns,
)

_REQUEST_MEMBERS = "inputs, instances, dataframe_split and dataframe_records"
_RESPONSE_MEMBERS = "outputs, predictions and error"


def decode_request(body: bytes, json_length: int | None = None) -> Payload:
    """Decode the inputs of a request.

    Parameters
    ----------
    body
        As it was sent, compressed by gzip or not.
    json_length
        The ``Inference-Header-Content-Length``, if it is known.

    Raises
    ------
    EventError
        When the format is unknown, or the body is not valid in its format.
    """
    return request_from_json(*decode_json(decompress_if_gzip(body), json_length))


def decode_response(body: bytes, json_length: int | None = None) -> Payload:
    """Decode the outputs of a response; see `decode_request`."""
    return response_from_json(*decode_json(decompress_if_gzip(body), json_length))


def request_from_json(document: Any, rest: bytes = b"") -> Payload:
    """Read the inputs of a request from its decoded JSON and the bytes after it."""
    if isinstance(document, Mapping) and _are_tensors(document.get("inputs")):
        return open_inference.read(document, "inputs", rest)
    _check_no_trailing_bytes(rest)
    if isinstance(document, list):
        return Payload(columns_of_rows(document, "instances"))
    if isinstance(document, Mapping) and (columns := _request_columns(document)) is not None:
        return Payload(columns)
    raise EventError("", f"expected a request, an object with one of {_REQUEST_MEMBERS}", "missing_field")


def _request_columns(document: Mapping[str, Any]) -> list[Column] | None:
    """Read the columns of TensorFlow Serving's and MLflow's requests; None for any other document."""
    if "instances" in document:
        return _columns_of_member(document, "instances")
    if "dataframe_split" in document:
        return [_split_frame(document["dataframe_split"])]
    if "dataframe_records" in document:
        return _columns_of_member(document, "dataframe_records")
    return named_columns(document["inputs"], "inputs") if "inputs" in document else None


def _columns_of_member(document: Mapping[str, Any], member: str) -> list[Column]:
    return columns_of_rows(convert(document[member], list[Any], (member,)), member)


def response_from_json(document: Any, rest: bytes = b"") -> Payload:
    """Read the outputs of a response from its decoded JSON and the bytes after it."""
    if isinstance(document, Mapping) and _are_tensors(document.get("outputs")):
        return open_inference.read(document, "outputs", rest)
    _check_no_trailing_bytes(rest)
    if not isinstance(document, Mapping):
        return Payload(columns_of_rows(as_rows(document), "predictions"))
    version = document.get("model_version")
    version = version if isinstance(version, str) else None
    for member in ("predictions", "outputs"):
        if member in document:
            return Payload(named_columns(document[member], member), version=version)
    if document.get("error") is not None:
        return Payload([], failed=True)
    if document and all(type(score) in {int, float} for score in document.values()):  # TorchServe: scores by label
        return Payload([Column("predictions", [list(document.values())], tuple(document))])
    raise EventError("", f"expected a response, an object with one of {_RESPONSE_MEMBERS}", "missing_field")


def _are_tensors(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return not value or (isinstance(value[0], Mapping) and "datatype" in value[0])


def _check_no_trailing_bytes(rest: bytes) -> None:
    if rest:
        raise EventError("", f"the {len(rest)} bytes after the JSON do not belong to any tensor", "malformed")


def _split_frame(value: Any) -> Column:
    """Read MLflow's ``dataframe_split``."""
    member = "dataframe_split"
    frame = convert(value, dict[str, Any], (member,))
    names = tuple(str(name) for name in convert(frame.get("columns", []), list[str | int], (member, "columns")))
    rows = convert(frame.get("data"), list[list[Any]], (member, "data"))
    for index, row in enumerate(rows):
        if names and len(row) != len(names):
            detail = (
                f"expected the {len(names)} value{'' if len(names) == 1 else 's'} of {preview(names)}, got {len(row)}"
            )
            raise EventError(f"/{member}/data/{index}", detail, "malformed")
    return Column(member, rows, names)
