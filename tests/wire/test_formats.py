"""Payload formats of other servers: the files in ``tests/data/payloads`` are recorded from their own clients."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.paths import DATA

from exporter.config import MappingConfig, ModelConfig
from exporter.errors import EventError
from exporter.wire import otlp
from exporter.wire.cloudevents import MAX_SECONDS, MAX_WAITING_BYTES, LoggedMessage, RequestResponsePairer, read_events
from exporter.wire.formats import MAX_ROWS, Payload, decode_request, decode_response, decompress, zstd
from exporter.wire.mapping import (
    MAX_COLUMNS,
    ConfiguredModel,
    Exchange,
    ModelNames,
    read_records,
    sorted_classes,
)
from exporter.wire.otlp import MAX_PROTOBUF, MAX_RECORDS, PredictionRecord

FOLDER = DATA / "payloads"
CREDIT, MODEL = ConfiguredModel(ModelConfig("credit")), ConfiguredModel(ModelConfig("m"))


def recorded(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def columns(body: Payload) -> dict[str, Any]:
    return {column.name: list(column.values) for column in body.columns}


def model_with(inputs: dict[str, str], classes: tuple[str, ...] = (), /, **mapping: Any) -> ConfiguredModel:
    """Return a model whose profile has these inputs, and these predictions."""
    config, task = ModelConfig("m", mapping=msgspec.convert(mapping, MappingConfig)), None
    task = "classification" if classes else task
    return ConfiguredModel(config, inputs, tuple(inputs), task, sorted_classes(classes))


def exchange(request: bytes, response: bytes, name: str | None = None) -> Exchange:
    return Exchange(("m",), decode_request(request), decode_response(response), name)


def map_pair(model: ConfiguredModel, request: Any, response: Any) -> list[tuple[Any, Any, Any]]:
    """Return inputs, prediction and confidence of each row."""
    good, bad = exchange(json.dumps(request).encode(), json.dumps(response).encode()).predictions(model)
    assert not bad
    decoded = [msgspec.json.decode(event.inputs) if bytes(memoryview(event.inputs)) else None for event in good]
    return [(inputs, event.prediction, event.confidence) for inputs, event in zip(decoded, good, strict=True)]


def v2(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


# --- tensors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [True, False], ids=["declared length", "detected length"])
def test_tritons_binary_tensors(declared: bool) -> None:
    """A request of Triton's client with binary data is read, whether or not the logger kept the JSON's length."""
    head = json.loads(recorded("heads.json"))["triton_binary.bin"] if declared else None
    result = decode_request(recorded("triton_binary.bin"), head)
    assert columns(result) == {
        "age": [[41.0], [50.0], [23.0]],
        "income": [[30000.5], [None], [10.0]],
        "country": [["NL"], ["DE"], ["Køln"]],
    }
    assert result.id == "t-1"


def test_small_floats_and_truth_values() -> None:
    """FP16, BF16 and BOOL come out of their bytes."""
    result = columns(decode_request(recorded("triton_small_floats.bin")))
    assert result["features"] == [[1.5, 2, -3], [4, 5, 65504]]
    assert result["flag"] == [True, False]
    np.testing.assert_allclose(result["brain"], [[1.5, -2], [3e38, 0.1]], rtol=1 / 128)


def test_tritons_json() -> None:
    """A request of Triton's client in JSON is read; the outputs that it asks for are no inputs."""
    result = columns(decode_request(recorded("triton_json.json")))
    assert result == {"age": [[41.0], [50.0], [23.0]], "country": [["NL"], ["DE"], ["Køln"]]}


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
def test_data_are_row_major(data: Any) -> None:
    """Flat and nested data of the same shape are the same rows."""
    body = json.dumps({"inputs": [v2("x", "INT32", [2, 3], data)]}).encode()
    assert columns(decode_request(body)) == {"x": [[1, 2, 3], [4, 5, 6]]}


def test_bytes_that_are_no_text_are_base64() -> None:
    """An image in a BYTES tensor becomes base64, as images come elsewhere."""
    raw = b"\x89PNG\xff"
    head = json.dumps({"inputs": [{**v2("image", "BYTES", [1], 0), "parameters": {"binary_data_size": 9}}]})
    head = head.replace(', "data": 0', "")
    body = head.encode() + struct.pack("<I", len(raw)) + raw
    assert columns(decode_request(body)) == {"image": ["iVBOR/8="]}


