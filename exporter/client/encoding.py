"""Encode a service's values as JSON: numpy, pandas, PIL and torch, without importing any of them.

There are two steps. On the service's thread `snapshot_inputs` makes a copy that the service cannot change any more,
which costs little. On the sender's thread `encode_document` turns it into JSON.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import enum
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_NUMBERS = frozenset({int, float, bool, type(None)})
_SCALARS = _NUMBERS | {str}
_SUMS = frozenset({int, float})
_NUMBER_BYTES = 64
_LARGE = 4096
"""Larger arrays are encoded row by row: json holds the interpreter lock until it is done."""
_IMAGE_FILES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
_ROUNDING = 1e-6


def snapshot_inputs(inputs: Any) -> tuple[Mapping[str, Any] | None, int]:
    """Return a copy of an event's inputs, and about how many bytes it takes.

    Raises
    ------
    TypeError
        When values have no names.
    """
    if type(inputs) is dict:
        values = inputs.values()
        try:
            # The fastest check that all are numbers: a sum that includes anything else has another type, or fails.
            if type(sum(values)) in _SUMS:
                return inputs.copy(), _NUMBER_BYTES * len(inputs)
        except Exception:  # noqa: S110 (texts, missing values, arrays)
            pass
        if _SCALARS.issuperset(map(type, values)):
            texts = [value for value in values if type(value) is str]
            return inputs.copy(), _NUMBER_BYTES * len(inputs) + sum(map(len, texts))
    if inputs is None:
        return None, 0
    copy: dict[str, Any] = {}
    size = 0
    for key, value in _named(inputs):
        kind = type(value)
        if kind in _SCALARS:
            size += _NUMBER_BYTES + len(value) if kind is str else _NUMBER_BYTES
            copy[key] = value
        else:
            copy[key], more = snapshot(value)
            size += more
    return copy, size


def _named(inputs: Any) -> Iterable[tuple[str, Any]]:
    if hasattr(inputs, "iloc"):  # pandas: a row, or a frame of one
        if hasattr(inputs, "columns"):
            if len(inputs) != 1:
                raise TypeError(f"inputs: expected one row, got {len(inputs)}; record each, or wrap the model")
            inputs = inputs.iloc[0]
        return [(str(key), value) for key, value in inputs.items()]
    inputs = fields_of(inputs)
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs: expected values by the feature's name, got {type(inputs).__name__}")
    return inputs.items()


def fields_of(value: Any) -> Any:
    """Return the fields of a pydantic model or of a dataclass, and any other value as it is."""
    is_object = not isinstance(value, type)
    if is_object and hasattr(value, "model_dump"):
        return value.model_dump()
    if is_object and hasattr(value, "__fields__") and hasattr(value, "dict"):  # pydantic 1
        return value.dict()
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def snapshot(value: Any) -> tuple[Any, int]:
    """Return a copy that the service cannot change, and about how many bytes it takes.

    Examples
    --------
    >>> snapshot([1, 2.5, None])
    ([1, 2.5, None], 192)
    """
    if type(value) in _NUMBERS:
        return value, _NUMBER_BYTES
    if isinstance(value, str | bytes):
        return value, _NUMBER_BYTES + len(value)
    if isinstance(value, list | tuple | set | frozenset):
        if _NUMBERS.issuperset(map(type, value)):
            return list(value), _NUMBER_BYTES * len(value)
        pairs = [snapshot(entry) for entry in value]
        return [entry for entry, _ in pairs], _NUMBER_BYTES + sum(size for _, size in pairs)
    return _snapshot_object(value)


def _snapshot_object(value: Any) -> tuple[Any, int]:
    """Copy a mapping, an array, an image or a tensor; convert anything else to what JSON has."""
    if isinstance(value, Mapping):
        entries = {key: snapshot(entry) for key, entry in value.items()}
        size = sum(size for _, size in entries.values())
        return {key: entry for key, (entry, _) in entries.items()}, _NUMBER_BYTES + size
    if hasattr(value, "tolist"):
        return _snapshot_array(value)
    if _is_pil_image(value):
        return value.copy(), value.size[0] * value.size[1] * len(value.getbands())
    if callable(getattr(value, "numpy", None)):  # a tensor of another library than torch
        return snapshot(value.numpy())
    fields = fields_of(value)
    return (to_jsonable(value), _NUMBER_BYTES) if fields is value else snapshot(fields)


def _snapshot_array(value: Any) -> tuple[Any, int]:
    if hasattr(value, "detach"):  # torch
        return value.detach().clone(), _NUMBER_BYTES + value.element_size() * value.nelement()
    size = getattr(value, "nbytes", None)
    if isinstance(size, int) and getattr(getattr(value, "dtype", None), "kind", "O") != "O":
        return value.copy(), _NUMBER_BYTES + size
    return snapshot(value.tolist())  # an array of objects, which may change, or one that cannot be copied


def _is_pil_image(value: Any) -> bool:
    return hasattr(value, "getbands") and hasattr(value, "tobytes")


def is_recordable(value: Any) -> bool:
    """Whether a value can be a feature's, and is not a connection or a request, for example."""
    is_plain = isinstance(value, str | bytes | int | float | list | tuple | Mapping | dt.date | enum.Enum | None)
    return is_plain or hasattr(value, "tolist") or hasattr(value, "iloc") or _is_pil_image(value)


