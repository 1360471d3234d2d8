"""Requests for retraining: recorded once an incident, signed, repeated until the trainer takes them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from support.fake_exporter import Exporter as Trainer
from support.fake_exporter import nobody
from support.flights import COUNT, correct, events, is_planted, write_model
from support.review_rows import put
from support.servers import Served, eventually, serving, write_config

from exporter.comparison.measures import Comparison
from exporter.config import Config, ModelConfig, RetrainConfig, StoreConfig, load
from exporter.errors import CompareError, ConfigError, SlicesError, StoreError
from exporter.metrics.exposition import ExporterMetrics
from exporter.secret_file import is_signed, read_secret, signed_headers
from exporter.server.alerts import Alert, Alerts
from exporter.server.model_files import load_monitors
from exporter.server.tasks.retraining import (
    FIRST_RETRY_SECONDS,
    GIVE_UP_SECONDS,
    LEASE_SECONDS,
    Retrainer,
    request_document,
)
from exporter.storage import Store
from exporter.storage._database import retrain_requests
from exporter.storage._releases import KEPT

SECRET = "a secret of some length"
ACCEPTED = {"status": "accepted", "inputs": '{"age":1}'}
DAY = 86400.0


@dataclass
class Setup:
    """A retrainer with a trainer, and what it knows."""

    store: Store
    folder: Path
    trainer: Trainer
    registry: CollectorRegistry
    settings: dict[str, Any] = field(default_factory=dict)
    firing: list[Alert] = field(default_factory=list)

    def retrainer(self, compare: Callable[[str], Comparison] | None = None, **settings: Any) -> Retrainer:
        """A retrainer of its own process, as far as it knows."""

        def no_pair(_: str) -> Comparison:
            raise CompareError("one version")

        def no_slices(model: str, _: float) -> list[dict[str, Any]]:
            raise SlicesError(f"{model} has no profile")

        known = {"url": f"{self.trainer.url}/hook", "secret_file": str(self.folder / "secret"), **settings}
        config = Config(models=(ModelConfig("digits"), ModelConfig("letters")), retrain=RetrainConfig(**known))
        return Retrainer(
            lambda: config,
            self.store,
            self.telemetry,
            lambda: Alerts(self.firing),
            compare=compare or no_pair,
            slices=no_slices,
            profile=lambda _: None,
            external_url=lambda: "http://exporter:9877",
        )

    def __post_init__(self) -> None:
        self.telemetry = ExporterMetrics(self.registry)

    def requests(self, model: str | None = None) -> list[dict[str, Any]]:
        return [request_document(row) for row in self.store.retrain_requests.list(model, 100)]

    def counted(self, status: str) -> float:
        return self.registry.get_sample_value("model_exporter_retrain_requests_total", {"status": status}) or 0


@pytest.fixture
def setup(database: str, tmp_path: Path) -> Iterator[Setup]:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    store, trainer = Store(StoreConfig(url=database), lambda _: None), Trainer()
    yield Setup(store, tmp_path, trainer, CollectorRegistry())
    trainer.close()
    store.close()


def low_accuracy(model: str = "digits", starts_at: float = 0.0) -> Alert:
    begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(starts_at))
    labels = {"alertname": "ModelAccuracyLow", "model": model, "version": "2", "severity": "critical"}
    return Alert("firing", labels, {"summary": "digits is right less often"}, begin)


def test_enough_accepted_corrections_are_released_and_sent(setup: Setup) -> None:
    """The message names the release that the trainer downloads; the next request needs further corrections."""
    put(setup.store, [ACCEPTED] * 3 + [{"status": "pending"}, {"status": "rejected"}, ACCEPTED | {"label": '"1"'}])
    retrainer, now = setup.retrainer(corrections=4), time.time()
    retrainer.look(now)
    assert not setup.requests()  # the last one confirms the prediction
    put(setup.store, [ACCEPTED])
    retrainer.look(now)
    retrainer.look(now)
    assert [request["status"] for request in setup.requests()] == ["waiting"]
    assert retrainer.send_due(now + 1)
    assert not retrainer.send_due(now + 1)
    (request,) = setup.requests()
    assert (request["status"], request["reason"], request["attempts"]) == ("delivered", "corrections", 1)
    (received,) = setup.trainer.requests
    (message,) = received["events"]
    assert (received["path"], message["type"]) == ("/hook", "model.retrain")
    data = message["data"]
    assert data["id"] == received["headers"]["webhook-id"] == request["id"]
    assert data["detail"] == "4 accepted corrections are in no release yet"
    assert data["release"]["examples"] == 5
    assert data["release"]["url"] == f"http://exporter:9877/v1/dataset/releases/{data['release']['id']}"
    assert (data["alert"], data["comparison"], data["slices"]) == (None, None, [])
    retrainer.look(now + 2 * DAY)
    assert len(setup.requests()) == 1  # they are released
    put(setup.store, [ACCEPTED] * 4)
    retrainer.look(now + 0.5 * DAY)
    assert len(setup.requests()) == 1  # at most one a day
    retrainer.look(now + 2 * DAY)
    assert len(setup.requests()) == 2
    assert [setup.counted(status) for status in ("requested", "delivered", "failed")] == [2, 1, 0]


def test_low_accuracy_is_one_request_an_incident(setup: Setup) -> None:
    """An alert that goes on, whoever names its beginning, is no second request; its next incident is."""
    retrainer, now = setup.retrainer(interval="1h"), time.time()
    setup.firing = [low_accuracy(starts_at=now - 60), low_accuracy("unknown", now)]
    retrainer.look(now)
    assert retrainer.send_due(now + 1)
    (message,) = setup.trainer.requests[0]["events"]
    assert message["data"]["release"] is None
    assert message["data"]["alert"]["version"] == "2"
    assert message["data"]["detail"] == "digits is right less often"
    setup.firing = [low_accuracy(starts_at=now - 1800)]  # Prometheus tells when it became pending
    retrainer.look(now + 2 * DAY)
    assert len(setup.requests()) == 1
    setup.firing = []
    retrainer.look(now + 3 * DAY)
    setup.firing = [low_accuracy(starts_at=now + 3 * DAY)]
    retrainer.look(now + 3 * DAY + 60)
    assert [request["reason"] for request in setup.requests("digits")] == ["accuracy", "accuracy"]


def test_what_the_configuration_turns_off_makes_no_request(setup: Setup) -> None:
    """Neither a model that is not named, nor a reason that is turned off."""
    put(setup.store, [ACCEPTED] * 5)
    setup.firing = [low_accuracy(starts_at=time.time())]
    for settings in ({"models": ("letters",)}, {"accuracy": False, "corrections": 0}):
        setup.retrainer(**{"corrections": 1, **settings}).look(time.time())
        assert not setup.requests()


def test_a_trainer_that_answers_500_for_a_day_gets_the_request_in_the_end(setup: Setup) -> None:
    """Attempts are further and further apart, at most an hour; the message and its identifier stay the same."""
    retrainer = setup.retrainer(corrections=0)
    now = time.time()
    assert retrainer.request("digits")
    setup.trainer.answers = [(500, {}, {"detail": "no GPU is free"})] * 30
    attempts = 0
    while now < time.time() + 1.1 * DAY:
        attempts += retrainer.send_due(now)
        now += 60
    (request,) = setup.requests()
    assert (request["status"], request["attempts"]) == ("delivered", attempts)
    assert 25 < attempts < 40
    bodies = {json.dumps(received["events"]) for received in setup.trainer.requests}
    assert len(bodies) == 1
    assert len({received["headers"]["webhook-id"] for received in setup.trainer.requests}) == 1
    assert setup.counted("failed") == attempts - 1


def test_the_pause_begins_when_the_trainer_has_not_answered(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that hangs until the timeout is not asked again at once."""
    monkeypatch.setattr("exporter.server.tasks.retraining.TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        retrainer, now = setup.retrainer(url=f"http://127.0.0.1:{hanging.getsockname()[1]}/"), time.time()
        retrainer.request("digits")
        assert retrainer.send_due(now + 1)
        assert not retrainer.send_due(now + 1 + FIRST_RETRY_SECONDS + 0.4)
        assert retrainer.send_due(now + 1 + FIRST_RETRY_SECONDS + 5)
    assert setup.requests()[0]["error"] == "timed out"


def test_a_request_is_given_up_after_days_or_when_the_receiver_is_gone(setup: Setup) -> None:
    """The error is kept; afterwards a new request can be made."""
    retrainer, now = setup.retrainer(url=nobody()), time.time()
    retrainer.request("digits")
    assert retrainer.request("digits") is None
    assert retrainer.send_due(now + 1)
    (request,) = setup.requests()
    assert (request["status"], request["error"]) == ("waiting", "Connection refused")
    assert retrainer.send_due(now + GIVE_UP_SECONDS)
    (request,) = setup.requests()
    assert request["status"] == "abandoned"
    retrainer = setup.retrainer()
    assert retrainer.request("digits")
    setup.trainer.answers = [(410, {}, b"")]
    retrainer.send_due(time.time())
    newest = setup.requests()[0]
    assert (newest["status"], newest["error"]) == ("abandoned", "410 Gone")
    assert setup.counted("abandoned") == 2


def test_what_the_trainer_does_not_take_is_a_metric(setup: Setup) -> None:
    """Its age counts while it is repeated and after it was given up, until the trainer takes a later one."""
    retrainer, letters = setup.retrainer(url=nobody()), setup.retrainer(models=("letters",))

    def ages(asker: Retrainer = retrainer) -> dict[str, float]:
        pattern = re.compile(r'model_exporter_retrain_request_undelivered_seconds\{model="(\w+)"\} (\S+)\n')
        return {found[1]: float(found[2]) for _, line in asker.lines() if (found := pattern.fullmatch(line.decode()))}

    def oldest(seconds: float) -> Any:
        return {"digits": pytest.approx(seconds, abs=5)}

    assert ages() == {}
    for age in (1000, 500):
        assert retrainer.request("digits")
        (row,) = setup.store.retrain_requests.list("digits", 1)
        setup.store.retrain_requests.update(row["seq"], created=time.time() - age)
        assert ages() == oldest(1000)
        retrainer.send_due(time.time())
        assert ages() == oldest(1000)
        retrainer.send_due(time.time() + GIVE_UP_SECONDS)
        assert setup.requests()[0]["status"] == "abandoned"
        assert ages() == oldest(1000)
    assert ages(letters) == {}  # the configuration names another model
    retrainer = setup.retrainer()
    assert retrainer.request("digits")
    assert ages() == oldest(1000)
    assert retrainer.send_due(time.time())
    assert ages() == {}
    assert setup.requests()[0]["status"] == "delivered"
    assert retrainer.request("digits")
    assert ages() == oldest(0)


def test_a_trainer_that_trickles_its_answer_does_not_hold_the_thread(setup: Setup) -> None:
    """The status decides; the body is not awaited."""
    setup.trainer.answers = [(202, {"X-Note": "x"}, b"")]
    release = threading.Event()
    original = setup.trainer.server.RequestHandlerClass.do_POST  # type: ignore[attr-defined]

    def trickle(handler: Any) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(500)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(b"busy")
        handler.wfile.flush()
        release.wait(20)
        handler.close_connection = True

    setup.trainer.server.RequestHandlerClass.do_POST = trickle  # type: ignore[attr-defined]
    try:
        retrainer = setup.retrainer()
        retrainer.request("digits")
        began = time.monotonic()
        assert retrainer.send_due(time.time())
        assert time.monotonic() - began < 9
        assert "500" in setup.requests()[0]["error"]
    finally:
        release.set()
        setup.trainer.server.RequestHandlerClass.do_POST = original  # type: ignore[attr-defined]


def test_two_exporters_make_and_send_one_request(setup: Setup) -> None:
    """Of two replicas one records it, and one sends it; after a crash the other takes over."""
    put(setup.store, [ACCEPTED] * 2)
    one, two, now = setup.retrainer(corrections=2), setup.retrainer(corrections=2), time.time()
    one.look(now)
    two.look(now)
    assert len(setup.requests()) == 1
    (row,) = setup.store.retrain_requests.list("digits", 1)
    assert setup.store.retrain_requests.add("digits", "manual", "{}", None) is None
    setup.trainer.answers = [None]  # it took the request, and the exporter crashed before it recorded that
    assert one.send_due(now + 1)
    assert not two.send_due(now + 1)
    assert two.send_due(now + LEASE_SECONDS + 2)
    assert setup.requests()[0]["status"] == "delivered"
    assert {received["headers"]["webhook-id"] for received in setup.trainer.requests} == {row["id"]}


def test_a_failure_to_prepare_is_repeated(setup: Setup) -> None:
    """The database fails while the versions are compared: the request is prepared again, not lost."""
    calls: list[str] = []

    def compare(model: str) -> Comparison:
        calls.append(model)
        if len(calls) == 1:
            raise StoreError("the disk is full")
        raise CompareError("one version")

    retrainer, now = setup.retrainer(compare), time.time()
    retrainer.request("digits")
    with pytest.raises(StoreError):
        retrainer.send_due(now + 1)
    assert retrainer.send_due(now + LEASE_SECONDS + 2)
    assert setup.requests()[0]["status"] == "delivered"


def test_the_newest_requests_are_kept(setup: Setup) -> None:
    """The table does not grow without bound."""
    rows = [
        {"id": str(n), "model": "digits", "reason": "manual", "context": '{"detail": ""}', "created": float(n)}
        for n in range(KEPT + 5)
    ]
    setup.store.write(lambda connection: connection.execute(retrain_requests.insert(), rows))
    new = setup.store.retrain_requests.add("digits", "manual", '{"detail": ""}', None)
    kept = setup.store.retrain_requests.list(None, 2 * KEPT)
    assert len(kept) == KEPT
    assert (kept[0], kept[-1]["id"]) == (new, "6")


def test_a_message_is_signed_as_the_specification_says(tmp_path: Path) -> None:
    """Any library of Standard Webhooks verifies it."""
    (tmp_path / "secret").write_text(f"whsec_{base64.b64encode(b'0123456789abcdefghijklmn').decode()}\n")
    secret = read_secret(str(tmp_path / "secret"), "retrain.secret_file")
    headers = signed_headers(secret, "msg_1", 1764000000, b'{"a":1}')
    expected = hmac.new(b"0123456789abcdefghijklmn", b'msg_1.1764000000.{"a":1}', hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"
    signatures = f"v1,AAAA {headers['webhook-signature']}"
    assert is_signed(secret, "msg_1", "1764000000", b'{"a":1}', signatures)
    assert not is_signed(secret, "msg_1", "1764000001", b'{"a":1}', signatures)
    assert not is_signed(secret, "msg_1", "1764000000", b'{"a":2}', "v1,é")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff" * 20, "cannot be read: it is not UTF-8"),
        (b"short\n", "expected a secret of at least 16 bytes, got 5"),
        (b"whsec_not base64!", "expected base64 after whsec_"),
    ],
)
def test_a_wrong_secret_is_refused_at_the_start(tmp_path: Path, content: bytes | None, message: str) -> None:
    """The message names the file and the key."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    write_config(tmp_path, {"models": [{"name": "m"}], "retrain": {"url": "http://t/", "secret_file": "secret"}})
    with pytest.raises(ConfigError) as error:
        load_monitors(tmp_path / "exporter.yml")
    assert f"exporter.yml: retrain.secret_file: {tmp_path / 'secret'}: {message}" in str(error.value)


@pytest.mark.parametrize(
    ("retrain", "message"),
    [
        ({"url": "ftp://t"}, "retrain.url: expected a URL such as https://trainer.example.org/retrain"),
        ({"url": "http://u:p@t/"}, "retrain.url: expected a URL without user and password"),
        ({"models": ["lettres"]}, 'retrain.models[0]: no model "lettres" is configured; did you mean "letters"?'),
        ({"interval": "5m"}, 'retrain.interval: expected from 1h to 3650d, got "5m"'),
        ({"corrections": -1}, "retrain.corrections: expected a whole number of at least 0, got -1"),
    ],
)
def test_a_wrong_key_is_refused(tmp_path: Path, retrain: dict[str, Any], message: str) -> None:
    """Each message names the key and what would be right."""
    document = {"models": [{"name": "letters"}], "retrain": {"url": "http://t/", "secret_file": "s", **retrain}}
    write_config(tmp_path, document)
    with pytest.raises(ConfigError) as error:
        load(tmp_path / "exporter.yml")
    assert message in str(error.value)


def test_a_request_by_hand_reaches_the_trainer(tmp_path: Path) -> None:
    """The whole way of a running exporter; a second request waits for the first."""
    trainer = Trainer()
    (tmp_path / "secret").write_text(SECRET)
    settings = {"url": trainer.url, "secret_file": "secret", "models": ["credit"]}
    write_config(tmp_path, {"models": [{"name": "credit"}, {"name": "other"}], "retrain": settings})
    with serving(tmp_path) as served:
        trainer.answers = [(503, {}, b"")]
        answer = served.post("/v1/retrain-requests", {"model": "credit"})
        assert (answer.status, answer.json["status"], answer.json["reason"]) == (201, "waiting", "manual")
        again = served.post("/v1/retrain-requests", {"model": "credit"})
        assert (again.status, again.json["request"]["id"]) == (409, answer.json["id"])
        assert served.post("/v1/retrain-requests", {"model": "other"}).status == 409
        assert served.post("/v1/retrain-requests", {"model": "cerdit"}).status == 400
        undelivered = "model_exporter_retrain_request_undelivered_seconds"
        assert list(served.samples(undelivered)) == [f'{undelivered}{{model="credit"}}']
        eventually(lambda: served.get("/v1/retrain-requests").json["requests"][0]["status"] == "delivered")
        assert not served.samples(undelivered)
        received = trainer.requests[-1]
        headers = {name.lower(): value for name, value in received["headers"].items()}
        body = msgspec.json.encode(received["events"][0])
        assert is_signed(
            SECRET.encode(), headers["webhook-id"], headers["webhook-timestamp"], body, headers["webhook-signature"]
        )
        assert received["path"] == "/"
        assert served.get("/v1/retrain-requests?model=other").json == {"requests": []}
        assert SECRET not in served.log.read_text()
        trainer.close()


def test_a_request_names_the_slices_of_the_corrections(tmp_path: Path) -> None:
    """The trainer reads what the corrections have in common, as in the answer of the API."""
    trainer = Trainer()
    (tmp_path / "secret").write_text(SECRET)
    write_model(tmp_path, retrain={"url": trainer.url, "secret_file": "secret"})
    with serving(tmp_path) as served:
        sent = events(COUNT, confidence=0.95)
        assert served.post("/v1/predictions", sent).status == 202
        correct(served, [event for event in sent if is_planted(event)], users=6)
        found = eventually(lambda: served.get("/v1/slices?model=flights").json["slices"])
        assert served.post("/v1/retrain-requests", {"model": "flights"}).status == 201
        (message,) = eventually(lambda: trainer.requests)[0]["events"]
        (one,) = message["data"]["slices"]
        assert one == found[0]
        assert one["sentence"].startswith("100% of the corrections are where carrier is MQ and dest is ATL")
        trainer.close()


def test_without_the_key_nothing_is_asked(served: Served) -> None:
    """The response says what is missing."""
    answer = served.post("/v1/retrain-requests", {"model": "credit"})
    assert (answer.status, answer.json["detail"]) == (
        409,
        "retrain is not configured: exporter.yml must name the trainer's URL",
    )