LIES = {
    "fewer values": ([2, 3], "FP32", [1, 2, 3], "/inputs/0/data: expected the 6 values of shape [2, 3], got 3"),
    "more values": ([1], "FP32", [1, 2], "/inputs/0/data: expected the 1 value of shape [1], got 2"),
    "other rows": ([2, 3], "FP32", [[1, 2], [3, 4], [5, 6]], "/inputs/0/data: expected the 6 values of shape [2, 3]"),
    "ragged": ([2, 2], "FP32", [[1, 2], [3]], "/inputs/0/data: expected the 4 values of shape [2, 2]"),
    "half nested": ([2, 1], "FP32", [[1], 2], "/inputs/0/data: expected the 2 values of shape [2, 1]"),
    "huge": ([10**18, 10**18], "FP32", [1], f"/inputs/0/shape: makes {10**18:,} arrays, 1,000,000 are the most"),
    "negative": ([-1, 2], "FP32", [1, 2], "/inputs/0/shape: expected at most 16 sizes"),
    "empty rows": ([5, 0], "FP32", [], "/inputs/0/shape: expected at most 16 sizes"),
    "many sizes": ([1] * 17, "FP32", [1], "/inputs/0/shape: expected at most 16 sizes"),
    "text": ([1], "FP32", ["a"], "/inputs/0/data: expected only numbers"),
    "fraction": ([1], "INT8", [1.5], "/inputs/0/data: expected only whole numbers"),
    "truth": ([1], "INT8", [True], "/inputs/0/data: expected only whole numbers"),
    "too great": ([1], "INT8", [300], "/inputs/0/data: expected INT8, from -128 to 127"),
    "no truth": ([2], "BOOL", [0, 2], "/inputs/0/data: expected only true and false"),
    "number": ([1], "BYTES", [1], "/inputs/0/data: expected only strings"),
    "nothing": ([1], "FP32", None, "/inputs/0/data: is required, an array"),
    "no datatype": ([1], "FP23", [1], '/inputs/0/datatype: "FP23" is not a valid datatype; did you mean "FP32"?'),
}


@pytest.mark.parametrize("lie", LIES)
def test_tensors_that_lie_are_refused(lie: str) -> None:
    """A shape or a datatype that is not that of the data is refused with what was expected."""
    shape, datatype, data, text = LIES[lie]
    with pytest.raises(EventError) as error:
        decode_request(json.dumps({"inputs": [v2("x", datatype, shape, data)]}).encode())
    assert str(error.value).startswith(text)


BINARY_LIES = {
    "too few": ("FP32", [2], 8, b"\0" * 4, "expected a size of at most the 4 bytes that follow, got 8"),
    "too many": ("FP32", [1], 4, b"\0" * 8, "the last 4 bytes do not belong to any tensor"),
    "other shape": ("FP16", [3], 4, b"\0" * 4, "FP16 of shape [3] takes 6 bytes, got 4"),
    "string beyond": ("BYTES", [1], 5, b"\xff\0\0\0a", "expected 1 strings, each after its length in four bytes"),
    "strings missing": ("BYTES", [2], 5, b"\x01\0\0\0a", "expected 2 strings"),
    "half a length": ("BYTES", [1], 2, b"\x01\0", "expected 1 strings"),
}


@pytest.mark.parametrize("lie", BINARY_LIES)
def test_binary_tensors_that_lie_are_refused(lie: str) -> None:
    """Bytes that are not what the tensor promises are refused with what was expected."""
    datatype, shape, size, raw, text = BINARY_LIES[lie]
    tensor = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(EventError, match=text.replace("[", r"\[")):
        decode_request(head + raw, len(head))


# --- other formats ---------------------------------------------------------------------------

AGES = [{"age": 41, "country": "NL"}, {"age": None, "country": "DE"}]
ROWS = {
    "instances": {"instances": AGES},
    "columnar inputs": {"inputs": {"age": [41, None], "country": ["NL", "DE"]}},
    "dataframe_split": {"dataframe_split": {"columns": ["age", "country"], "data": [[41, "NL"], [None, "DE"]]}},
    "dataframe_records": {"dataframe_records": AGES},
    "tensors": {"inputs": [v2("age", "FP64", [2], [41, None]), v2("country", "BYTES", [2, 1], ["NL", "DE"])]},
}


@pytest.mark.parametrize("name", ROWS)
def test_named_columns_need_no_mapping(name: str) -> None:
    """A format that names its columns is understood without a word in the configuration."""
    model = model_with({"age": "numeric", "country": "categorical"})
    assert map_pair(model, ROWS[name], {"predictions": ["yes", "no"]}) == [
        ({"age": 41, "country": "NL"}, "yes", None),
        ({"age": None, "country": "DE"}, "no", None),
    ]