def encode_document(event: Mapping[str, Any]) -> bytes:
    """Encode a document as JSON: None is left out, NaN becomes null, and an infinity a string."""
    inputs = event.get("inputs")
    members = {key: value for key, value in event.items() if value is not None}
    if isinstance(inputs, Mapping) and any(_is_large(value) for value in inputs.values()):
        features = ",".join(f"{_json(str(key))}:{_array_json(value)}" for key, value in inputs.items())
        del members["inputs"]
        rest = _json(members)[1:]
        return f'{{"inputs":{{{features}}}{"," if members else ""}{rest}'.encode()
    return _json(members).encode()


def _is_large(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return isinstance(shape, tuple) and hasattr(value, "tolist") and math.prod(shape) > _LARGE


def _array_json(value: Any) -> str:
    """Encode a value; a large array row by row, so that the service's threads can run in between."""
    if not _is_large(value) or len(value.shape) < 2:
        return _json(value)
    rows = []
    for row in value:
        rows.append(_array_json(row))
        time.sleep(0)
    return "[" + ",".join(rows) + "]"


def _json(document: Any) -> str:
    try:
        return _ENCODER.encode(document)
    except (ValueError, TypeError):  # JSON has no NaN, no infinities and only strings as names
        return _ENCODER.encode(_finite(document))


def to_jsonable(value: Any) -> Any:
    """Convert a value that json cannot encode; to a string at the last, which the exporter counts as invalid."""
    if hasattr(value, "tolist"):
        if getattr(getattr(value, "dtype", None), "kind", "") in {"M", "m"}:  # nanoseconds would be bare integers
            value = value.astype(str)
        return value.tolist()
    if type(value).__name__ == "NAType":
        return None
    for matches, convert in _CONVERSIONS:
        if matches(value):
            return convert(value)
    return str(value)


_ENCODER = json.JSONEncoder(default=to_jsonable, allow_nan=False, separators=(",", ":"))


def _encode_pil_image(image: Any) -> Any:
    """Encode an image as base64 of a PNG; one of integers or floats, which PNG does not have, as nested lists."""
    if image.mode in {"I", "F"}:
        width, code = image.size[0], "i" if image.mode == "I" else "f"
        pixels = memoryview(image.tobytes()).cast(code).tolist()  # type: ignore[call-overload]
        return [pixels[start : start + width] for start in range(0, len(pixels), width)]
    file = io.BytesIO()
    has_png_mode = image.mode in {"1", "L", "LA", "I;16", "RGB"}
    (image if has_png_mode else image.convert("RGB")).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


_CONVERSIONS: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (_is_pil_image, _encode_pil_image),
    (lambda value: hasattr(value, "total_seconds"), lambda value: value.total_seconds()),
    (lambda value: hasattr(value, "isoformat"), lambda value: value.isoformat()),
    (lambda value: isinstance(value, enum.Enum), lambda value: value.value),
    (
        lambda value: isinstance(value, bytes) and value.startswith(_IMAGE_FILES),
        lambda value: base64.b64encode(value).decode(),
    ),
    (lambda value: isinstance(value, Mapping), dict),
    (lambda value: isinstance(value, set | frozenset), list),
    (lambda value: hasattr(value, "__float__"), float),
)
"""How values are converted; the first test that a value passes decides."""


def unwrap_single(value: Any) -> Any:
    """Return the value in an array or list of one, which models return for one row; another value as it is."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def clamp_confidence(value: Any) -> Any:
    """Move a confidence back into 0 to 1 where rounding took it out."""
    value = unwrap_single(value)
    if isinstance(value, float) and not 0 <= value <= 1 and -_ROUNDING <= value <= 1 + _ROUNDING:
        return min(max(value, 0.0), 1.0)
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return _finite(to_jsonable(value))


def rfc3339(moment: dt.datetime | float) -> str:
    """Format a moment as RFC 3339; a float is seconds since the epoch."""
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime.fromtimestamp(moment, dt.UTC)
    return moment.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"


def describe_error(error: Exception) -> str:
    """Return an error as text for the log; the caller's object in it may fail to give its own."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__


_COUNTERS = [f"7{count:03x}-" for count in reversed(range(4096))]
_tails: list[str] = []


def time_ordered_id(now: int) -> str:
    """Return a UUID of version 7 (RFC 9562); its 12 bits after the version are a counter from 0 to 4,095.

    Parameters
    ----------
    now
        Nanoseconds since the epoch.
    """
    try:
        tail = _tails.pop()
    except IndexError:
        tail = _refill()
    milliseconds = now // 1_000_000
    return "%08x-%04x-%s" % (milliseconds >> 16, milliseconds & 0xFFFF, tail)  # noqa: UP031 (the faster one)


def _refill() -> str:
    """Make the tails of the next identifiers, and return one: many random numbers cost about as much as one."""
    variant = "8" + os.urandom(2).hex()[1:] + "-"
    random = os.urandom(6 * len(_COUNTERS)).hex("-", 6).split("-")
    tails = [counter + variant + digits for counter, digits in zip(_COUNTERS, random, strict=True)]
    tail = tails.pop()
    _tails.extend(tails)
    return tail


def discard_random() -> None:
    """Discard random numbers that the parent process has, too: after a fork."""
    _tails.clear()
