from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.errors import REASONS, EventError
from exporter.features.json_inputs import decode_inputs
from exporter.wire.events import BusinessEvent, Decoder, Feedback, Prediction, check_predictions

PREDICTIONS = Decoder(Prediction, lambda events: check_predictions(["digits", "credit"], events))
FEEDBACK = Decoder(Feedback, lambda _: None)
EVENTS = Decoder(BusinessEvent, lambda _: None)

SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=10
)
FIELDS = ("id", "version", "time", "inputs", "prediction", "confidence", "duration_seconds", "code", "verdict", "label")
EVENT = st.fixed_dictionaries({"model": st.just("digits") | JSON}, optional=dict.fromkeys(FIELDS, JSON))


def refusal(body: object, decoder: Decoder = PREDICTIONS) -> tuple[str, str, str]:
    """Why the only event in a body was refused: pointer, detail and reason."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    good, (rejected,), _ = decoder.decode(raw)
    assert not good
    assert rejected.index == 0
    assert refused_alike(raw, decoder) == rejected.pointer
    return rejected.pointer, rejected.detail, rejected.reason


def refused_alike(raw: bytes, decoder: Decoder) -> str:
    """The pointer that the event gets on a line of NDJSON between two good ones."""
    good = json.dumps({"model": "digits", "event": "e"}).encode()
    _, (rejected,), _ = decoder.decode(good + b"\n" + raw.replace(b"\n", b" ") + b"\n" + good, lines=True)
    assert rejected.index == 1
    return rejected.pointer


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100) | JSON.map(lambda v: json.dumps(v).encode()), st.booleans())
def test_any_bytes_are_decoded_or_refused(body, lines):
    """Arbitrary bytes and JSON give events and refusals, or an EventError, and nothing else."""
    for decoder in (PREDICTIONS, FEEDBACK, EVENTS):
        try:
            _, rejected, _ = decoder.decode(body, lines)
        except EventError as error:
            assert error.reason in REASONS
            rejected = [error]
        for rejection in rejected:
            assert rejection.detail
            assert rejection.reason in REASONS
            msgspec.json.encode(rejection.detail)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=4))
def test_events_of_any_json_are_accepted_or_refused(events):
    """Every event of an array is either valid or refused at its index, even with NaN and surrogates."""
    good, rejected, _ = PREDICTIONS.decode(json.dumps(events).encode())
    assert len(good) + len(rejected) == len(events)
    assert len({rejection.index for rejection in rejected}) == len(rejected)
    lines = "\n".join(json.dumps(event) for event in events).encode()
    again, same, _ = PREDICTIONS.decode(lines, lines=True)
    assert [rejection.index for rejection in same] == [rejection.index for rejection in rejected]
    assert [event.prediction for event in again] == [event.prediction for event in good]
    for event in good:
        decode_inputs([bytes(memoryview(event.inputs))])
    msgspec.json.encode(rejected)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_no_value_inside_inputs_refuses_the_event(inputs):
    """Whatever the inputs contain, the event is accepted, and its inputs can be read."""
    (event,), rejected, _ = PREDICTIONS.decode(json.dumps({"model": "digits", "inputs": inputs}).encode())
    assert not rejected
    decoded = decode_inputs([bytes(memoryview(event.inputs))])[0]
    assert len(decoded) >= len({key.encode("utf-8", "replace") for key in inputs})


@pytest.mark.parametrize("raw", [
    b'{"x": NaN}', b'{"x": -Infinity}', b'{"x": 1e999}', b'{"x": 1' + b"0" * 6000 + b"}", b'{"x": "\xff"}',
    b'{"x": "\\ud800"}', b'{"x": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"x": ' + b"[" * 900 + b"NaN" + b"]" * 900 + b"}",
])  # fmt: skip
def test_inputs_beyond_json_types_are_accepted(raw):
    """NaN, infinities, numbers of thousands of digits, invalid UTF-8 and deep nesting inside inputs are accepted."""
    (event,), rejected, _ = PREDICTIONS.decode(b'{"model": "digits", "inputs": ' + raw + b"}")
    assert not rejected
    assert list(decode_inputs([bytes(memoryview(event.inputs))])[0]) == ["x"]


def test_a_complete_prediction_is_decoded():
    """Every field of the wire format is decoded to its type; inputs stay JSON."""
    body = {
        "id": "r-17", "model": "digits", "version": "3", "time": "2026-11-24T10:00:00+01:00", "inputs": {"age": 41},
        "prediction": "7", "confidence": 0.93, "duration_seconds": 0.012, "code": 200, "later": "ignored",
    }  # fmt: skip
    (event,), rejected, _ = PREDICTIONS.decode(json.dumps(body).encode())
    assert not rejected
    assert event.time == datetime(2026, 11, 24, 9, tzinfo=UTC)
    assert json.loads(bytes(memoryview(event.inputs))) == {"age": 41}
    assert (event.id, event.version, event.prediction, event.confidence, event.code) == ("r-17", "3", "7", 0.93, 200)


@pytest.mark.parametrize(("body", "lines", "names"), [
    ({"model": "digits"}, False, []),
    ({"model": "digits", "features": {"age": 41}}, False, ["features"]),
    ({"model": "digits", "features": {"age": float("nan")}}, False, ["features"]),
    ([{"model": "digits"}, {"model": "digits", "a`b": 1, "c": 1}], False, ["a`b"]),
    ([{"model": "digits", "x": 1}, {"model": 3, "y": 1}], False, ["x"]),
    ({"model": "digits", "\ud800": 1}, True, ["?"]),
])  # fmt: skip
def test_unknown_members_are_ignored_and_named(body, lines, names):
    """Members that are not known are ignored; the name of the first is returned on request."""
    events, _, unknown = PREDICTIONS.decode(json.dumps(body).encode(), lines)
    assert unknown == (names[0] if names else None)
    assert {event.model for event in events} == {"digits"}
    assert events


def test_only_the_model_is_required():
    """The smallest event names its model, and null is the same as absent."""
    (event,), *_ = PREDICTIONS.decode(b'{"model": "digits"}')
    nulls = dict.fromkeys(FIELDS[:8])
    (same,), *_ = PREDICTIONS.decode(json.dumps({"model": "digits", **nulls}).encode())
    assert [getattr(event, name) for name in FIELDS[:3]] == [getattr(same, name) for name in FIELDS[:3]] == [None] * 3


TIME = 'expected an RFC 3339 time such as "2026-11-24T10:00:00Z", got '
LABEL = "expected true or false, a whole number, a number or a string, got "
REFUSALS = [
    ({}, "/model", "is required", "missing_field"),
    ({"model": 3}, "/model", "expected a string, got 3; put it in quotes", "wrong_type"),
    ({"model": None}, "/model", "expected a string, got null", "wrong_type"),
    ({"model": "digts"}, "/model", 'no model "digts" is configured; did you mean "digits"?', "unknown_model"),
    ({"model": "zzz"}, "/model", 'no model "zzz" is configured; valid values: credit, digits', "unknown_model"),
    ({"confidence": 1.7}, "/confidence", "expected a number of at most 1, got 1.7", "out_of_range"),
    ({"confidence": 93}, "/confidence", "expected a number of at most 1, got 93; write 0.93 for 93%", "out_of_range"),
    ({"confidence": -0.1}, "/confidence", "expected a number of at least 0, got -0.1", "out_of_range"),
    ({"confidence": "high"}, "/confidence", 'expected a number, got "high"', "wrong_type"),
    ({"confidence": True}, "/confidence", "expected a number, got true", "wrong_type"),
    ({"confidence": float("nan")}, "/confidence", 'expected a number, got "NaN"', "wrong_type"),
    ({"confidence": float("-inf")}, "/confidence", 'expected a number, got "-Infinity"', "wrong_type"),
    ({"duration_seconds": -1}, "/duration_seconds", "expected a number of at least 0, got -1", "out_of_range"),
    ({"duration_seconds": [1]}, "/duration_seconds", "expected a number, got [1]", "wrong_type"),
    ({"code": 99}, "/code", "expected a whole number of at least 100, got 99", "out_of_range"),
    ({"code": 600}, "/code", "expected a whole number of at most 599, got 600", "out_of_range"),
    ({"code": 200.5}, "/code", "expected a whole number, got 200.5", "wrong_type"),
    ({"code": "200"}, "/code", 'expected a whole number, got "200"; write it without quotes', "wrong_type"),
    ({"time": "yesterday"}, "/time", TIME + '"yesterday"', "wrong_type"),
    ({"time": "2026-11-24T10:00:00"}, "/time", TIME + '"2026-11-24T10:00:00"', "wrong_type"),
    ({"time": "2026-13-24T10:00:00Z"}, "/time", TIME + '"2026-13-24T10:00:00Z"', "wrong_type"),
    ({"time": 1700000000}, "/time", TIME + "1700000000", "wrong_type"),
    ({"id": "x" * 129}, "/id", "expected at most 128 characters, got 129", "too_long"),
    ({"id": 17}, "/id", "expected a string, got 17; put it in quotes", "wrong_type"),
    ({"version": "x" * 10_000}, "/version", "expected at most 128 characters, got 10000", "too_long"),
    ({"version": 3}, "/version", "expected a string, got 3; put it in quotes", "wrong_type"),
    ({"prediction": [1]}, "/prediction", LABEL + "[1]", "wrong_type"),
    ({"prediction": {"a": 1}}, "/prediction", LABEL + '{"a": 1}', "wrong_type"),
    ({"prediction": "x" * 100_001}, "/prediction", "expected at most 100000 characters, got 100001", "too_long"),
    ({"inputs": [1, 2]}, "/inputs", "expected an object with one member for each feature, got an array", "wrong_type"),
    ({"inputs": 3}, "/inputs", "expected an object with one member for each feature, got a number", "wrong_type"),
    ({"inputs": "a"}, "/inputs", "expected an object with one member for each feature, got a string", "wrong_type"),
    ({"inputs": True}, "/inputs", "expected an object with one member for each feature, got a boolean", "wrong_type"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "pointer", "detail", "reason"), REFUSALS)
def test_an_invalid_field_is_explained(fields, pointer, detail, reason):
    """Each refusal of the contract has its pointer, the error and the valid values."""
    body = fields if "model" in fields or not fields else {"model": "digits", **fields}
    assert refusal(body) == (pointer, detail, reason)


@pytest.mark.parametrize("value", [
    b'"\xff"', b"1" + b"0" * 5000, b'"\\ud800"', b"1e999", b"[" * 700 + b"]" * 700, b"[NaN]",
])  # fmt: skip
def test_inputs_that_are_no_object_are_refused(value):
    """Invalid strings, endless numbers and deep arrays in place of inputs are refused like any other value."""
    pointer, detail, reason = refusal(b'{"model": "digits", "inputs": ' + value + b"}")
    assert (pointer, reason) == ("/inputs", "wrong_type")
    assert detail.startswith("expected an object with one member for each feature, got ")
    assert len(detail) < 150


@pytest.mark.parametrize("field", ["confidence", "prediction", "id", "time"])
@pytest.mark.parametrize("depth", [50, 300, 600, 900])
def test_a_deeply_nested_field_is_refused_like_a_flat_one(field, depth):
    """As long as JSON can be read, deep nesting in a field is a wrong type of that field."""
    pointer, _, reason = refusal(b'{"model": "digits", "%s": %s}' % (field.encode(), b"[" * depth + b"]" * depth))
    assert (pointer, reason) == ("/" + field, "wrong_type")


@pytest.mark.parametrize("body", ['{"model": "digits", "inputs": %s}', "%s", "[%s]"])
@pytest.mark.parametrize("value", ['"Ada Lovelace"', '["Ada Lovelace"]', '"\\ud800 Ada Lovelace"'])
def test_invalid_inputs_are_not_quoted(body, value):
    """Clients log refusals, so values that may be personal are named by their type only."""
    assert "Ada" not in refusal((body % value).encode())[1]


OBJECT = 'expected an object such as {"model": …}, got '


@pytest.mark.parametrize(
    ("body", "detail", "reason"),
    [
        (b"", "the body is empty", "malformed"),
        (b"nonsense", "the body is not JSON: Expecting value: line 1 column 1 (char 0)", "malformed"),
        (b'{"model": "a"', "the body is not JSON: Expecting ',' delimiter: line 1 column 14 (char 13)", "malformed"),
        (b"null", OBJECT + "null", "wrong_type"),
        (b'"digits"', OBJECT + "a string", "wrong_type"),
        (b"12", OBJECT + "a number", "wrong_type"),
        (b"[[1]]", OBJECT + "an array", "wrong_type"),
        (b'{"a":' * 100_000, "the JSON is nested too deeply", "malformed"),
        (b'{"inputs": {"x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}}", "the JSON is nested too deeply", "malformed"),
    ],
)  # fmt: skip
def test_a_body_without_an_event_is_refused(body, detail, reason):
    """A body that is not JSON, or no object, is refused with the pointer to the root."""
    good, (rejected,), _ = PREDICTIONS.decode(body)
    assert not good
    assert (rejected.pointer, rejected.detail, rejected.reason) == ("", detail, reason)


@pytest.mark.parametrize(
    "body", [b"[", b'[{"model": "a"}', b'[{"model": "a"},]', b"[" * 99_999, b"[\xff]", b"[ ]", b"\n"]
)
def test_an_invalid_array_is_refused(body):
    """No event is accepted of an array that cannot be read to its end, or is empty, nor of blank lines."""
    with pytest.raises(EventError) as error:
        PREDICTIONS.decode(body, body.isspace())
    assert (error.value.pointer, error.value.reason) == ("", "malformed")


@pytest.mark.parametrize(("count", "examined"), [(1000, 1000), (1001, 1000), (2000, 1000)])
def test_after_a_thousand_refused_events_the_rest_is_ignored(count, examined):
    """Each refused event is named by its index, and no index is beyond the body."""
    good, rejected, _ = PREDICTIONS.decode(b"\n".join([b"1"] * count), lines=True)
    assert (good, [one.index for one in rejected]) == ([], list(range(min(count, examined + 1))))
    assert [one.index for one in rejected if one.detail.startswith("not checked")] == [1000][: count - examined]


def test_valid_events_are_accepted_beside_invalid_ones():
    """An invalid event is named by its index, and the others are accepted in their order."""
    batch = [
        {"model": "digits", "id": "a"},
        {"model": "digts"},
        7,
        {"model": "credit", "id": "b", "confidence": 2},
        {"model": "credit", "id": "c"},
    ]
    good, rejected, _ = PREDICTIONS.decode(json.dumps(batch).encode())
    assert [event.id for event in good] == ["a", "c"]
    assert [(rejection.index, rejection.pointer) for rejection in rejected] == [
        (1, "/model"),
        (2, ""),
        (3, "/confidence"),
    ]


def test_ndjson_lines_may_be_blank_and_end_with_lf_or_crlf():
    """Blank lines are no events, lines end with LF or CRLF, and an invalid line affects no other."""
    body = b'{"model": "digits", "id": "a"}\r\n\r\n{"model": \n\n{"model": "digits", "id": "b", "inputs": {"x": NaN}}'
    good, rejected, _ = PREDICTIONS.decode(body, lines=True)
    assert [event.id for event in good] == ["a", "b"]
    assert [(rejection.index, rejection.reason) for rejection in rejected] == [(1, "malformed")]


def test_a_prediction_that_is_not_finite_is_text():
    """NaN as a prediction is stored as text, and so is an invalid number."""
    (event,), *_ = PREDICTIONS.decode(b'{"model": "digits", "prediction": NaN}')
    assert event.prediction == "NaN"


def test_any_time_of_the_documented_years_is_accepted():
    """Any RFC 3339 time is accepted, including the first and the last."""
    for time in (
        "1970-01-01T00:00:00Z",
        "1678-01-01T00:00:00+12:00",
        "2261-12-31T23:59:59-12:00",
        "2099-06-01t00:00:00z",
    ):
        good, rejected, _ = PREDICTIONS.decode(json.dumps({"model": "digits", "time": time}).encode())
        assert len(good) == 1, rejected


def test_feedback_names_its_possible_verdicts():
    """An invalid verdict is refused with the valid ones."""
    detail = 'expected accepted, corrected or rejected, got "acepted"'
    assert refusal({"model": "digits", "verdict": "acepted"}, FEEDBACK) == ("/verdict", detail, "wrong_type")
    assert refusal({"verdict": 5}, FEEDBACK)[1] == "expected accepted, corrected or rejected, got 5"
    assert refusal({"user": "x" * 257}, FEEDBACK)[::2] == ("/user", "too_long")
    assert refusal({"comment": "x" * 10_001}, FEEDBACK)[::2] == ("/comment", "too_long")


@pytest.mark.parametrize("text", ["3\n", "\0", "\x1b[31mred", "a\x7f", "a\x9b", "a\u2028b"])
def test_identifiers_and_versions_have_no_control_characters(text):
    """They would garble logs, terminals and metrics; the message escapes them."""
    shown = f"expected no control characters, got {json.dumps(text)}"
    assert refusal({"model": "digits", "id": text}) == ("/id", shown, "wrong_type")
    assert refusal({"model": "digits", "version": text}) == ("/version", shown, "wrong_type")
    assert refusal({"prediction_id": text, "verdict": "accepted"}, FEEDBACK)[:2] == ("/prediction_id", shown)
    assert refusal({"model": "digits", "event": "orders", "version": text}, EVENTS)[:2] == ("/version", shown)


def test_identifiers_and_versions_of_any_language():
    """Every other character is accepted, invisible ones of scripts and emoji included."""
    for text in ("版本 3", "a\u00a0b", "\u200bx", "👩\u200d🔬", "\ue000", "v1.0+build/7"):
        good, rejected, _ = PREDICTIONS.decode(json.dumps({"model": "digits", "id": text, "version": text}).encode())
        assert (len(good), rejected) == (1, [])


def test_business_values_are_finite_and_not_negative():
    """A value is 1 by default, never negative, never infinite."""
    (event,), *_ = EVENTS.decode(b'{"event": "orders", "model": "digits"}')
    assert event.value == 1
    assert refusal({"event": "orders", "model": "digits", "value": -1}, EVENTS)[::2] == ("/value", "out_of_range")
    assert refusal({"event": "orders", "model": "digits", "value": float("inf")}, EVENTS)[::2] == (
        "/value",
        "wrong_type",
    )
    assert refusal({"model": "digits"}, EVENTS) == ("/event", "is required", "missing_field")