OUTPUTS = {
    "v1": {"predictions": [[0.1, 0.9], [0.75, 0.25]]},
    "columnar": {"outputs": {"probabilities": [[0.1, 0.9], [0.75, 0.25]]}},
    "v2": {"outputs": [v2("OUTPUT__0", "FP32", [2, 2], [0.1, 0.9, 0.75, 0.25])]},
    "label and shares": {
        "outputs": [
            v2("probabilities", "FP32", [2, 2], [0.1, 0.9, 0.75, 0.25]),
            v2("label", "BYTES", [2], ["yes", "no"]),
        ]
    },
    "objects": {"predictions": [{"class": "yes", "score": 0.9}, {"class": "no", "score": 0.75}]},
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_probabilities_become_a_label_and_a_confidence(name: str) -> None:
    """The likeliest class, spelt as the profile's in sorted order, and its probability."""
    model = model_with({"x": "numeric"}, ("yes", "no"))
    assert [row[1:] for row in map_pair(model, {"instances": [1, 2]}, OUTPUTS[name])] == [("yes", 0.9), ("no", 0.75)]


@pytest.mark.parametrize(
    ("response", "labels", "expected"),
    [
        ([0.1, 0.2, 0.7], (), (2, 0.7)),
        ([3.5, -1.0], (), (None, None)),
        ([3.5, -1.0], ("cat", "dog"), ("cat", None)),
        ([0.25], ("cat", "dog"), ("cat", 0.75)),
        (0.75, ("cat", "dog"), ("dog", 0.75)),
        (1, ("cat", "dog"), ("dog", None)),
        (7, ("cat", "dog"), (7, None)),
        ("cat", ("cat", "dog"), ("cat", None)),
        (12.5, (), (12.5, None)),
        (None, (), (None, None)),
        ({"b": 1}, (), (None, None)),
        ([], (), (None, None)),
        ([1.0000001, 0.0], (), (0, 1.0)),
        (["0.75:1:dog", "0.25:0:cat"], (), ("dog", 0.75)),
        (["3.5:1"], ("cat", "dog"), ("dog", None)),
        (["0.5:7"], (), (7, 0.5)),
        (["some", "texts"], (), (None, None)),
    ],
)
def test_what_an_output_says(response: Any, labels: tuple[str, ...], expected: Any) -> None:
    """Scalars, probabilities and scores to a prediction and a confidence, with and without labels."""
    model = ConfiguredModel(ModelConfig("m", mapping=MappingConfig(labels=labels)))
    assert map_pair(model, {"inputs": {"x": [1]}}, {"outputs": {"y": [response]}})[0][1:] == expected


@pytest.mark.parametrize(
    ("classes", "response", "expected"),
    [
        (("yes", "no"), 1, ("yes", None)),
        (("yes", "no"), 0.25, ("no", 0.75)),
        (("yes", "no", "maybe"), 0.25, (0.25, None)),
        (("yes", "no"), 2, (2, None)),
        (("0", "1", "5"), 1, (1, None)),
        (("10", "9", "b", "a"), [0, 0.25, 0.25, 0.5], ("b", 0.5)),
        (("10", "9"), [0, 1], ("10", 1)),
    ],
)
def test_places_of_the_training_predictions(classes: tuple[str, ...], response: Any, expected: Any) -> None:
    """Classes are those of training in sorted order; a number stays one where training predicted numbers."""
    assert map_pair(model_with({"x": "numeric"}, classes), [1], [response])[0][1:] == expected


def test_what_may_hold_a_redacted_input_is_not_kept() -> None:
    """A tensor of unknown meaning is counted, but its values go nowhere, where an input must leave no trace."""
    bare = model_with({"age": "numeric", "name": "categorical"})
    model = bare._replace(config=msgspec.structs.replace(bare.config, redact=frozenset({"name"})))
    extra = {"inputs": [v2("age", "FP32", [1], [41]), v2("x", "BYTES", [1], ["Ada"]), v2("y", "BYTES", [1], ["Bea"])]}
    assert map_pair(model, extra, [0])[0][0] == {"age": 41, "x": None, "y": None}
    named = map_pair(model, {"instances": [[41, "Ada"]]}, [0])[0][0]
    assert named == {"age": 41, "name": "Ada"}  # redacted later, by name


def test_a_request_of_ignored_columns_alone() -> None:
    """A request whose columns are all left out is predictions without inputs."""
    model = model_with({"x": "numeric"}, inputs={"a": None})
    request = {"dataframe_split": {"columns": ["a"], "data": [[1], [2]]}}
    assert map_pair(model, request, ["yes", "no"]) == [(None, "yes", None), (None, "no", None)]


def test_torchserves_labels_with_scores() -> None:
    """TorchServe's classifiers answer with an object of labels; the best one counts."""
    assert map_pair(model_with({"x": "numeric"}), [1], {"tabby": 0.46, "tiger cat": 0.47})[0][1:] == ("tiger cat", 0.47)


@pytest.mark.parametrize(
    ("inputs", "instance", "expected"),
    [
        ({"age": "numeric", "income": "numeric"}, [41, 3.5], {"age": 41, "income": 3.5}),
        ({"age": "numeric"}, [41], {"age": 41}),
        ({"income": "numeric", "age": "numeric"}, [3.5, 41], {"age": 41, "income": 3.5}),
        ({"text": "text"}, "hello", {"text": "hello"}),
        ({"vector": "embedding"}, [0.5], {"vector": [0.5]}),
        ({"image": "image"}, [[1, 2], [3, 4]], {"image": [[1, 2], [3, 4]]}),
        ({"image": "image", "age": "numeric"}, [[1, 2], [3, 4]], {"image": [[1, 2], [3, 4]]}),
        ({"image": "image"}, [1, 2, 3, 4], {"image": [[1, 2], [3, 4]]}),
        ({"image": "image"}, [[[1, 2], [3, 4]]], {"image": [[[1], [2]], [[3], [4]]]}),
        ({"image": "image"}, [[1, 2], [3]], {"image": [[1, 2], [3]]}),
        ({"image": "image"}, {"b64": "iVBOR"}, {"image": "iVBOR"}),
    ],
)
def test_the_common_case_is_guessed(inputs: dict[str, str], instance: Any, expected: Any) -> None:
    """One unnamed tensor goes to the profile's inputs: by its width, or to the only input there is."""
    assert map_pair(model_with(inputs), {"instances": [instance]}, [0])[0][0] == expected


def test_columns_without_names_need_the_order_of_the_training_file(caplog: pytest.LogCaptureFixture) -> None:
    """Where the profile does not have it, nothing is guessed; the first time that it is used is logged."""
    model = model_with({"a": "numeric", "b": "numeric"})
    with pytest.raises(EventError, match=r'the profile has no order of \["a", "b"\]: name them in mapping.inputs'):
        map_pair(model._replace(order=None), {"instances": [[1, 2]]}, [0])
    with caplog.at_level("INFO", "exporter.wire.mapping"):
        for _ in range(2):
            assert map_pair(model._replace(order=("b", "a")), {"instances": [[1, 2]]}, [0])[0][0] == {"b": 1, "a": 2}
    assert caplog.messages == ['columns of instances of model \'m\' are, in the order of the training file: ["b", "a"]']


def test_the_configuration_maps_tensors() -> None:
    """Tensors go to the inputs that the configuration names; null leaves one out."""
    inputs = {"INPUT__0": ["age", "income"], "INPUT__1": "country", "max_tokens": None}
    model = model_with({}, inputs=inputs, prediction="OUTPUT__1", confidence="OUTPUT__0")
    tensors = [v2("INPUT__0", "FP32", [2, 2], [41, 1, 50, 2]), v2("INPUT__1", "BYTES", [2, 1], ["NL", "DE"])]
    request = {"inputs": [*tensors, v2("max_tokens", "INT32", [1], [7])]}
    response = {"outputs": [v2("OUTPUT__0", "FP32", [2, 1], [0.5, 0.25]), v2("OUTPUT__1", "BYTES", [2], ["yes", "no"])]}
    assert map_pair(model, request, response) == [
        ({"age": 41, "income": 1, "country": "NL"}, "yes", 0.5),
        ({"age": 50, "income": 2, "country": "DE"}, "no", 0.25),
    ]


def test_tensors_without_a_batch_axis() -> None:
    """With batched: false a tensor is one row as a whole."""
    model = model_with({"image": "image"}, batched=False)
    request = {"inputs": [v2("pixels", "UINT8", [2, 2], [1, 2, 3, 4])]}
    response = {"outputs": [v2("scores", "FP32", [2], [0.25, 0.75])]}
    assert map_pair(model, request, response) == [({"image": [[1, 2], [3, 4]]}, 1, 0.75)]


MISFITS = {
    "rows": ({}, [1, 2, 3], [1], "the request has 3 rows, the response 1; without rows, set mapping.batched"),
    "width": ({"inputs": {"instances": ["a", "b"]}}, [[1, 2, 3]], [1], '2 values per row, for ["a", "b"], got 3'),
    "output": ({"prediction": "prediction"}, [1], [1], 'is "prediction"; did you mean "predictions"?'),
    "more columns": ({}, [[1, 2, 3]], [1], 'expected 2 values per row, for ["b", "a"], got 3: see mapping.inputs'),
    "labels": ({"labels": ["a"]}, [1], [[0.5, 0.5]], "mapping.labels names 1 classes, the output has 2 scores per row"),
    "columns": ({}, [dict.fromkeys(map(str, range(MAX_COLUMNS + 1)))], [1], f"expected at most {MAX_COLUMNS} columns"),
    "cells": ({}, [{str(n): n} for n in range(3000)], [1], "3000 objects with 3000 different members"),
    "names": ({}, [{"n" * 100_000: 1}, *[{"b": 1}] * 700], [1] * 701, "the names of 2 inputs take 66 MiB in 701 rows"),
    "many": ({}, [1] * (MAX_ROWS + 1), [1] * (MAX_ROWS + 1), f"expected at most {MAX_ROWS} rows, got {MAX_ROWS + 1}"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused(name: str) -> None:
    """A request and a response that do not match, or not the configuration, are refused with what was expected."""
    mapping, request, response, text = MISFITS[name]
    inputs = {"b": "numeric", "a": "numeric"} if name == "more columns" else {"x": "numeric"}
    with pytest.raises(EventError, match=re.escape(text)):
        map_pair(model_with(inputs, **mapping), {"instances": request}, response)


def test_no_rows_are_no_predictions() -> None:
    """A batch of zero rows is no error, and no event."""
    request = {"inputs": [v2("x", "FP32", [0, 3], [])]}
    assert map_pair(model_with({"x": "numeric"}), request, {"outputs": [v2("y", "FP32", [0], [])]}) == []
    assert map_pair(model_with({"x": "numeric"}), {"instances": []}, {"predictions": []}) == []


def test_an_error_message_is_a_failed_request() -> None:
    """A response that is an error counts with code 500, its inputs seen."""
    failed = exchange(b'{"instances": [[1], [2]]}', b'{"error": "out of memory"}', "r")
    good, _ = failed.predictions(model_with({"x": "numeric"}))
    assert [(event.id, event.code, event.prediction) for event in good] == [("r-0", 500, None), ("r-1", 500, None)]


def test_a_row_that_is_wrong_is_refused_by_itself() -> None:
    """A confidence that is none costs its row alone; an identifier that is too long, of which each has a copy, all."""
    half = exchange(b'{"instances": [1, 2]}', b'{"outputs": {"y": [1, 2], "c": [0.5, 7]}}')
    good, bad = half.predictions(model_with({"x": "numeric"}, confidence="c", prediction="y"))
    assert [event.confidence for event in good] == [0.5]
    assert [(row.index, row.pointer, row.reason) for row in bad] == [(1, "/confidence", "out_of_range")]
    with pytest.raises(EventError, match="/id: expected at most 128 characters, got 129"):
        half._replace(id="i" * 129).predictions(MODEL)


def test_models_have_other_names() -> None:
    """A name of the mapping finds its model; the first that is known counts; an unknown one is refused."""
    models = {"loans": ModelConfig("loans", mapping=MappingConfig(names=("loans-predictor",))), "x": ModelConfig("x")}
    names = ModelNames(models)
    assert names.resolve((None, "nobody", "loans-predictor", "x")).name == "loans"
    with pytest.raises(EventError, match=r'no model "lones" is configured.*did you mean "loans"') as error:
        names.resolve((None, "lones"))
    assert error.value.reason == "unknown_model"
    with pytest.raises(EventError, match="does not name a model"):
        names.resolve((None, ""))


def test_a_whole_number_that_no_float_holds() -> None:
    """Numbers of any size arrive as what can be counted."""
    request = b'{"instances": [{"x": 123456789012345678901234567890, "y": 1e999}]}'
    good, _ = exchange(request, b"[1]").predictions(model_with({"x": "numeric"}))
    assert json.loads(bytes(memoryview(good[0].inputs))) == {"x": 123456789012345678901234567890.0, "y": "inf"}


# --- CloudEvents and pairs -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_events_of_the_cloudevents_package(mode: str) -> None:
    """Both content modes say the same."""
    for side in ("request", "response"):
        event = json.loads(recorded(f"cloudevent_{side}_{mode}.json"))
        (message,) = read_events(event["headers"], event["body"].encode())
        assert isinstance(message, LoggedMessage)
        assert (message.side, message.id) == (side, "0009174a-24a8-4603-b098-09c8799950e9")
        assert message.names == ("default/sklearn-iris", "sklearn-iris")
        assert message.time
        assert json.loads(message.body) == json.loads(event["body"]).get("data", json.loads(event["body"]))


def test_an_event_of_a_client_in_a_logged_event() -> None:
    """KServe's agent keeps the content type of the body that it logs; the data of that event are the request."""
    body = json.dumps({"specversion": "1.0", "id": "9", "type": "mine", "data": {"instances": [[1]]}}).encode()
    headers = {"ce-id": "1", "ce-type": "org.kubeflow.serving.inference.request"}
    (message,) = read_events({**headers, "content-type": "application/cloudevents+json"}, body)
    assert isinstance(message, LoggedMessage)
    assert decode_request(message.body).columns[0].values == [[1]]


def test_a_batch_of_events_takes_the_good() -> None:
    """A wrong event in a batch is refused by itself."""
    good = {"id": "1", "type": "org.kubeflow.serving.inference.request", "data_base64": "e30="}
    body = json.dumps([good, {"id": "2"}, {**good, "type": "other"}, {**good, "data_base64": "%"}, 7]).encode()
    halves = read_events({"content-type": "application/cloudevents-batch+json"}, body)
    assert isinstance(halves[0], LoggedMessage)
    assert halves[0].body == b"{}"
    errors = [message.pointer for message in halves[1:] if isinstance(message, EventError)]
    assert errors == ["/type", "/type", "/data_base64", ""]


def message(side: str, name: str = "a", body: bytes = b"{}") -> LoggedMessage:
    return LoggedMessage(side, ("ns", "svc", "", "", name), name, body)


def test_messages_are_paired_in_either_order() -> None:
    """Whichever message comes first waits for its counterpart; a message that is sent again replaces the first."""
    pairer = RequestResponsePairer()
    for first, second in (("request", "response"), ("response", "request")):
        assert pairer.pair(message(first)) is None
        assert pairer.pair(message(first)) is None
        assert pairer.pair(message(second)) == message(first)
    assert pairer.pair(message("request")) is None


def test_an_hour_without_counterparts_is_bounded_and_counted() -> None:
    """Messages without counterpart are dropped after a time, and counted by side, with or without traffic."""
    now = 0.0
    pairer = RequestResponsePairer(lambda: now)
    for second in range(3600):
        now = float(second)
        pairer.pair(message("response", f"r-{second}"))
        assert pairer.counts()[1] <= MAX_SECONDS
    now += MAX_SECONDS
    assert pairer.counts() == ({"request": 0, "response": 3600}, 0)


def test_the_memory_of_waiting_messages_is_bounded() -> None:
    """Large bodies that wait push out the oldest."""
    pairer = RequestResponsePairer()
    large = b" " * (MAX_WAITING_BYTES // 4)
    for number in range(10):
        pairer.pair(message("request", str(number), large))
    assert pairer.counts() == ({"request": 7, "response": 0}, 3)
    pairer.pair(message("response", "9"))
    assert pairer.counts()[1] == 2


# --- OpenTelemetry ---------------------------------------------------------------------------


def test_spans_of_the_sdk() -> None:
    """Spans about predictions become predictions; others are none, an agent's own span neither."""
    result = list(otlp.read(recorded("otlp_traces.pb"), "traces", protobuf=True))
    assert [record.names[0] or record.names[1] for record in result] == ["credit", "credit", "credit", "credits"]
    chat, plain, failed, _ = (record.predictions(CREDIT)[0][0] for record in result)
    assert (chat.id, chat.version, chat.prediction, chat.duration_seconds) == ("chatcmpl-1", "7", "stop", 1.5)
    assert json.loads(bytes(memoryview(chat.inputs))) == {
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 34,
        "gen_ai.request.temperature": 0.7,
    }
    assert (plain.id, plain.prediction, plain.confidence, plain.code) == ("o-1", "yes", 0.93, None)
    assert json.loads(bytes(memoryview(plain.inputs))) == {"age": 41, "country": "NL"}
    assert plain.duration_seconds == pytest.approx(0.012)
    assert failed.code == 500
    assert len(failed.id or "") == 49


def test_log_records_of_the_sdk() -> None:
    """Log records with the documented attributes become predictions."""
    first, second = otlp.read(recorded("otlp_logs.pb"), "logs", protobuf=True)
    (event,), _ = first.predictions(CREDIT)
    assert (event.id, event.version, event.prediction, event.confidence) == ("l-1", "3", "no", 0.5)
    assert (event.duration_seconds, event.time.timestamp()) == (0.02, 1764000000)
    assert second.predictions(CREDIT)[0][0].code == 500


def test_the_json_encoding_of_otlp() -> None:
    """64-bit numbers are strings in JSON, identifiers hexadecimal, and unknown members nobody's concern."""
    attributes = {
        "model.name": {"stringValue": "null"},
        "model.input.a": {"intValue": "41"},
        "model.input.b": {"doubleValue": "NaN"},
        "model.input.c": {"arrayValue": {"values": [{"intValue": 1}, {"boolValue": True}]}},
        "model.input.d": {"kvlistValue": {"values": [{"key": "k", "value": {"doubleValue": 0.5}}]}},
        "model.input.e": {},
        "gen_ai.response.time_to_first_chunk": {"doubleValue": 0.4},
        "model.prediction.id": {"stringValue": "p-1"},
    }
    span = {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": "eee19b7ec3c1b174",
        "startTimeUnixNano": "1764000000000000000",
        "endTimeUnixNano": "1764000000250000000",
        "status": {"code": 2},
        "attributes": [{"key": key, "value": value} for key, value in attributes.items()],
        "droppedAttributesCount": 0,
    }
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()
    (result,) = otlp.read(body, "traces", protobuf=False)
    (event,), _ = result.predictions(CREDIT)
    assert result.names[0] == "null"
    assert (event.id, event.alias) == ("p-1", "5b8efff798038103d269b633813fc60c-eee19b7ec3c1b174")
    assert (event.duration_seconds, event.code) == (0.25, 500)
    inputs = {"a": 41, "b": None, "c": [1, True], "d": {"k": 0.5}, "e": None}
    assert json.loads(bytes(memoryview(event.inputs))) == inputs | {"gen_ai.response.time_to_first_chunk": 0.4}


def export(*records: Any) -> bytes:
    """Return an export request of log records in JSON."""
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": list(records)}]}]}).encode()


def log_record(attributes: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"attributes": [{"key": key, "value": value} for key, value in attributes.items()], **members}


NAMED = {"model.name": {"stringValue": "m"}}


@pytest.mark.parametrize(
    ("record", "pointer"),
    [
        (log_record({"model.name": "m"}), "/attributes/0/value"),
        (log_record(NAMED, timeUnixNano="1" * 310), "/timeUnixNano"),
        (log_record(NAMED, timeUnixNano=-1), "/timeUnixNano"),
        (log_record(NAMED, startTimeUnixNano="yesterday"), "/startTimeUnixNano"),
        ({"attributes": 5}, "/attributes"),
        ({"attributes": [5]}, "/attributes/0"),
        (log_record(NAMED, status=[]), "/status"),
        ("a record", ""),
    ],
)
def test_a_wrong_record_costs_only_itself(record: Any, pointer: str) -> None:
    """A record that cannot be read is an error in its place; the records before and after it are read."""
    first, error, last = otlp.read(export(log_record(NAMED), record, log_record(NAMED)), "logs", protobuf=False)
    assert isinstance(error, EventError)
    assert (error.pointer, error.reason) in {(pointer, "wrong_type"), (pointer, "out_of_range")}
    assert not isinstance(first, EventError) and not isinstance(last, EventError)
    assert first.names[0] == last.names[0] == "m"


@pytest.mark.parametrize("group", [5, {"scopeLogs": 5}, {"scopeLogs": [5]}, {"resource": {"attributes": "x"}}])
def test_a_wrong_group_of_records_costs_only_itself(group: Any) -> None:
    """A resource or a scope that cannot be read is an error; the records of other resources are read."""
    good = {"scopeLogs": [{"logRecords": [log_record(NAMED)]}]}
    error, record = otlp.read(json.dumps({"resourceLogs": [group, good]}).encode(), "logs", protobuf=False)
    assert isinstance(error, EventError)
    assert not isinstance(record, EventError)


@pytest.mark.parametrize("body", ["5", "[]", '{"resourceLogs": 5}', '{"resourceLogs": []} x', '{"resourceLogs": ['])
def test_a_body_that_is_no_export_request(body: str) -> None:
    """A body that is no export request is refused as a whole."""
    with pytest.raises(EventError, match="the body is not an export request in JSON"):
        otlp.read(body.encode(), "logs", protobuf=False)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"intValue": 10**400}, str(10**400)),
        ({"intValue": "1" * 5000}, "1" * 5000),
        ({"intValue": 10**20}, 1e20),
        ({"intValue": "99999999999999999999"}, 1e20),
        ({"intValue": "--5"}, "--5"),
        ({"intValue": "-5"}, -5),
        ({"doubleValue": "0.5"}, 0.5),
        ({"doubleValue": "-Infinity"}, "-inf"),
        ({"doubleValue": "x"}, "x"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_numbers_of_attributes(value: Any, expected: Any) -> None:
    """A number of any size becomes a number if a float can hold it, else text, which counts as an invalid value."""
    (record,) = otlp.read(export(log_record({**NAMED, "model.input.x": value})), "logs", protobuf=False)
    assert not isinstance(record, EventError)
    (event,), _ = record.predictions(MODEL)
    assert json.loads(bytes(memoryview(event.inputs))) == {"x": expected}


EVALUATED = {"gen_ai.response.model": {"stringValue": "m"}, "gen_ai.response.id": {"stringValue": "chatcmpl-1"}}


@pytest.mark.parametrize(
    "record",
    [
        log_record(EVALUATED, eventName="gen_ai.evaluation.result"),
        log_record(EVALUATED | {"event.name": {"stringValue": "gen_ai.evaluation.result"}}),
        log_record(EVALUATED | {"gen_ai.evaluation.name": {"stringValue": "Relevance"}}),
        log_record(EVALUATED | {"gen_ai.operation.name": {"arrayValue": {"values": []}}}),
    ],
    ids=["name", "name in an attribute", "attributes", "operation of another type"],
)
def test_evaluations_are_no_predictions(record: Any) -> None:
    """The result of an evaluation names the model that responded, but is no second prediction of it."""
    assert not any(isinstance(one, PredictionRecord) for one in otlp.read(export(record), "logs", protobuf=False))
    (prediction,) = otlp.read(export(log_record(EVALUATED)), "logs", protobuf=False)
    assert isinstance(prediction, PredictionRecord)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"name": "Relevance", "score.value": 0.5, "score.label": "pass", "explanation": "secret"}, (0.5, "pass")),
        ({"name": "Relevance", "score.value": "4"}, (4.0, None)),
        ({"name": "Relevance", "score.label": "fail"}, (None, "fail")),
        ({"score.value": 1}, "name"),
        ({"name": "Relevance", "score.value": "high"}, "score/value"),
        ({"name": "Relevance", "score.value": float("inf")}, "score/value"),
    ],
    ids=["all", "text", "label", "no name", "no number", "infinite"],
)
def test_the_result_of_an_evaluation(attributes: Any, expected: Any) -> None:
    """Name, score and label are read; a score that is no number is refused, and so is a result without a name."""
    kinds = {str: "stringValue", int: "intValue", float: "doubleValue"}
    named = {f"gen_ai.evaluation.{key}": {kinds[type(value)]: value} for key, value in attributes.items()}
    record = log_record(EVALUATED | named, eventName="gen_ai.evaluation.result")
    body = export(record).replace(b"Infinity", b'"Infinity"')
    (one,) = otlp.read(body, "logs", protobuf=False)
    if isinstance(one, EventError):
        assert one.pointer.endswith(expected)
    else:
        assert isinstance(one, otlp.Evaluation)
        assert (one.names[2], one.ids, one.result.name) == ("m", ("chatcmpl-1",), "Relevance")
        assert (one.result.score, one.result.label) == expected
        assert "secret" not in repr(one)


