"""The log lines about clients: who is named, what is left out, and how many lines there can be."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.servers import Served, serving, write_config

from exporter.commands.common import LogFormatter
from exporter.errors import EventError
from exporter.metrics.exposition import ExporterMetrics
from exporter.server import ingest
from exporter.server.ingest import MAX_CLIENTS, MAX_LINES, ClientLog, set_client
from exporter.wire.events import RejectedEvent


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def clients(registry: CollectorRegistry) -> ClientLog:
    return ClientLog(ExporterMetrics(registry))


ERROR = EventError("/confidence", "expected a number of at most 1, got 7", "out_of_range")


def test_a_client_has_one_line_a_minute(
    clients: ClientLog, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first refusal is logged at once, the next after a minute with the number since then; all are counted."""
    set_client("10.0.0.7", "scorer")
    for _ in range(10):
        clients.reject(ERROR)
    line = 'refused %s of client "scorer" at 10.0.0.7: out_of_range at "/confidence": expected a number of at most 1'
    assert caplog.messages == [line % "1 event"]
    monkeypatch.setattr(ingest, "CLIENT_SECONDS", 0.0)
    set_client("10.0.0.8")
    clients.reject(ERROR)
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    set_client("10.0.0.7", "scorer")
    clients.reject_events([RejectedEvent(n, "", "the body is not JSON", "malformed") for n in range(3)])
    assert caplog.messages[2] == 'refused 12 events of client "scorer" at 10.0.0.7: malformed: the body is not JSON'
    assert registry.get_sample_value("model_exporter_events_rejected_total", {"reason": "out_of_range"}) == 11
    assert registry.get_sample_value("model_exporter_events_rejected_total", {"reason": "malformed"}) == 3


