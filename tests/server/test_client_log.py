"""The log lines about clients: who is named, what is left out, and how many lines there can be."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from support.reviewers import in_parallel
from support.servers import CONFIG, Served, eventually, serving, write_config

from exporter.commands.common import LogFormatter
from exporter.errors import EventError
from exporter.metrics.exposition import ExporterMetrics
from exporter.server import access, ingest
from exporter.server.access import Sender, password_user, sender
from exporter.server.ingest import MAX_CLIENTS, MAX_LINES, ONE_ACCEPTED, ClientLog
from exporter.server.serve import log_access
from exporter.version import version
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
    sender.set(Sender("10.0.0.7", password_user("scorer")))
    for _ in range(10):
        clients.reject(ERROR)
    line = 'refused %s of client "scorer" at 10.0.0.7: out_of_range at "/confidence": expected a number of at most 1'
    assert caplog.messages == [line % "1 event"]
    monkeypatch.setattr(ingest, "CLIENT_SECONDS", 0.0)
    sender.set(Sender("10.0.0.8"))
    clients.reject(ERROR)
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    sender.set(Sender("10.0.0.7", password_user("scorer")))
    clients.reject_events([RejectedEvent(n, "", "the body is not JSON", "malformed") for n in range(3)])
    assert caplog.messages[2] == 'refused 12 events of client "scorer" at 10.0.0.7: malformed: the body is not JSON'
    assert registry.get_sample_value("model_exporter_events_rejected_total", {"reason": "out_of_range"}) == 11
    assert registry.get_sample_value("model_exporter_events_rejected_total", {"reason": "malformed"}) == 3


def test_many_clients_have_bounded_lines_and_memory(clients: ClientLog, caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of addresses take neither more lines in a minute nor more memory than some of them."""
    memory = []
    tracemalloc.start()
    for number in range(5 * MAX_CLIENTS):
        sender.set(Sender(f"10.0.{number // 250}.{number % 250}"))
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
        sender.set(Sender(address))
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
    assert [line.count("features") + 2 * line.count("1 day before") for line in lines] == [1, 2]
    answers = [{"model": "credit", "prediction": n % 2, "confidence": n % 2 / 2 + 0.2} for n in range(40)]
    eventually(lambda: "/confidence" in str(served.post("/v1/predictions", answers).json))


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


ALICE = "basic_auth_users: {alice: $2b$04$PiLWnHMMQbsDeSqZUiBwWeTWWUSUqMIvOmhBVSKa0ckBZUZKjRvD6}\n"
TOKENS = f"""
- {{name: scorer, scopes: [ingest, feedback], sha256: {"a" * 64}}}
- {{name: prometheus, scopes: [read], sha256: {"b" * 64}}}
"""


def lines(server: Served) -> list[tuple[str, str]]:
    """The level and the message of each line of the log."""
    pattern = r'level=(\w+) component=\S+ msg="?(.*?)"?$'
    return [(level, text.replace('\\"', '"')) for level, text in re.findall(pattern, server.log.read_text(), re.M)]


def test_a_start_says_what_runs(tmp_path: Path) -> None:
    """Version, configuration, a new database, each model with its profile, the address, and that anyone may ask."""
    write_config(tmp_path, {**CONFIG, "store": {"url": "sqlite:///data/store.db", "retention": "7d", "archive": "old"}})
    with serving(tmp_path) as server:
        logged = lines(server)
        database = f"sqlite:///{tmp_path}/data/store.db"
        expected = [
            ("info", rf"starting model-exporter {re.escape(version())} with Python 3\.\d+\.\d+ "
             rf"as process {server.process.pid}, configuration {tmp_path}/exporter.yml"),
            ("info", rf"{database} has no tables yet: creating them, with schema \d+"),
            ("info", rf"database {database}, predictions are kept for 7d and then archived in {tmp_path}/old, "
             "inputs all"),
            ("info", rf"model 'credit': profile {tmp_path}/credit.json \(5 inputs, 2000 rows\); windows 5m, 1h"),
            ("warn", "model .* has no profile: its inputs are not monitored"),
            ("info", f"listening on {server.url}"),
            ("info", "there are neither users nor tokens, so each client may read and write everything"),
        ]  # fmt: skip
        assert len(logged) == len(expected), logged
        for (level, text), (expected_level, pattern) in zip(logged, expected, strict=True):
            assert level == expected_level, text
            assert re.fullmatch(pattern, text), (text, pattern)
        server.post("/v1/predictions", {"model": "credit", "version": "3", "inputs": {"age": 41}})
        eventually(lambda: server.samples("model_attempts_total"))
        server.stop()
        server.start()
        assert ("info", "versions whose windows were restored from the database: 1") in lines(server)
        assert sum("has no tables yet" in text for _, text in lines(server)) == 1


def test_an_open_exporter_on_the_network_is_warned_of(tmp_path: Path) -> None:
    """A server on every address without users and tokens logs a warning that says what to set."""
    write_config(tmp_path)
    server = Served(tmp_path)
    server.flags = (f"--web.listen-address=0.0.0.0:{server.port}",)
    server.start()
    server.stop()
    assert ("warn", "anyone who can reach any address of this machine may read and write everything, because there are "
            "neither users nor tokens: set --web.config.file or --web.tokens.file, or listen on 127.0.0.1"
            ) in lines(server)  # fmt: skip


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "192.0.2.1", "0.0.0.0", "::", "fe80::1%eth0"])
@pytest.mark.parametrize(
    ("users", "tokens", "open_metrics", "expected"),
    [
        ("", None, False, None),
        (ALICE, None, False, "users may do everything: alice"),
        ("", "[]", False, "no token is valid"),
        (
            ALICE,
            TOKENS,
            True,
            "users may do everything: alice; tokens may do what their scopes allow: prometheus (read), "
            "scorer (feedback, ingest); anyone may read /metrics and the probes",
        ),
    ],
)
def test_who_may_send_requests(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    host: str,
    users: str,
    tokens: str | None,
    open_metrics: bool,
    expected: str | None,
) -> None:
    """Users and tokens are named with what they may do; a warning appears only beyond loopback and without either."""
    caplog.set_level("INFO", "exporter")
    (tmp_path / "web.yml").write_text(users)
    (tmp_path / "tokens.yml").write_text(tokens or "")
    config = access.load(tmp_path / "web.yml", tmp_path / "tokens.yml" if tokens else None, open_metrics)
    log_access(config, host)
    (record,) = caplog.records
    if expected is not None:
        assert (record.levelname, record.getMessage()) == ("INFO", expected)
    else:
        assert record.levelname == ("INFO" if host in {"127.0.0.1", "::1"} else "WARNING")


def test_a_request_waits_for_its_own_key_alone(clients: ClientLog) -> None:
    """Slow requests of one sender with other keys go on at the same time."""
    cache, begun = ingest.IdempotencyCache(clients), time.monotonic()
    in_parallel(*[lambda k=str(n): cache.once("labels", k, lambda: time.sleep(0.3) or ONE_ACCEPTED) for n in range(9)])
    assert time.monotonic() - begun < 2
