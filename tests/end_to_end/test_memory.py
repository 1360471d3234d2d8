"""Bodies that take many times their size decoded or unpacked: each is refused, and memory stays bounded."""

from __future__ import annotations

import base64
import gzip
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.memory import bomb, growing
from support.servers import Served

BATCH = "application/cloudevents-batch+json"
MOST = 320
"""MiB by which an exporter may grow."""
CREDIT = '"model": "credit", "prediction": "yes", "label": "no"'


def array(item: str, mebibytes: int = 12) -> str:
    """The JSON of an array of so many MiB."""
    return f"[{','.join([item] * (mebibytes * 2**20 // (len(item) + 1)))}]"


def packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode())).decode()


def logged(side: str, number: int, data: str) -> dict[str, str]:
    attributes = {"specversion": "1.0", "source": "x", "inferenceservicename": "credit"}
    return {**attributes, "id": f"{number}", "type": f"org.kubeflow.serving.inference.{side}", "data_base64": data}


LARGE, SMALL = packed(f'{{"instances": [{{"name": "{"x" * 8 * 2**20}"}}]}}'), packed('{"predictions": ["yes"]}')
RECORD = {"model": "credit", "code": 200, "request": LARGE, "response": SMALL}
ATTACKS = {
    "objects": ("/v1/feedback", f'{{{CREDIT}, "unknown": {array("{}")}}}', "more than 1,000,000 objects"),
    "a misspelt member": ("/v1/feedback", f'{{{CREDIT}, "lable": {array("[]")}}}', "of memory decoded"),
    "inputs of feedback": ("/v1/feedback", f'{{{CREDIT}, "inputs": {{"photo": {array("[]")}}}}}', "/inputs: takes"),
    "events without a member": ("/v1/feedback", array("{}"), "more than 1,000,000 objects"),
    "numbers": ("/v1/predictions", f'{{"model": "credit", "inputs": {{"photo": {array("1.5")}}}}}', "/inputs: takes"),
    "not a number": ("/v1/predictions", f'{{"model": "credit", "id": NaN, "a": {array("[]")}}}', "of memory decoded"),
    "an event among others": (
        "/v1/predictions",
        f'[{{"model": "credit"}}, {{"model": "credit", "code": NaN, "inputs": {{"photo": {array("[]")}}}}}]',
        "the event at character 22 has more than 4,194,304 characters",
    ),
    "labels": ("/v1/labels", f'{{"prediction_id": "a", "label": 1, "unknown": {array("[]")}}}', "of memory decoded"),
    "business events": (
        "/v1/events",
        f'{{"model": "credit", "event": "contracts", "value": NaN, "unknown": {array("[]")}}}',
        "of memory decoded",
    ),
    "documents": (
        "/v1/exchanges",
        f'{{"model": "credit", "code": 200, "request": {array("1.5")}}}',
        "of memory decoded",
    ),
    "packed records": ("/v1/exchanges", json.dumps([RECORD] * 50), "more than 33554432 bytes together"),
    "packed messages": (
        "/v1/kserve",
        json.dumps([logged(s, n, d) for n in range(50) for s, d in (("request", LARGE), ("response", SMALL))]),
        "more than 33554432 bytes together",
    ),
    "notifications": ("/v1/notifications", f'{{"alerts": [], "unknown": {array("[]", 2)}}}', "more than 1048576 bytes"),
    "decisions": ("/review/decide", "a=b&" * 2**19, "more than 1048576 bytes"),
}


@pytest.mark.parametrize(("path", "body", "detail"), ATTACKS.values(), ids=list(ATTACKS))
def test_a_body_that_takes_much_memory_is_refused(shared: Served, path: str, body: str, detail: str) -> None:
    """It is a 413 that says why, also where three come at a time; predictions of others are counted."""
    kind = BATCH if path == "/v1/kserve" else "application/json"
    with growing(shared, MOST), ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: shared.post(path, body.encode(), Content_Type=kind), range(3)))
    assert {answer.status for answer in answers} == {413}, answers[0].text
    assert all(detail in answer.json["detail"] for answer in answers), answers[0].text
    series = 'model_attempts_total{model="credit",version="after"}'
    before = shared.samples("model_attempts_total").get(series, 0)
    assert shared.post("/v1/predictions", {"model": "credit", "version": "after"}).status == 202
    assert shared.samples("model_attempts_total")[series] == before + 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/feedback", f'{{{CREDIT}, "unknown": {array("[]", 1)}}}'),
        ("/v1/feedback", f'{{{CREDIT}, "inputs": {{"photo": {array("[1,2]", 2)}}}}}'),
        ("/v1/predictions", f'{{"model": "credit", "inputs": {{"photo": {array("{}", 1)}}}}}'),
        ("/v1/exchanges", json.dumps([RECORD] * 3)),
    ],
    ids=["unknown member", "inputs of feedback", "inputs", "packed"],
)
def test_memory_is_bounded_below_the_limits(shared: Served, path: str, body: str) -> None:
    """Twenty requests at a time, none of which is refused for its size, take turns."""
    with growing(shared, MOST), ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: shared.post(path, body.encode()), range(20)))
        shared.samples("model_attempts_total")
    statuses = {answer.status for answer in answers}
    assert statuses & {201, 202} and statuses <= {201, 202, 503}, answers[0].text


def test_pictures_beyond_the_pixels_of_a_second_are_invalid(shared: Served) -> None:
    """Of pictures that are small files with many pixels, one or a few are decoded, and the others cost little."""
    event = {"model": "credit", "version": "pictures", "inputs": {"photo": bomb(4000)}}
    with growing(shared, MOST):
        assert shared.post("/v1/predictions", [event] * 60).status == 202
        samples = shared.samples("model_attempts_total", "model_feature_invalid_ratio")
    assert samples['model_attempts_total{model="credit",version="pictures"}'] == 60
    series = 'model_feature_invalid_ratio{model="credit",version="pictures",feature="photo.contrast",window="5m"}'
    assert 0.5 < samples[series] < 1
