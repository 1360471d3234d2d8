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
_END_TO_END = re.compile("content-length|forwarded|host|x-forwarded-.*|x-real-ip|x-request-id")
"""Headers that are passed on even where Connection names them: a client must not remove what a proxy before it set."""
_AUTHORITY = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#]+)", re.IGNORECASE)
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
    headers = _passed_on(_unambiguous(request), given, _SET_IN_REQUESTS)
    url = _AUTHORITY.match(request.raw_path)
    asked = url[1] if url else given.get("Host")  # RFC 9112, section 3.2.2: that of a URL replaces the header
    if host or asked:
        headers["Host"] = host or asked or ""
    headers["X-Request-Id"] = name
    if request.remote:
        headers["X-Forwarded-For"] = ", ".join([*given.getall("X-Forwarded-For", []), request.remote])
    headers.setdefault("X-Forwarded-Proto", "http")
    if asked:
        headers.setdefault("X-Forwarded-Host", asked)
    headers["Via"] = ", ".join([*given.getall("Via", []), f"1.1 {PSEUDONYM}"])
    return headers


def for_client(raw: RawHeaders, headers: MultiMapping[str], name: str) -> CIMultiDict[str]:
    """Return the headers with which a response is passed on; ``name`` identifies the request."""
    passed = _passed_on(raw, headers, _SET_IN_RESPONSES)
    passed["X-Request-Id"] = name
    return passed


def _unambiguous(request: web.BaseRequest) -> RawHeaders:
    """Drop headers that some servers would confuse with meaningful ones, because they read underscores as hyphens.

    WSGI and CGI do not tell ``X_Forwarded_For`` from ``X-Forwarded-For``.
    """
    for name, value in request.raw_headers:
        if b"_" in name:
            twin = name.decode().lower().replace("_", "-")
            if twin in _HOP_BY_HOP | _SET_IN_REQUESTS or twin in request.headers or _END_TO_END.fullmatch(twin):
                continue
        yield name, value


def _passed_on(raw: RawHeaders, headers: MultiMapping[str], replaced: frozenset[str]) -> CIMultiDict[str]:
    """Return the headers that are not for one connection alone, spelled and ordered as they came."""
    named = {part.strip().lower() for value in headers.getall("Connection", []) for part in value.split(",")}
    dropped = _HOP_BY_HOP | replaced | {name for name in named if not _END_TO_END.fullmatch(name)}
    return CIMultiDict((_text(name), _text(value)) for name, value in raw if name.decode().lower() not in dropped)


def _text(raw: bytes) -> str:
    """Decode a name or value; aiohttp writes UTF-8 and would drop bytes that are not."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
