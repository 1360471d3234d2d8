"""Hostile bodies that a schema does not describe: images, odd times, and the formats of other servers."""

from __future__ import annotations

import base64
import functools
import gzip
import io
import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlencode

from hostile import KNOWN, NUMBERS, TIMES, WORDS, broken, mutated, text, value
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from support.paths import DATA

PREFIXES = ("data:image/png;base64,", "data:image/png;of=numbers;base64,", "data:image/jpeg;base64,", "data:,", "")
IDS = tuple(f"r-{number}" for number in range(1, 21))
Headers = list[tuple[bytes, bytes]]


class Payload(NamedTuple):
    """A body with the headers that it needs."""

    body: bytes
    headers: Headers


def _type(name: str) -> Headers:
    return [(b"Content-Type", name.encode())]


def image(rng: Random) -> Any:
    """Return an image: nested arrays, a file in base64, a broken file, or one that declares too many pixels."""
    kind = rng.randrange(10)
    if kind < 3:
        height, width = rng.choice(((8, 8), (1, 1), (3, 200), (0, 0), (28, 28)))
        pixels = [[rng.randrange(256) for _ in range(width)] for _ in range(height)]
        return mutated(rng, pixels) if rng.random() < 0.3 and pixels else pixels
    if kind < 8:
        file = _file(
            rng.choice(("L", "RGB", "RGBA", "P", "1", "I;16", "LA")), rng.choice(("PNG", "JPEG", "WEBP", "GIF"))
        )
    elif rng.random() < 0.95:
        file = _declared(rng.choice((0, 1, 8, 5000, 10_900, 2**31 - 1, 2**32 - 1)))
    else:
        file = _declared(rng.choice((700, 1500)), padded=True)
    if rng.random() < 0.3:
        file = broken(rng, file)
    return rng.choice(PREFIXES) + base64.b64encode(file).decode()[: None if rng.random() < 0.9 else rng.randrange(60)]


@functools.cache
def _file(mode: str, form: str) -> bytes:
    picture = Image.new(mode, (8, 8))
    buffer = io.BytesIO()
    try:
        picture.save(buffer, form)
    except (OSError, ValueError):  # not every format has every mode
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, form)
    return buffer.getvalue()