def test_many_clients_have_bounded_lines_and_memory(clients: ClientLog, caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of addresses take neither more lines in a minute nor more memory than some of them."""
    memory = []
    tracemalloc.start()
    for number in range(5 * MAX_CLIENTS):
        set_client(f"10.0.{number // 250}.{number % 250}")
        clients.reject(ERROR)
        clients.warn("unknown_member", "detail")
        memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(caplog.messages) == MAX_LINES
    assert memory[-1] < 1.6 * memory[2 * MAX_CLIENTS]


def test_a_warning_is_logged_once_for_each_client(
    clients: ClientLog, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Each warning is counted; the log has it once for each client and reason."""
    for address in ("10.0.0.7", "10.0.0.8", "10.0.0.7"):
        set_client(address)
        clients.warn("unknown_member", "one")
        clients.warn("time_off", "two")
    assert len(caplog.messages) == 4
    assert caplog.messages[0] == "client 10.0.0.7: one (logged once for each client)"
    assert registry.get_sample_value("model_exporter_event_warnings_total", {"reason": "time_off"}) == 3


@pytest.mark.parametrize("style", ["logfmt", "json"])
@pytest.mark.parametrize("character", ["\x1b", "\x7f", "\x9b", "\n", "\u2028", "\u202e", "\U000e0041", "\ud800"])
def test_no_character_reaches_a_terminal_unescaped(style: str, character: str) -> None:
    """Control characters, separators, bidirectional marks and surrogates are escaped in both formats."""
    record = logging.LogRecord("exporter.x", logging.WARNING, "", 1, "a%s模型", (character,), None)
    line = LogFormatter(style).format(record)
    assert line.isprintable()
    assert "模型" in line
    value = json.loads(line)["msg"] if style == "json" else json.loads(line.partition("msg=")[2])
    assert value.encode("utf-16", "surrogatepass") == f"a{character}模型".encode("utf-16", "surrogatepass")


ROUTES: dict[str, Any] = {
    "/v1/feedback": {"prediction_id": "r-1", "verdict": "secret-2"},
    "/v1/events": {"event": "contracts", "model": "credit", "value": "secret-2"},
    "/v1/notifications": {"alerts": "secret-2"},
    "/v1/exchanges": {"model": "credit", "code": "secret-2"},
    "/v1/kserve": {"x": "secret-2"},
    "/v1/logs": {"resourceLogs": "secret-2"},
}


def test_refused_events_of_each_route_are_in_the_log(served: Served) -> None:
    """The routes that run in threads name the client, too; each is asked from another address."""
    for number, (path, body) in enumerate(ROUTES.items(), 1):
        connection = HTTPConnection("127.0.0.1", served.port, 10, source_address=(f"127.0.0.1{number}", 0))
        connection.request("POST", path, json.dumps(body))
        assert connection.getresponse().status == 400
        connection.close()
    log = served.log.read_text()
    for number, path in enumerate(ROUTES, 1):
        assert f"refused 1 event of client 127.0.0.1{number}: " in log, path
    assert "secret-2" not in log


def test_a_token_is_named(tmp_path: Path) -> None:
    """With tokens, the log has the name of the client's token, and not the token."""
    write_config(tmp_path)
    token = "t" * 40
    document = [{"name": "scorer", "sha256": hashlib.sha256(token.encode()).hexdigest(), "scopes": ["ingest"]}]
    (tmp_path / "tokens.yml").write_text(json.dumps(document))
    with serving(tmp_path, f"--web.tokens.file={tmp_path / 'tokens.yml'}") as server:
        assert server.post("/v1/events", {}, Authorization=f"Bearer {token}").status == 400
        log = server.log.read_text()
    assert r"of client \"scorer\" at 127.0.0.1: missing_field" in log
    assert token not in log


def test_doubtful_predictions_are_accepted_and_logged_once(served: Served) -> None:
    """An unknown member and a time a day ago or ahead are counted, and told once; the response suggests the member."""
    clear = {"accepted": 1, "rejected": []}
    features = {"model": "credit", "features": {"age": 41}}
    warning = {"pointer": "/features", "detail": 'is not known and is ignored; did you mean "inputs"?'}
    for _ in range(3):
        answer = served.post("/v1/predictions", features)
        assert (answer.status, answer.json) == (202, {**clear, "warnings": [warning]})
    assert served.post("/v1/predictions", {"model": "credit", "trace": "x"}).json == clear
    for hours in (-25, 25, 1, -1, 0):
        moment = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
        assert served.post("/v1/predictions", {"model": "credit", "time": moment}).json == clear
    samples = served.samples("model_exporter_event_warnings_total")
    assert samples == {
        'model_exporter_event_warnings_total{reason="time_off"}': 3,
        'model_exporter_event_warnings_total{reason="unknown_member"}': 4,
    }
    lines = [line for line in served.log.read_text().splitlines() if "once for each client" in line]
    assert [line.count("features") + 2 * line.count("1 days before") for line in lines] == [1, 2]


def test_inputs_that_are_not_in_the_profile_are_named(served: Served) -> None:
    """The response names a few, the log each once, and the drift page the first ones; a flat body is told so."""
    hint = 'is not in the profile and is not counted; did you mean "country"?'
    event = {"model": "credit", "version": "3", "inputs": {"age": 41, "contry": "NL"}}
    for _ in range(150):
        served.post("/v1/predictions", {"model": "credit", "version": "3", "inputs": {"age": 41}})
    assert served.post("/v1/predictions", event).json == {"accepted": 1, "rejected": []}
    while not served.samples().get('model_exporter_unknown_features_total{model="credit"}'):
        pass
    for _ in range(2):
        answer = served.post("/v1/predictions", event)
        assert answer.json["warnings"] == [{"pointer": "/inputs/contry", "detail": hint}]
    many = {f"x/{number:02}": 1 for number in range(30)}
    answer = served.post("/v1/predictions", [event | {"inputs": many}])
    assert [one["pointer"] for one in answer.json["warnings"]] == [f"/inputs/x~1{number:02}" for number in range(5)]
    flat = served.post("/v1/predictions", {"model": "credit", "age": 41})
    detail = 'is ignored: it is an input in the profile, and inputs belong into "inputs"'
    assert flat.json["warnings"] == [{"pointer": "/age", "detail": detail}]
    plain = served.post("/v1/predictions", event | {"inputs": {"age": 41, "country": "NL"}})
    assert plain.json == {"accepted": 1, "rejected": []}
    while served.samples().get('model_exporter_unknown_features_total{model="credit"}') != 33:
        pass
    lines = [line for line in served.log.read_text().splitlines() if "is not in the profile" in line]
    assert len(lines) == 20
    assert "contry" in lines[0]
    page = served.get("/drift?model=credit").text
    assert page.count("is not in the profile and is not counted") == 20
    assert "did you mean &#34;country&#34;?" in page
