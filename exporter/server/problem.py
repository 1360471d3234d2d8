"""Errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from exporter.errors import EventError
from exporter.events import RejectedEvent

if TYPE_CHECKING:
    from flask import Response

CONTENT_TYPE = "application/problem+json"
WRONG = "something went wrong here; the exporter's log says what"
"""What is said of a fault that nobody foresaw."""
MAX_ERRORS = 1000
"""Errors that one answer names: a body of a million wrong events must not be answered with a gigabyte."""


class Reply(msgspec.Struct, frozen=True):
    """An answer that no framework has touched yet."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"

    def flask(self) -> Response:
        """The same for Flask."""
        from flask import Response  # which a server without visitors does without

        return Response(self.body, self.status, list(self.headers), content_type=self.content_type)


def problem(
    status: int,
    detail: str,
    errors: Iterable[Mapping[str, str]] | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    **members: object,
) -> Reply:
    """A problem document; ``errors`` have ``pointer`` and ``detail``, ``members`` are further ones."""
    document: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    if errors is not None:
        document["errors"] = list(errors)
    return Reply(status, msgspec.json.encode(document), headers, CONTENT_TYPE)


def whole(error: EventError, status: int = 400) -> Reply:
    """The problem of a body that is wrong as a whole."""
    return problem(status, error.detail, [{"pointer": error.pointer, "detail": error.detail}])


def refused(rejected: list[RejectedEvent], many: bool) -> Reply:
    """The problem of a body in which no event was good."""
    errors = [
        {"pointer": f"/{one.index}{one.pointer}" if many else one.pointer, "detail": one.detail}
        for one in rejected[:MAX_ERRORS]
    ]
    first = errors[0]
    where = f"{first['pointer']}: " if first["pointer"] else ""
    count = f"none of the {len(rejected)} events was good; the first: " if len(rejected) > 1 else ""
    return problem(400, f"{count}{where}{first['detail']}", errors)