@functools.cache
def _declared(side: int, padded: bool = False) -> bytes:
    """Return a PNG that declares a square of ``side`` pixels.

    It holds a row of them; or all of them, and other data so that the file is not much smaller than its pixels.
    """
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = bytes((side + 1) * side) if padded else bytes(min(side, 10_900) + 1)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    if padded:
        parts.insert(1, (b"tEXt", b"Comment\0" + b"x" * (side * side // 10)))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _mostly(rng: Random, usual: Any, odd: tuple[Any, ...]) -> Any:
    """Return the usual value, and sometimes an odd one: an event of several odd values is refused for the first."""
    return usual if rng.random() < 0.75 else rng.choice(odd)


def prediction(rng: Random, name: str | None = None) -> dict[str, Any]:
    """Return a prediction of the model credit with odd members."""
    inputs = {
        "age": 41,
        "income": 30_000.5,
        "country": _mostly(rng, "NL", WORDS),
        "photo": image(rng),
        "name": _mostly(rng, "Ada", WORDS),
    }
    event: dict[str, Any] = {
        "model": "credit",
        "id": rng.choice(IDS) if name is None else name,
        "version": _mostly(rng, "3", WORDS),
        "time": _mostly(rng, TIMES[0], TIMES),
        "inputs": {key: inputs[key] for key in inputs if rng.random() < 0.8},
        "prediction": _mostly(rng, "yes", (*NUMBERS, *WORDS)),
        "confidence": rng.choice((0.9, 0.99, 0, 1, 0.5)),
    }
    return _changed(rng, event)


def feedback(rng: Random, name: str | None = None) -> dict[str, Any]:
    """Return feedback on a prediction, or with a prediction of its own."""
    event: dict[str, Any] = {
        "prediction_id": rng.choice(IDS) if name is None else name,
        "verdict": rng.choice(("corrected", "corrected", "accepted")),
        "label": _mostly(rng, "no", ("yes", None, *NUMBERS, *WORDS)),
        "user": _mostly(rng, "teacher-4", WORDS),
        "comment": _mostly(rng, "", WORDS),
        "time": _mostly(rng, TIMES[0], TIMES),
    }
    if rng.random() < 0.2:
        own = prediction(rng)
        event |= {key: own.get(key) for key in ("model", "version", "inputs", "prediction")}
        if rng.random() < 0.5:
            del event["prediction_id"]
    return _changed(rng, event)


def _changed(rng: Random, document: Any) -> Any:
    """Return the document, sometimes without a member or with one that is arbitrary."""
    if rng.random() < 0.15:
        document.pop(rng.choice(list(document)))
    return mutated(rng, document) if rng.random() < 0.1 else document


def _events(make: Callable[[Random], Any]) -> Callable[[Random], Payload]:
    def payload(rng: Random) -> Payload:
        kind = rng.random()
        if kind < 0.6:
            return Payload(text(rng, make(rng)), _type("application/json"))
        many = [make(rng) for _ in range(rng.choice((0, 2, 5, 20)))]
        if kind < 0.8:
            return Payload(text(rng, many), _type("application/json"))
        return Payload(b"\n".join(text(rng, event) for event in many), _type("application/x-ndjson"))

    return payload


def _label(rng: Random) -> dict[str, Any]:
    return _changed(rng, {"prediction_id": rng.choice(IDS), "label": _mostly(rng, "yes", ("no", *NUMBERS, *WORDS))})


def _business_event(rng: Random) -> dict[str, Any]:
    event = {
        "event": "contracts",
        "model": "credit",
        "version": _mostly(rng, "3", WORDS),
        "value": rng.choice(NUMBERS),
    }
    return _changed(rng, event)


@functools.cache
def recorded(name: str) -> bytes:
    """Return a payload that another server's client sent."""
    return (DATA / "payloads" / name).read_bytes()


def _recorded_json(name: str) -> Any:
    return json.loads(recorded(name))


_RECORDED = ("kserve_request.bin", "kserve_response.bin", "mlserver_request.json", "mlserver_response.json",
             "triton_json.json", "triton_binary.bin",
             "triton_small_floats.bin")  # fmt: skip


def _body(rng: Random) -> bytes:
    """Return a request or response of a model server: recorded, changed, broken or compressed."""
    name = rng.choice(_RECORDED)
    if name.endswith(".json") and rng.random() < 0.7:
        body = text(rng, mutated(rng, _recorded_json(name)))
    else:
        body = recorded(name) if rng.random() < 0.3 else broken(rng, recorded(name))
    return gzip.compress(body) if rng.random() < 0.1 else body


def kserve(rng: Random) -> Payload:
    """Return a CloudEvent with a logged request or response, or a batch of them."""
    if rng.random() < 0.3:
        names = [f"cloudevent_{rng.choice(('request', 'response'))}_structured.json" for _ in range(rng.randrange(4))]
        bodies = [_changed(rng, json.loads(_recorded_json(name)["body"])) for name in names]
        batch = rng.random() < 0.7
        form = "application/cloudevents-batch+json" if batch else "application/cloudevents+json"
        return Payload(text(rng, bodies if batch else (bodies or [0])[0]), _type(form))
    attributes = {
        "specversion": "1.0",
        "id": rng.choice(IDS),
        "source": "http://localhost:9081/",
        "type": f"org.kubeflow.serving.inference.{rng.choice(('request', 'response'))}",
        "time": _mostly(rng, TIMES[0], TIMES),
        "inferenceservicename": rng.choice(("credit", "credit", *KNOWN)),
        "namespace": "default",
    }
    if rng.random() < 0.3:
        attributes[rng.choice(list(attributes))] = rng.choice(WORDS)
    headers = [(f"ce-{name}".encode(), _printable(word)) for name, word in attributes.items() if rng.random() < 0.98]
    if rng.random() < 0.1:
        headers.append((b"Inference-Header-Content-Length", rng.choice((b"320", b"0", b"-1", b"9" * 30, b"x"))))
    return Payload(_body(rng), headers)


def _printable(word: Any) -> bytes:
    return bytes(byte for byte in str(word).encode("utf-8", "surrogatepass") if byte >= 32 and byte != 127).strip()


def proxy_records(rng: Random) -> Payload:
    """Return what a proxy captured."""

    def record(rng: Random) -> Any:
        bodies = {side: base64.b64encode(_body(rng)).decode() for side in ("request", "response")}
        document = {"model": "credit", "code": rng.choice((200, 200, 500, 404)), "time": _mostly(rng, TIMES[0], TIMES)}
        document |= {"id": rng.choice(IDS), "duration_seconds": rng.choice((0.1, *NUMBERS)), **bodies}
        return _changed(rng, document)

    return _events(record)(rng)


def _attribute_value(rng: Random, depth: int = 0) -> Any:
    kind = rng.choice(
        ("stringValue", "intValue", "doubleValue", "boolValue", "bytesValue", "arrayValue", "kvlistValue")
    )
    if rng.random() < 0.1 or depth > 4:
        return value(rng, 4)
    if kind == "arrayValue":
        return {kind: {"values": [_attribute_value(rng, depth + 1) for _ in range(rng.randrange(3))]}}
    if kind == "kvlistValue":
        return {kind: {"values": [{"key": rng.choice(WORDS), "value": _attribute_value(rng, depth + 1)}]}}
    return {kind: rng.choice((*NUMBERS, *WORDS, "1", "-1", "--1", "1" * 5000))}


_ATTRIBUTES = ("model.version", "model.prediction", "model.confidence", "model.prediction.id", "model.code",
               "model.duration_seconds", "model.input.age", "model.input.photo", "gen_ai.request.model",
               "gen_ai.response.model", "gen_ai.operation.name", "gen_ai.response.finish_reasons",
               "gen_ai.usage.input_tokens", "gen_ai.evaluation.name", "error.type")  # fmt: skip
_NANOSECONDS = ("timeUnixNano", "observedTimeUnixNano", "startTimeUnixNano", "endTimeUnixNano")


def _record(rng: Random) -> Any:
    named = {"key": "model.name", "value": {"stringValue": rng.choice(("credit", "credit", *WORDS))}}
    attributes = [named] + [
        {"key": rng.choice(_ATTRIBUTES), "value": _attribute_value(rng)} for _ in range(rng.randrange(5))
    ]
    times = {member: rng.choice((*NUMBERS, "1764000000000000000", "1" * 310)) for member in rng.sample(_NANOSECONDS, 2)}
    record = {"attributes": attributes, "traceId": rng.choice(WORDS), "spanId": "eee19b7ec3c1b174", **times}
    return mutated(rng, record) if rng.random() < 0.3 else record


def otlp(signal: str) -> Callable[[Random], Payload]:
    """Return a function that makes export requests, in JSON or protobuf, compressed or not."""

    def payload(rng: Random) -> Payload:
        if rng.random() < 0.3:
            body, headers = recorded(f"otlp_{signal}.pb"), _type("application/x-protobuf")
            body = broken(rng, body) if rng.random() < 0.8 else body
        else:
            groups, scopes, records = (
                ("resourceLogs", "scopeLogs", "logRecords")
                if signal == "logs"
                else ("resourceSpans", "scopeSpans", "spans")
            )
            document: Any = {groups: [{scopes: [{records: [_record(rng) for _ in range(rng.randrange(4))]}]}]}
            body = text(rng, mutated(rng, document) if rng.random() < 0.2 else document)
            headers = _type("application/json")
        if rng.random() < 0.3:
            body = gzip.compress(body * rng.choice((1, 1, 100)))
            headers = [*headers, (b"Content-Encoding", b"gzip")]
            body = broken(rng, body) if rng.random() < 0.2 else body
        return Payload(body, headers)

    return payload


def _form(**fields: tuple[Any, ...]) -> Callable[[Random], Payload]:
    def payload(rng: Random) -> Payload:
        pairs = {
            name: str(rng.choice(choices) if rng.random() < 0.8 else rng.choice(WORDS)).encode("utf-8", "surrogatepass")
            for name, choices in fields.items()
            if rng.random() < 0.95
        }
        body = urlencode(pairs).encode()
        return Payload(broken(rng, body) if rng.random() < 0.1 else body, _type("application/x-www-form-urlencoded"))

    return payload


PAYLOADS: dict[str, Callable[[Random], Payload]] = {
    "POST /v1/predictions": _events(prediction),
    "POST /v1/feedback": _events(feedback),
    "POST /v1/labels": _events(_label),
    "POST /v1/events": _events(_business_event),
    "POST /v1/exchanges": proxy_records,
    "POST /v1/kserve": kserve,
    "POST /v1/logs": otlp("logs"),
    "POST /v1/traces": otlp("traces"),
    "POST /review/decide": _form(
        id=(1, 2, 3),
        revision=(0, 1, 2),
        status=("accepted", "rejected", "pending"),
        label=("yes", "no", "1e999", "9" * 400),
        label_type=("string", "number", "boolean", "null"),
        back=("", "model=credit", "model=credit&limit=1"),
    ),
    "POST /review/samples": _form(model=("credit",), version=("3", ""), count=(1, 5, 1000)),
}
"""Makers of bodies by operation. An operation that is not among them gets bodies that follow its schema."""
