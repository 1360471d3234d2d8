"""Hostile inputs from a seed: requests derived from an OpenAPI document, and files derived from valid ones.

The seed of the ``random.Random`` that is passed in determines everything, so every failure can be reproduced.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

import yaml

WORDS = (
    "", " ", "\0", "a\0b", "\ud800", "\udfff\ud800", "é", "模型", "🙂", "\u202etxt", "\ufeff", "\r\n", "a\nb 1", "0",
    "-0", "1e999",
    'x"} 1\nmodel_forged_total{a="', "\\", '"', "'", "' OR 1=1 --", "%", "%00", "%ff", "../../../etc/passwd",
    "..%2f..%2f",
    "<script>alert(1)</script>", "{{7*7}}", "${jndi:ldap://x}", "=1+1", "__proto__", "__name__", "le", "null",
    "NaN", "Infinity",
    "data:image/png;base64,iVBORw0KGgo=", "iVBORw0KGgoAAAANSUhEUgAAAAEAAAAB", "/9j/4AAQSkZJRg==", "label-studio:x",
    "sqlite:///x", "x" * 129, "y" * 257, "z" * 3000, "(prediction)", "(confidence)", "unknown", "other",
)  # fmt: skip
TIMES = (
    "2026-11-24T10:00:00Z", "2026-11-24T10:00:00.123456789+01:00", "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-05:00", "9999-12-31T23:59:59.99999Z", "9999-12-31T23:59:59.9999999Z", "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00", "0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00-23:59", "0000-00-00T00:00:00Z",
    "1969-12-31T23:59:59Z", "1970-01-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-12-31T23:59:60Z",
    "2026-11-24T10:00:00", "2026-11-24", "20261124T100000Z", "2026-11-24T24:00:00Z", "2026-11-24T10:00:00+99:99", "", 0,
    1764000000, None,
)  # fmt: skip
"""Times, most of them at the end of what a type can hold."""
KNOWN = (
    "credit", "3", "yes", "no", "NL", "u-1", "contracts", "age", "income", "country", "photo", "name", "5m", "1h",
    "r-1",
)  # fmt: skip
"""Strings that have a meaning for the exporter under test."""
LIKELY: dict[str, tuple[Any, ...]] = {
    "model": ("credit",), "version": ("3", "4"), "event": ("contracts",), "prediction_id": ("r-1", "r-2", "r-3"),
    "id": ("r-1", "r-2", "r-3", "1", 2), "correction_id": (1, 2, 3), "revision": (1, 2, 3), "key": ("one",),
    "name": ("one", "ModelFeatureDrift", "photo"), "feature": ("age", "country"), "window": ("5m",),
}  # fmt: skip
"""Usual values of members and parameters with these names, so that many requests pass the first checks."""
NUMBERS = (
    0, 1, -1, 2, 0.5, -0.0, 1e-320, 1e308, -1e308, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1,
    10**30, 10**400, float("nan"), float("inf"), float("-inf"), 253402300800, -62135596801,
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get")
HEADERS = {
    "Content-Type": ("application/json", "application/x-ndjson", "text/plain", "application/x-www-form-urlencoded",
                     "multipart/form-data; boundary=x", "application/json; charset=utf-16", ";", "x" * 500),
    "Accept": ("*/*", "application/openmetrics-text", "application/json", "application/x-ndjson", "a/b;q=x", ",;=",
    "text/html"),
    "Accept-Encoding": ("gzip", "gzip;q=0", "br, gzip;q=0.5", "*", "gzip;q=nan", ",,,"),
    "Content-Encoding": ("gzip", "identity", "br", "x"),
    "Idempotency-Key": ("k-1", "k-2", "", "k" * 300, "é", "\t"),
    "Authorization": ("Basic YTpi", "Basic !!", "Bearer x", "Bearer", "Digest", "Basic " + "A" * 200),
    "Origin": ("null", "http://evil.example", "", "http://127.0.0.1"),
    "Sec-Fetch-Site": ("same-origin", "cross-site", "none", "?"),
    "Cookie": ("session=x", "a=b; c", "=;=;"),
    "If-None-Match": ("*", 'W/"x"', "x", ","),
    "If-Modified-Since": ("Wed, 21 Oct 2015 07:28:00 GMT", "x", "Wed, 99 Oct 99999 07:28:00 GMT"),
    "Range": ("bytes=0-1", "bytes=-1", "bytes=9-1", "x", "bytes=0-0,0-0,0-0"),
    "X-Forwarded-For": ("127.0.0.1", "é"),
    "Expect": ("x",),
    "Host": ("evil.example", "", "[::1", "a b", "x:99999"),
}  # fmt: skip
"""Headers to try; the sender adds those that every HTTP client sends."""


class Request(NamedTuple):
    """A request as it is sent; ``route`` is the operation that it is derived from."""

    route: str
    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


def value(rng: Random, depth: int = 0) -> Any:
    """Return an arbitrary JSON value."""
    kind = rng.randrange(12 if depth < 5 else 8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(WORDS)
    if kind < 7:
        return rng.choice(KNOWN)
    if kind < 8:
        return rng.choice((None, True, False))
    if kind < 10:
        return [value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 3, 8)))]
    return {rng.choice((*WORDS, *KNOWN)): value(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 4)))}


def text(rng: Random, document: Any) -> bytes:
    """Return a document as JSON, sometimes broken: surrogates, too deep, truncated, duplicated, a bit flipped."""
    try:
        encoded = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except ValueError:  # an integer with more digits than Python prints
        encoded = b"1" * 5000
    if rng.random() < 0.01:
        deep = rng.choice((50, 500, 5000, 50_000))
        opened, closed = rng.choice(((b"[", b"]"), (b'{"inputs":', b"}"), (b'{"a":[', b"]}")))
        encoded = opened * deep + encoded + closed * rng.choice((deep, deep - 1, 0))
    return broken(rng, encoded) if rng.random() < 0.15 else encoded


def broken(rng: Random, data: bytes) -> bytes:
    """Return the bytes with a few of them changed."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        offset = rng.randrange(len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0 and changed:
            changed[offset % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[offset : offset + rng.choice((1, 3, 20))]
        elif kind == 2:
            changed[offset:offset] = rng.randbytes(rng.choice((1, 4)))
        elif kind == 3:
            changed[offset:offset] = changed[offset : offset + 30]
        else:
            changed[offset:offset] = rng.choice(
                (b"\0", b"\xff", b"\xed\xa0\x80", b'"', b"{", b"]", b"\n", b"1e999", b"\\u")
            )
    return bytes(changed)


def after(rng: Random, schema: Any, components: Any, depth: int = 0) -> Any:
    """Return a value that usually matches a JSON schema, and sometimes an arbitrary one."""
    if rng.random() < 0.08 or depth > 8:
        return value(rng, depth)
    if reference := schema.get("$ref"):
        return after(rng, components[reference.rsplit("/", 1)[1]], components, depth)
    if options := schema.get("anyOf"):
        return after(rng, rng.choice(options), components, depth)
    if options := schema.get("enum"):
        return rng.choice(options)
    return _of_type(rng, schema, components, depth)


def encoded(rng: Random, body: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return a body, rarely in an encoding of the text or of the content; the ``headers`` usually get its name."""
    kind = rng.randrange(100)
    if kind == 0:
        headers += [(b"Content-Encoding", rng.choice((b"gzip", b"gzip", b"deflate", b"identity")))]
        return gzip.compress(body if rng.random() < 0.9 else b" " * 2**24)
    if kind == 1:
        encoding = rng.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1"))
        headers += [(b"Content-Type", f"application/json; charset={encoding}".encode())]
        return body.decode("utf-8", "replace").encode(encoding, "replace")
    return body


def _of_type(rng: Random, schema: Any, components: Any, depth: int) -> Any:
    """Return a value that usually has the type of a schema."""
    kind = schema.get("type")
    if kind == "object":
        return _object(rng, schema, components, depth)
    if kind == "array":
        return [after(rng, schema.get("items", {}), components, depth + 1) for _ in range(rng.choice((0, 1, 1, 2, 5)))]
    if kind in {"integer", "number"}:
        low, high = schema.get("minimum", -5), min(schema.get("maximum", 100), 10**6)
        return rng.choice((rng.uniform(low, high), int(low), int(high), rng.randint(int(low), int(high) or 1)))
    if kind == "string":
        if "format" in schema and rng.random() < 0.7:
            return rng.choice((TIMES[0], rng.choice(TIMES)))
        return rng.choice((*KNOWN, *KNOWN, *WORDS))
    return {"boolean": rng.random() < 0.5, "null": None}.get(str(kind), value(rng, depth))


def _object(rng: Random, schema: Any, components: Any, depth: int) -> dict[str, Any]:
    """Return most of the required and half of the optional members of a schema, rarely with arbitrary ones."""
    required = schema.get("required", ())
    members = {
        name: _likely(rng, name, member, components, depth + 1)
        for name, member in schema.get("properties", {}).items()
        if rng.random() < (0.97 if name in required else 0.5)
    }
    if "properties" not in schema or rng.random() < 0.03:
        members |= {rng.choice((*KNOWN, *WORDS)): value(rng, depth + 2) for _ in range(rng.randrange(5))}
    return members


def _likely(rng: Random, name: str, schema: Any, components: Any, depth: int) -> Any:
    if name in LIKELY and rng.random() < 0.7:
        return rng.choice(LIKELY[name])
    return after(rng, schema, components, depth)


def request(
    rng: Random, document: Any, routes: Sequence[tuple[str, str]], makers: Mapping[str, Callable[[Random], Any]]
) -> Request:
    """Return a valid or nearly valid request for one of the ``routes`` (path and method) of an OpenAPI document.

    Most bodies of an operation among the ``makers`` are made by its function, see `hostile_payloads.PAYLOADS`.
    """
    path, method = rng.choice(routes)
    operation, components = document["paths"][path][method], document["components"]["schemas"]
    query = []
    headers = []
    target = path
    for parameter in operation.get("parameters", ()):
        if not parameter["required"] and rng.random() < 0.6:
            continue
        for item in _as_list(_likely(rng, parameter["name"], parameter["schema"], components, 0)):
            argument = _as_text(item)
            if parameter["in"] == "path":
                target = target.replace("{" + parameter["name"] + "}", _quoted(rng, argument))
            elif parameter["in"] == "header":
                headers.append((parameter["name"].encode(), _header(argument)))
            else:
                query.append(f"{_quoted(rng, parameter['name'])}={_quoted(rng, argument)}")
    while rng.random() < 0.1:
        query.append(f"{_quoted(rng, rng.choice((*WORDS, *KNOWN)))}={_quoted(rng, _as_text(value(rng)))}")
    make = makers.get(f"{method.upper()} {path}")
    body, more = make(rng) if make and rng.random() < 0.7 else (_body(rng, operation, components), ())
    headers += more
    body = encoded(rng, body, headers)
    for name, values in HEADERS.items():
        if rng.random() < 0.04:
            content = rng.choice(values) if rng.random() < 0.8 else rng.choice(WORDS)
            headers.append((name.encode(), _header(content)))
    if rng.random() < 0.05:
        target += rng.choice(("/", "//", "/..", "/%2e%2e", "/x", ";a", "%00", "%ff", "/0", "/" + "9" * 30, "é"))
    encoded_target = (target + ("?" + "&".join(query) if query else "")).encode("utf-8", "surrogatepass")
    verb = rng.choice(METHODS) if rng.random() < 0.05 else method.upper()
    return Request(f"{method.upper()} {path}", verb, encoded_target.replace(b" ", b"%20"), headers, body)


def _body(rng: Random, operation: Any, components: Any) -> bytes:
    content = operation.get("requestBody", {}).get("content")
    if not content:
        return text(rng, value(rng)) if rng.random() < 0.05 else b""
    schema = next(iter(content.values())).get("schema", {})
    if rng.random() < 0.1:
        lines = [text(rng, after(rng, schema, components)) for _ in range(rng.randrange(4))]
        return rng.choice((b"\n", b"\r\n", b"\n\n", b"\0")).join(lines)
    return text(rng, after(rng, schema, components))


def _as_list(item: Any) -> list[Any]:
    return item[:3] if isinstance(item, list) else [item]


def _as_text(item: Any) -> str:
    if isinstance(item, str):
        return item
    try:
        return json.dumps(item)
    except ValueError:
        return "1" * 5000


def _quoted(rng: Random, word: str) -> str:
    data = word.encode("utf-8", "surrogatepass")
    return quote(data, safe="") if rng.random() < 0.95 else quote(data, safe="/<>\"'{}&=;%+")


def _header(word: str) -> bytes:
    data = word.encode("utf-8", "surrogatepass")
    return bytes(byte for byte in data if (byte >= 32 and byte != 127) or byte == 9)[:4000].strip()


def mutated(rng: Random, document: Any) -> Any:
    """Return a copy of a document with a few of its values, keys or entries changed."""
    changed = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        entries = list(_entries(changed))
        if not entries:
            return value(rng)
        holder, key = rng.choice(entries)
        kind = rng.randrange(6)
        if kind < 3:
            holder[key] = value(rng, 3)
        elif kind == 3:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice((*WORDS, *KNOWN, 1, None, True))] = holder[key]
        else:
            holder.append(holder[key])
    return changed


def _entries(document: Any) -> Any:
    """Iterate over the container and the key of every value in a document."""
    for key, child in document.items() if isinstance(document, dict) else enumerate(document):
        yield document, key
        if isinstance(child, dict | list) and len(child) < 500:
            yield from _entries(child)


YAML_BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 8)}]\n" for n in range(9)
)
YAMLS = (
    "", "---\n---\n", "!!python/object/apply:os.system [id]", "a: *b", "&a [*a]", "? [1]\n: 2", "<<: {a: 1}",
    "- " * 5000, "{" * 5000,
    "[" * 50_000, YAML_BOMB, "a: 1\na: 2", "\t", "%YAML 9.9\n---\n", "a: !!binary x", "2026-11-24",
    "0x" + "f" * 5000, "1" * 5000,
    "!!timestamp 2026-99-99", "a: 1:2:3", "\0", "\ud800", "!!float .nan", "!!set {a}", "!!int 9_", "!!int x",
    "!!float _", "!!bool x",
)  # fmt: skip


def as_yaml(rng: Random, document: Any) -> bytes:
    """Return a YAML file: a changed document, broken bytes, or text that only looks like YAML."""
    if rng.random() < 0.05:
        return rng.choice(YAMLS).encode("utf-8", "surrogatepass")
    changed = mutated(rng, document)
    if rng.random() < 0.5:  # JSON is valid YAML, and faster to write
        return text(rng, changed)
    try:
        encoded = yaml.safe_dump(changed, allow_unicode=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, yaml.YAMLError, RecursionError, TypeError):
        encoded = b"1" * 5000
    if rng.random() < 0.1:
        encoded = encoded.replace(
            b": ", b": " + rng.choice((b"!!float ", b"!!int ", b"!!binary ", b"!!timestamp ", b"&a ", b"*a ")), 1
        )
    return broken(rng, encoded) if rng.random() < 0.3 else encoded
