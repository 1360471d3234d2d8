"""``/v1/corrections/leases``: corrections that are given to one reviewer at a time."""

from __future__ import annotations

import sqlalchemy as sa
from flask import Blueprint, Response, request

from exporter.server.access import CALLER, Caller
from exporter.server.api.correction_query import parse_query, with_new_label
from exporter.server.api.parameters import convert_body, malformed, parse_json
from exporter.server.api.request_bodies import LeaseChange
from exporter.server.application import Exporter
from exporter.server.http.problem import json_reply, problem
from exporter.storage._schema import rfc3339
from exporter.storage.review.correction_pages import Position
from exporter.storage.review.corrections import Filter
from exporter.storage.review.leases import Assigner, Assignment, Lease, give_back, take_leases

NAMELESS = (
    "a lease belongs to a reviewer, and this exporter does not know who asks: set up users or tokens, "
    "see basic_auth_users and --web.tokens.file"
)


def reviewer_lease(exporter: Exporter) -> Lease | None:
    """Return the lease of the caller of the current request; None for one without a name, or who may not review."""
    caller: Caller | None = request.environ.get(CALLER)
    if caller is None or "review" not in caller.scopes:
        return None
    return Lease(caller.name, exporter.config.review.lease_seconds())


def assign(
    exporter: Exporter, lease: Lease, chosen: Filter, limit: int, after: Position | None, *, order: str
) -> Assignment:
    """Give a page of corrections to the holder of a lease, some of which may await a second opinion.

    Raises
    ------
    StoreError
        When the database cannot be read.
    """
    asks = exporter.config.review.second_opinion > 0
    return Assigner(lease, chosen, limit, after, order=order, second_opinions=asks).assign(exporter.store)


def blueprint(exporter: Exporter) -> Blueprint:
    """Return the routes of leases."""
    routes = Blueprint("leases", __name__, url_prefix="/v1/corrections/leases")

    @routes.post("")
    def take() -> Response:
        """``POST /v1/corrections/leases``: give the caller pending corrections that nobody else holds."""
        query = parse_query(exporter, {"status": "pending", **request.args})
        if query.filter.status != "pending":
            raise malformed("status: expected pending: only pending corrections are given to a reviewer")
        lease = reviewer_lease(exporter)
        if lease is None:
            return problem(403, NAMELESS).flask()
        assigned = assign(exporter, lease, query.filter, query.limit, query.after, order=query.order)
        documents = [with_new_label(exporter, document) for document in assigned.corrections]
        return json_reply(200, {"corrections": documents, "expires": rfc3339(assigned.expires)}).flask()

    @routes.put("")
    def change() -> Response:
        """``PUT /v1/corrections/leases``: renew some leases, and give others back."""
        change = convert_body(LeaseChange, parse_json(request.get_data()))
        lease = reviewer_lease(exporter)
        if lease is None:
            return problem(403, NAMELESS).flask()

        def store(connection: sa.Connection, _: object) -> tuple[set[int], float]:
            until = change.expires.timestamp() if change.expires else None
            give_back(connection, [int(id_) for id_ in change.release], lease.reviewer, until)
            return take_leases(connection, [int(id_) for id_ in change.hold], lease)

        held, expires = exporter.store.execute(store)
        return json_reply(200, {"held": [str(id_) for id_ in sorted(held)], "expires": rfc3339(expires)}).flask()

    return routes
