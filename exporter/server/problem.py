"""Errors as ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec

from exporter.errors import ArchiveError, EventError, StoreError, StoreFullError
from exporter.wire.events import MAX_REJECTED, RejectedEvent

if TYPE_CHECKING:
    from flask import Response

CONTENT_TYPE = "application/problem+json"
INTERNAL_ERROR = "internal error; see the exporter's log"
"""The detail of a response to an unexpected exception."""
MAX_ERRORS = MAX_REJECTED
"""Errors in one response, so that a body of a million invalid events does not get a response of a gigabyte."""


class Reply(msgspec.Struct, frozen=True):
    """A response, independent of the framework; with a title, a browser gets a page of the document instead."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"
    title: str = ""

    def flask(self) -> Response:
        """Return it as a response of Flask."""
        from flask import Response  # imported only when a Flask route is called

        return Response(self.body, self.status, list(self.headers), content_type=self.content_type)


def json_reply(
    status: int,
    document: object,
    headers: tuple[tuple[str, str], ...] = (),
    content_type: str = "application/json",
    title: str = "",
) -> Reply:
    """Return a response of JSON, with a line end for people who read it in a terminal."""
    return Reply(status, msgspec.json.encode(document) + b"\n", headers, content_type, title)


def problem(
    status: int,
    detail: str,
    errors: Iterable[Mapping[str, str]] | None = None,
    headers: tuple[tuple[str, str], ...] = (),
    **members: object,
) -> Reply:
    """Return a problem document; ``errors`` have ``pointer`` and ``detail``, ``members`` are added to it."""
    document: dict[str, object] = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    if errors is not None:
        document["errors"] = list(errors)
    return json_reply(status, document, headers, CONTENT_TYPE)


def store_problem(error: StoreError) -> Reply:
    """Return the problem when the store cannot read or write; without ``Retry-After`` if a retry does not help soon."""
    if isinstance(error, StoreFullError):
        return problem(507, str(error))
    if isinstance(error, ArchiveError):
        return problem(503, str(error))
    return problem(503, str(error), headers=(("Retry-After", "5"),))


def event_problem(error: EventError, status: int = 400) -> Reply:
    """Return the problem for a body that cannot be decoded."""
    errors = [{"pointer": error.pointer, "detail": error.detail}]
    return problem(status, _with_pointer(**errors[0]), errors)


def events_problem(rejected: list[RejectedEvent], many: bool) -> Reply:
    """Return the problem for a body without a valid event."""
    errors = [
        {"pointer": f"/{event.index}{event.pointer}" if many else event.pointer, "detail": event.detail}
        for event in rejected[:MAX_ERRORS]
    ]
    status = 413 if rejected[0].reason == "too_large" else 400
    return problem(status, f"{_count(len(rejected))}{_with_pointer(**errors[0])}", errors)


def rejected_document(rejected: Sequence[RejectedEvent]) -> list[dict[str, object]]:
    """Return the events that were rejected beside others that were accepted: the first `MAX_ERRORS`, and the last one.

    The last one says where a decoder stopped, if it did.
    """
    listed = [*rejected[:MAX_ERRORS], *rejected[MAX_ERRORS:][-1:]]
    return [{"index": r.index, "pointer": r.pointer, "detail": r.detail} for r in listed]


def _with_pointer(pointer: str, detail: str) -> str:
    return f"{pointer}: {detail}" if pointer else detail


def _count(rejected: int) -> str:
    """Return how many events are refused; `MAX_REJECTED` and one more are all that were looked at."""
    if rejected > MAX_REJECTED:
        return (
            f"the first {MAX_REJECTED} events are not valid and are listed in errors, and the others were not checked; "
            "the first error: "
        )
    return f"none of the {rejected} events is valid; the first error: " if rejected > 1 else ""
