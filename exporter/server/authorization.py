"""Authorize requests by the scope of their route, and refuse unsafe requests from pages of other origins."""

from __future__ import annotations

from collections.abc import Callable

from exporter.server.http.problem import Reply, problem
from exporter.server.routes import ROUTES
from exporter.server.tokens import USER, Caller
from exporter.validation import preview

CALLER = "exporter.caller"
"""The key of the `Caller` in the WSGI environment of an authenticated request."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Safe methods (RFC 9110)."""
OPEN = frozenset({"/metrics", "/-/healthy", "/-/ready"})
"""Paths that need no authentication with ``--web.open-metrics``: scrapes and probes."""


def scope(method: str, rule: str) -> str | None:
    """Return the scope that a route requires: one of `SCOPES`, `USER`, or None if any caller may use it.

    >>> scope("GET", "/drift"), scope("POST", "/v1/feedback"), scope("GET", "/-/ready")
    ('read', 'feedback', None)
    """
    route = ROUTES.get(f"{'GET' if method in SAFE else method} {rule}")
    if route is not None:
        return route.scope
    return "read" if method in SAFE else USER


def scope_error(caller: Caller, needed: str | None) -> Reply | None:
    """Return the problem of a caller without the scope; None for a caller that has it."""
    if needed is None or needed in caller.scopes:
        return None
    has = ", ".join(sorted(caller.scopes))
    if needed == USER:
        return problem(403, f"only a user with a password may do this; {preview(caller.name)} is a token")
    detail = f"the token {preview(caller.name)} lacks the scope {needed}; it has {has}"
    header = ("WWW-Authenticate", f'Bearer realm="model-exporter", error="insufficient_scope", scope="{needed}"')
    return problem(403, detail, headers=(header,), scope=needed)


def cross_origin_error(method: str, header: Callable[[str], str | None]) -> Reply | None:
    """Return the problem of an unsafe request that a browser sends for a page of another origin; None for all others.

    ``header`` returns the value of a header by its name in lower case.

    Browsers name the origin of a request in headers that a page cannot change; other programs send neither.
    ``Sec-Fetch-Site`` is the more reliable one, but browsers send it only over ``https`` and to localhost. Without
    it, ``Origin`` must have the same host as ``Host``. Its scheme may differ, because a proxy may terminate TLS.
    """
    if method in SAFE:
        return None
    site, origin = header("sec-fetch-site"), header("origin")
    if site is not None:
        same_origin = site in {"same-origin", "none"}
    else:
        same_origin = origin is None or origin.partition("://")[2].lower() == (header("host") or "/").lower()
    if same_origin:
        return None
    return problem(
        403,
        f"a page of another origin ({preview(origin or site)}) sent this request, and only the exporter's own pages "
        "may send it; programs must not send an Origin header, and proxies must pass the Host header on",
    )