def test_an_evaluation_in_protobuf() -> None:
    """The name of the event is read from protobuf, too."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    request = ExportLogsServiceRequest.FromString(recorded("otlp_logs.pb"))
    request.resource_logs[0].scope_logs[0].log_records[0].event_name = "gen_ai.evaluation.result"
    result = list(otlp.read(request.SerializeToString(), "logs", protobuf=True))
    assert len([one for one in result if isinstance(one, PredictionRecord)]) == 1


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", b""), ("gzip", b"abc"), ("gzip", b"\x1f\x8b\x08"), ("zstd", b"abc"), ("zstd", zstd.compress(b"a")[:-1])],
)
def test_a_body_that_is_not_compressed(encoding: str, body: bytes) -> None:
    """What is not compressed, or ends too early, is refused."""
    with pytest.raises(EventError, match=encoding):
        decompress(body, encoding)


@pytest.mark.parametrize("name", ["records", "protobuf"])
def test_an_export_that_is_too_much(name: str) -> None:
    """More records, or more protobuf, than memory should hold decoded is refused; a name, which many have, is cut."""
    (one,) = otlp.read(export(log_record(NAMED | {"model.name": {"stringValue": "n" * 9000}})), "logs", protobuf=False)
    assert len(one.names[0]) == otlp.MAX_CALL + 1
    spans = b'{"resourceSpans": [{"scopeSpans": [{"spans": [' + b"{}," * MAX_RECORDS + b"{}]}]}]}"
    body = spans if name == "records" else b"\0" * (MAX_PROTOBUF + 1)
    with pytest.raises(EventError, match="the body has more than") as error:
        list(otlp.read(body, "traces", name == "protobuf"))
    assert error.value.reason == "too_large"


# --- whatever comes --------------------------------------------------------------------------

MEMBERS = re.findall(
    r"\S+",
    "name shape datatype data inputs outputs instances predictions dataframe_split columns parameters b64 id request "
    "binary_data_size response model_name error time code resourceSpans scopeSpans spans attributes key value intValue "
    "arrayValue model.name type specversion",
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=4),
    max_leaves=20,
)
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "y"]),
        "shape": st.lists(st.integers(-1, 3) | st.just(2**70), max_size=3),
        "datatype": st.sampled_from(["BOOL", "INT8", "UINT64", "FP16", "BF16", "FP64", "BYTES", "X"]),
    },
    optional={"data": JSON, "parameters": st.dictionaries(st.just("binary_data_size"), st.integers(-1, 9))},
)


def bodies() -> st.SearchStrategy[bytes]:
    documents = JSON | st.fixed_dictionaries({"inputs": st.lists(TENSOR), "outputs": st.lists(TENSOR)})
    return st.builds(lambda item, rest: json.dumps(item).encode() + rest, documents, st.binary(max_size=12))


@settings(max_examples=300, deadline=1000)
@given(body=bodies() | st.binary(), route=st.sampled_from(["records", "lines", "event", "batch", "json", "proto"]))
def test_any_body_is_taken_or_refused_clearly(body: bytes, route: str) -> None:
    """The decoders of every route refuse what they cannot read with an error for people."""
    try:
        if route in {"records", "lines"}:
            assert list(read_records(body, route == "lines"))
        elif route in {"event", "batch"}:
            name = "cloudevents" if route == "event" else "cloudevents-batch"
            read_events({"content-type": f"application/{name}+json"}, body)
        else:
            for record in otlp.read(body, "traces", route == "proto"):
                if not isinstance(record, EventError):
                    record.predictions(MODEL)
    except EventError as error:
        assert error.detail


@settings(max_examples=300, deadline=1000)
@given(
    data=st.data(),
    name=st.sampled_from(["triton_binary.bin", "triton_small_floats.bin", "otlp_traces.pb", "otlp_logs.pb"]),
)
def test_damaged_recordings_are_taken_or_refused_clearly(data: st.DataObject, name: str) -> None:
    """A real body with some bytes changed, or cut off, costs nobody an unforeseen error."""
    body = bytearray(recorded(name))
    for index in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=5)):
        body[index] = data.draw(st.integers(0, 255))
    raw = bytes(body[: data.draw(st.integers(0, len(body)))])
    try:
        if name.endswith("pb"):
            for record in otlp.read(raw, "traces" if "traces" in name else "logs", protobuf=True):
                if not isinstance(record, EventError):
                    record.predictions(MODEL)
        else:
            decode_request(raw)
    except EventError as error:
        assert error.detail
