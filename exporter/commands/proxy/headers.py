"""Headers of requests and responses: which are passed on, and which the proxy sets (RFC 9110, section 7.6)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping

from aiohttp import web
from multidict import CIMultiDict, MultiMapping

PSEUDONYM = f"model-exporter-{secrets.token_hex(4)}"
"""What this process calls itself in ``Via``, so that it recognizes a request that it has passed on before."""
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    )
)
_SET_IN_REQUESTS = frozenset(("expect", "host", "via", "x-forwarded-for", "x-request-id"))
_SET_IN_RESPONSES = frozenset(("x-request-id",))
_END_TO_END = frozenset(("content-length", "host", "x-request-id"))  # even where Connection names them
_IDENTIFIER = re.compile(r"[!-~]{1,120}")  # shorter than the exporter's limit, because rows add their number

RawHeaders = Iterable[tuple[bytes, bytes]]


def identifier(headers: Mapping[str, str]) -> str | None:
    """Return the identifier of a request; None where there is none, or none that the exporter takes."""
    value = headers.get("X-Request-Id")
    return value if value is not None and _IDENTIFIER.fullmatch(value) else None


def for_upstream(request: web.BaseRequest, name: str, host: str | None) -> CIMultiDict[str]:
    """Return the headers with which a request is passed on.

    Parameters
    ----------
    request
        The client's request.
    name
        Its identifier.
    host
        The ``Host`` to send in place of the client's.
    """
    given = request.headers
    headers = _passed_on(request.raw_headers, given, _SET_IN_REQUESTS)
    if host or "Host" in given:
        headers["Host"] = host or given["Host"]
    headers["X-Request-Id"] = name
    if request.remote:
        headers["X-Forwarded-For"] = ", ".join([*given.getall("X-Forwarded-For", []), request.remote])
    headers.setdefault("X-Forwarded-Proto", "http")
    if "Host" in given:
        headers.setdefault("X-Forwarded-Host", given["Host"])
    headers["Via"] = ", ".join([*given.getall("Via", []), f"1.1 {PSEUDONYM}"])
    return headers


def for_client(raw: RawHeaders, headers: MultiMapping[str], name: str) -> CIMultiDict[str]:
    """Return the headers with which a response is passed on; ``name`` identifies the request."""
    passed = _passed_on(raw, headers, _SET_IN_RESPONSES)
    passed["X-Request-Id"] = name
    return passed


def _passed_on(raw: RawHeaders, headers: MultiMapping[str], replaced: frozenset[str]) -> CIMultiDict[str]:
    """Return the headers that are not for one connection alone, spelled and ordered as they came."""
    named = {part.strip().lower() for value in headers.getall("Connection", []) for part in value.split(",")}
    dropped = _HOP_BY_HOP | replaced | (named - _END_TO_END)
    return CIMultiDict((_text(name), _text(value)) for name, value in raw if name.decode().lower() not in dropped)


def _text(raw: bytes) -> str:
    """Decode a name or value; aiohttp writes UTF-8 and would drop bytes that are not."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
