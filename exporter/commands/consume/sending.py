"""The kinds of messages; post messages to the exporter, and read from its response which of them it refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from exporter.errors import BatchError, ExporterError
from exporter.http_client.client import TRANSIENT, Client, RequestError, Response, retry_for


class Kind(NamedTuple):
    """A kind of message that a topic may hold.

    Attributes
    ----------
    route
        Where they are posted.
    batched
        Whether many messages, each one JSON object, are posted as one array. Otherwise each message is a request of
        its own, with its content type and the attributes of its CloudEvent.
    content_type
        Of the request, unless a message that is a request of its own has a header ``content-type``.
    """

    route: str
    batched: bool = True
    content_type: str = "application/json"


KINDS = {
    "predictions": Kind("/v1/predictions"),
    "feedback": Kind("/v1/feedback"),
    "labels": Kind("/v1/labels"),
    "events": Kind("/v1/events"),
    "kserve": Kind("/v1/kserve", batched=False),
    "logs": Kind("/v1/logs", batched=False, content_type="application/x-protobuf"),
    "traces": Kind("/v1/traces", batched=False, content_type="application/x-protobuf"),
}
"""The kinds of messages by name; logs and traces are those of OpenTelemetry."""

MAX_BYTES = 8 << 20
"""Bytes of a request, unless one message alone has more."""
TIMEOUT_SECONDS = 8.0
"""Time in which the exporter must answer."""
GIVE_UP_SECONDS = 4.0
"""How long a request is tried again before the consumer looks whether it should stop."""


class Message(NamedTuple):
    """A message of a topic, as it is sent on."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class Refusal(NamedTuple):
    """A message that cannot be used, and why."""

    message: Message
    detail: str


class UnavailableError(ExporterError):
    """The exporter did not take a request, and may take it later."""


class Poster:
    """Posts messages to the exporter.

    Parameters
    ----------
    client
        Of the exporter.
    group
        The consumer group, which is part of the requests' idempotency keys.
    on_retry
        Called with the reason before a request is tried again.
    on_warning
        Called with each warning of the exporter.
    """

    def __init__(
        self, client: Client, group: str, on_retry: Callable[[str], None], on_warning: Callable[[str], None]
    ) -> None:
        self._client = client
        self._group = group
        self._on_retry = on_retry
        self._on_warning = on_warning

    def post(self, kind: Kind, messages: Sequence[Message]) -> list[Refusal]:
        """Post messages that fit into one request; return those that cannot be used.

        The same messages have the same idempotency key, so that they can be posted again until they are taken.

        Raises
        ------
        UnavailableError
            When the exporter does not answer, or not in time: some of the messages may have been taken.
        BatchError
            When it refuses all messages, for a reason that is not in them.
        """
        refusals = [Refusal(message, detail) for message in messages if (detail := _malformed(kind, message))]
        malformed = {id(refusal.message) for refusal in refusals}
        good = [message for message in messages if message.value is not None and id(message) not in malformed]
        return refusals + (self._post(kind, good) if good else [])

    def _post(self, kind: Kind, messages: Sequence[Message]) -> list[Refusal]:
        values = [message.value or b"" for message in messages]
        body = b"[%b]" % b",".join(values) if kind.batched else values[0]
        headers = {"Content-Type": kind.content_type, **({} if kind.batched else _http_headers(messages[0]))}
        response = self._request(kind.route, body, headers | {"Idempotency-Key": self._key(messages, body)})
        if response.status in {200, 201, 202}:
            return [Refusal(messages[index], detail) for index, detail in self._rejected(response, kind.batched)]
        if response.status not in {400, 413, 415, 422}:
            raise BatchError(f"{self._client.url}: {response.error_message()}: the messages are not committed")
        if len(messages) == 1:
            return [Refusal(messages[0], response.error_message())]
        details = _details_by_index(response)
        if len(details) == len(messages):
            return [Refusal(messages[index], detail) for index, detail in details.items() if index < len(messages)]
        # Some messages may be good: the response need not tell which.
        middle = len(messages) // 2
        return self._post(kind, messages[:middle]) + self._post(kind, messages[middle:])

    def _request(self, route: str, body: bytes, headers: Mapping[str, str]) -> Response:
        retries = retry_for(GIVE_UP_SECONDS, self._on_retry)
        try:
            response = self._client.request("POST", route, body, headers=headers, retries=retries)
        except RequestError as error:
            raise UnavailableError(str(error)) from None
        if response.status in TRANSIENT:
            raise UnavailableError(f"{self._client.url}: {response.error_message()}")
        return response

    def _rejected(self, response: Response, batched: bool) -> list[tuple[int, str]]:
        """Return the index and the detail of each message that a successful response refuses; pass its warnings on."""
        try:
            document: Any = json.loads(response.body or b"{}")
            for warning in document.get("warnings", ()):
                self._on_warning(_detail(warning))
            rejected = document.get("rejected", ())
            return [(int(item["index"]) if batched else 0, _detail(item)) for item in rejected][
                : None if batched else 1
            ]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise BatchError(f"--exporter: the response ({response.status}) is not an exporter's") from None

    def _key(self, messages: Sequence[Message], body: bytes) -> str:
        """Return the idempotency key of a request: the same messages of the same partitions count once."""
        digest = hashlib.sha256(body)
        for message in messages:
            digest.update(f"\n{self._group} {message.topic} {message.partition} {message.offset}".encode())
        return f"kafka-{digest.hexdigest()}"


def requests(kind: Kind, messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Split messages of a topic into those of one request each.

    >>> messages = [Message("t", 0, offset, None, b"{}", ()) for offset in range(3)]
    >>> [len(part) for part in requests(KINDS["labels"], messages)], len(list(requests(KINDS["kserve"], messages)))
    ([3], 3)
    """
    part: list[Message] = []
    size = 0
    for message in messages:
        length = len(message.value or b"") + 1
        if part and (not kind.batched or size + length > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(message)
        size += length
    if part:
        yield part


def _malformed(kind: Kind, message: Message) -> str | None:
    """Return why a message cannot be part of a request; None if it can."""
    if not kind.batched or message.value is None:
        return None
    try:
        msgspec.json.decode(message.value, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        return f"expected one JSON object: {error}"
    return None


def _http_headers(message: Message) -> dict[str, str]:
    """Return the headers of a request: CloudEvents have their attributes in ``ce_type`` in Kafka, ``ce-type`` in HTTP.

    >>> headers = [("ce_type", b"a"), ("content-type", b"text/json"), ("x", b"1")]
    >>> _http_headers(Message("requests", 0, 0, None, b"", headers))
    {'ce-type': 'a', 'Content-Type': 'text/json'}
    """
    headers = {}
    for name, value in message.headers:
        text = (value or b"").decode("latin-1")
        if not (text.isprintable() and name.isascii() and name.replace("_", "").replace("-", "").isalnum()):
            continue
        if name.startswith("ce_"):
            headers[f"ce-{name[3:]}"] = text
        elif name.lower() == "content-type":
            headers["Content-Type"] = text
    return headers


def _detail(item: Mapping[str, str]) -> str:
    pointer = item.get("pointer", "")
    return f"{pointer}: {item['detail']}" if pointer else str(item["detail"])


def _details_by_index(response: Response) -> dict[int, str]:
    """Return what is wrong with each event of a request that the exporter refused as a whole, as far as it says."""
    details: dict[int, str] = {}
    try:
        for error in json.loads(response.body)["errors"]:
            index, _, rest = error["pointer"].removeprefix("/").partition("/")
            details.setdefault(int(index), _detail({"pointer": rest and f"/{rest}", "detail": error["detail"]}))
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
    return details
