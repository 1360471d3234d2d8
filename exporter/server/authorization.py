"""Who may do what: a scope for each route, and no unsafe request from another site's page."""

from __future__ import annotations

from collections.abc import Callable

from exporter.server.problem import Reply, problem
from exporter.server.routes import ROUTES
from exporter.server.tokens import USER, Caller
from exporter.validation import preview

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # no-referrer would make browsers hide the Origin of our own forms
}
CALLER = "exporter.caller"
"""Where a request's WSGI environment has the `Caller`, if it was asked who it is."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110)."""
OPEN = frozenset({"/metrics", "/-/healthy", "/-/ready"})
"""What ``--web.open-metrics`` leaves to everybody: scrapes and probes."""


def scope(method: str, rule: str) -> str | None:
    """What a caller needs for a route: one of `SCOPES`, `USER`, or None where a name is enough.

    >>> scope("GET", "/drift"), scope("POST", "/v1/feedback"), scope("GET", "/-/ready")
    ('read', 'feedback', None)
    """
    route = ROUTES.get(f"{'GET' if method in SAFE else method} {rule}")
    if route is not None:
        return route.scope
    return "read" if method in SAFE else USER


def scope_error(caller: Caller, needed: str | None) -> Reply | None:
    """Why a caller may not; None when it may."""
    if needed is None or needed in caller.scopes:
        return None
    has = ", ".join(sorted(caller.scopes))
    if needed == USER:
        detail = f"only a user with a password may do this, not a token; {preview(caller.name)} is one"
        return problem(403, detail)
    detail = f"the token {preview(caller.name)} lacks the scope {needed}; it has {has}"
    header = ("WWW-Authenticate", f'Bearer realm="model-exporter", error="insufficient_scope", scope="{needed}"')
    return problem(403, detail, headers=(header,), scope=needed)


def cross_origin_error(method: str, header: Callable[[str], str | None]) -> Reply | None:
    """Why a request is refused that another site's page made a browser send; None for all others.

    ``header`` says the value of a field by its name in small letters.

    A browser says where a request comes from in headers that no page can change. Programs send neither.
    ``Sec-Fetch-Site`` says it best, but only to ``https`` and this machine; ``Origin`` must else have the
    ``Host`` that was asked, whatever its scheme: TLS may end at a proxy.
    """
    if method in SAFE:
        return None
    site, origin = header("sec-fetch-site"), header("origin")
    if site is not None:
        own = site in {"same-origin", "none"}
    else:
        own = origin is None or origin.partition("://")[2].lower() == (header("host") or "/").lower()
    if own:
        return None
    return problem(
        403,
        f"a page of another origin ({preview(origin or site)}) sent this, and only this exporter's own pages may; "
        "a program sends no Origin header, and a proxy passes the Host header on",
    )
