"""Values as a service has them, to JSON: numpy, pandas, PIL and torch without importing any of them.

It happens in two steps. On the service's thread `snapshot_inputs` takes a copy that the service cannot change any
more, which costs little; `encoded` makes JSON of it later, on the sender's thread.
"""

from __future__ import annotations

import base64
import datetime as dt
import enum
import io
import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

_NUMBERS = frozenset({int, float, bool, type(None)})
_SCALARS = _NUMBERS | {str}
_SUMS = frozenset({int, float})
_NUMBER_BYTES = 64
_LARGE = 4096
"""Numbers in an array from which it is encoded a row at a time: json holds the interpreter for as long as it takes."""
_FILES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
_ROUNDING = 1e-6


def snapshot_inputs(inputs: Any) -> tuple[Mapping[str, Any] | None, int]:
    """A copy of an event's inputs, and about how many bytes it takes.

    Raises
    ------
    TypeError
        When there is no name to each value.
    """
    if type(inputs) is dict:
        values = inputs.values()
        try:
            # The quickest proof that all are numbers: a sum with anything else in it has another type, or fails.
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
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs: expected values by the feature's name, got {type(inputs).__name__}")
    return inputs.items()


def snapshot(value: Any) -> tuple[Any, int]:
    """A value that nobody changes any more, and about how many bytes it takes.

    Examples
    --------
    >>> snapshot([1, 2.5, None])
    ([1, 2.5, None], 192)
    """
    kind = type(value)
    if kind in _NUMBERS:
        return value, _NUMBER_BYTES
    if isinstance(value, str | bytes):
        return value, _NUMBER_BYTES + len(value)
    if isinstance(value, list | tuple | set | frozenset):
        if _NUMBERS.issuperset(map(type, value)):
            return list(value), _NUMBER_BYTES * len(value)
        pairs = [snapshot(entry) for entry in value]
        return [entry for entry, _ in pairs], _NUMBER_BYTES + sum(size for _, size in pairs)
    if isinstance(value, Mapping):
        named = {key: snapshot(entry) for key, entry in value.items()}
        return {key: entry for key, (entry, _) in named.items()}, _NUMBER_BYTES + sum(
            size for _, size in named.values()
        )
    if hasattr(value, "tolist"):
        return _array(value)
    if _is_picture(value):
        return value.copy(), value.size[0] * value.size[1] * len(value.getbands())
    if callable(getattr(value, "numpy", None)):  # a tensor of another library
        return snapshot(value.numpy())
    return plain(value), _NUMBER_BYTES


def _array(value: Any) -> tuple[Any, int]:
    if hasattr(value, "detach"):  # torch
        return value.detach().clone(), _NUMBER_BYTES + value.element_size() * value.nelement()
    size = getattr(value, "nbytes", None)
    if isinstance(size, int) and getattr(getattr(value, "dtype", None), "kind", "O") != "O":
        return value.copy(), _NUMBER_BYTES + size
    return snapshot(value.tolist())  # its elements may change, or it cannot be copied


def _is_picture(value: Any) -> bool:
    return hasattr(value, "getbands") and hasattr(value, "tobytes")


def recordable(value: Any) -> bool:
    """Whether a value is one that a feature can have, and not a connection or a request."""
    known = isinstance(value, str | bytes | int | float | list | tuple | Mapping | dt.date | enum.Enum | None)
    return known or hasattr(value, "tolist") or hasattr(value, "iloc") or _is_picture(value)


def encoded(event: Mapping[str, Any]) -> bytes:
    """A document as JSON: what is None is left out, NaN is null, an infinity its own text."""
    inputs = event.get("inputs")
    given = {key: value for key, value in event.items() if value is not None}
    if isinstance(inputs, Mapping) and any(_is_large(value) for value in inputs.values()):
        features = ",".join(f"{_text(str(key))}:{_spelt(value)}" for key, value in inputs.items())
        del given["inputs"]
        rest = _text(given)[1:]
        return f'{{"inputs":{{{features}}}{"," if given else ""}{rest}'.encode()
    return _text(given).encode()


def _is_large(value: Any) -> bool:
    shape = getattr(value, "shape", None)
    return isinstance(shape, tuple) and hasattr(value, "tolist") and math.prod(shape) > _LARGE


def _spelt(value: Any) -> str:
    """JSON of a value; of a large array a row at a time, so that the service's threads come in between."""
    if not _is_large(value) or len(value.shape) < 2:
        return _text(value)
    rows = []
    for row in value:
        rows.append(_spelt(row))
        time.sleep(0)
    return "[" + ",".join(rows) + "]"


def _text(document: Any) -> str:
    try:
        return json.dumps(document, default=plain, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError):  # JSON has neither NaN nor infinities nor names that are no text
        return json.dumps(_finite(document), allow_nan=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """What json cannot encode as something that it can; as text in the end, which the exporter counts as invalid."""
    if hasattr(value, "tolist"):
        if getattr(getattr(value, "dtype", None), "kind", "") in {"M", "m"}:  # nanoseconds would be bare integers
            value = value.astype(str)
        return value.tolist()
    if _is_picture(value):
        return _pixels(value)
    if hasattr(value, "total_seconds"):
        return value.total_seconds()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode() if value.startswith(_FILES) else str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return list(value)
    if type(value).__name__ == "NAType":
        return None
    return float(value) if hasattr(value, "__float__") else str(value)


def _pixels(picture: Any) -> Any:
    if picture.mode in {"I", "F"}:  # numbers that a PNG cannot hold
        width, pixels = (
            picture.size[0],
            memoryview(picture.tobytes()).cast("i" if picture.mode == "I" else "f").tolist(),
        )
        return [pixels[start : start + width] for start in range(0, len(pixels), width)]
    file = io.BytesIO()
    kept = picture.mode in {"1", "L", "LA", "I;16", "RGB"}
    (picture if kept else picture.convert("RGB")).save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def single(value: Any) -> Any:
    """The one value in an array or list of one; what models return for one row."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def share(value: Any) -> Any:
    """A confidence, back within 0 and 1 where rounding took it out."""
    value = single(value)
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
    return _finite(plain(value))


def rfc3339(moment: dt.datetime | float) -> str:
    """A moment as the exporter reads it; a float is seconds since the epoch."""
    if not isinstance(moment, dt.datetime):
        moment = dt.datetime.fromtimestamp(moment, dt.UTC)
    return moment.astimezone(dt.UTC).replace(tzinfo=None).isoformat() + "Z"


def describe_error(error: Exception) -> str:
    """An error for the log; what it holds of the caller's may not even have a text."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__
