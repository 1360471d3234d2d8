"""Who may do what: users, tokens and their scopes, and pages of other sites, against a real server."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml
from playwright.sync_api import Page, sync_playwright
from support.browser import CHROMIUM
from support.servers import CONFIG, Answer, Served, ask, eventually, serving, write_config

from exporter.server.access import SCOPES, USER
from exporter.server.asgi import REFUSAL_SECONDS

PASSWORD = "a password"
ALICE = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
PREDICTION = {"id": "r-1", "model": "credit", "version": "3", "prediction": "yes", "confidence": 0.9}
WORD = {"prediction_id": "r-1", "verdict": "corrected", "label": "no", "user": "u"}
HOOK = {"version": "4", "status": "firing", "alerts": []}


def bearer(token: str) -> str:
    return f"Bearer {token}"


def entry(name: str, *scopes: str) -> dict[str, Any]:
    """Return the entry of a token that is its name backwards."""
    return {"name": name, "sha256": hashlib.sha256(name[::-1].encode()).hexdigest(), "scopes": list(scopes)}


def guarded(folder: Path, *flags: str) -> Served:
    """An exporter with the user alice and one token for each scope, named like it."""
    write_config(folder)
    users = {"basic_auth_users": {"alice": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}}
    (folder / "web.yml").write_text(yaml.safe_dump(users))
    (folder / "tokens.yml").write_text(yaml.safe_dump([entry(f"{scope}er", scope) for scope in SCOPES]))
    files = [f"--web.config.file={folder / 'web.yml'}", f"--web.tokens.file={folder / 'tokens.yml'}"]
    return Served(folder, *files, *flags)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with guarded(tmp_path_factory.mktemp("guarded")).start() as server:
        yield server


def token(scope: str) -> str:
    return bearer(f"{scope}er"[::-1])


QUESTIONS: list[tuple[str, str, Any, str | None]] = [
    ("POST", "/v1/predictions", PREDICTION, "ingest"),
    ("POST", "/v1/predictions?ids=1", PREDICTION, "ingest"),
    ("POST", "/v1/events", {"event": "contracts", "model": "credit"}, "ingest"),
    ("POST", "/v1/notifications", HOOK, "notify"),
    ("POST", "/v1/feedback", WORD, "feedback"),
    ("PATCH", "/v1/corrections/99", {"status": "accepted", "revision": 1}, "review"),
    ("GET", "/v1/corrections", None, "read"),
    ("GET", "/", None, "read"),
    ("HEAD", "/", None, "read"),
    ("GET", "/drift", None, "read"),
    ("GET", "/quality", None, "read"),
    ("GET", "/metrics", None, "read"),
    ("GET", "/static/style.css", None, "read"),
    ("GET", "/-/healthy", None, None),
    ("GET", "/-/ready", None, None),
    ("POST", "/-/reload", b"", USER),
    ("PUT", "/-/reload", b"", USER),
]


@pytest.mark.parametrize(("method", "path", "body", "scope"), QUESTIONS)
def test_each_route_requires_its_scope(server: Served, method: str, path: str, body: Any, scope: str | None) -> None:
    """A user may use every route, a token those of its scope; the response names the missing scope."""

    def asked(**headers: str) -> Answer:
        return ask(server.url + path, body, method, **headers)

    assert asked(Authorization=ALICE).status not in {401, 403, 405, 500}
    for other in SCOPES:
        answer = asked(Authorization=token(other))
        if scope in {None, other}:
            assert answer.status not in {401, 403, 500}
            continue
        assert (answer.status, answer.headers["Content-Type"]) == (403, "application/problem+json")
        if scope == USER:
            assert method == "HEAD" or answer.json["detail"].startswith("only a user with a password may do this")
        elif method != "HEAD":
            assert answer.json["scope"] == scope
            assert answer.json["detail"] == f'the token "{other}er" does not have the scope {scope}; it has {other}'
            assert f'error="insufficient_scope", scope="{scope}"' in answer.headers["WWW-Authenticate"]
    assert asked().status == 401


def test_a_401_names_the_ways_to_authenticate(server: Served) -> None:
    """A 401 offers both schemes, and says whether credentials are missing or not valid."""
    answer = server.post("/v1/predictions", PREDICTION, Authorization=bearer("wrong"))
    assert (answer.status, answer.headers["Content-Type"]) == (401, "application/problem+json")
    challenges = answer.headers.get_all("WWW-Authenticate")  # type: ignore[attr-defined]
    assert challenges == ['Basic realm="model-exporter"', 'Bearer realm="model-exporter"']
    required = "a user with a password or a bearer token is required"
    assert answer.json["detail"] == f"{required}; those in the header Authorization are not valid"
    assert server.post("/v1/predictions", PREDICTION).json["detail"] == required


def test_answers_behind_a_login_are_not_kept(server: Served, shared: Served) -> None:
    """Browsers and proxies store neither pages nor data; files that hold nothing of the models are checked again."""
    for path in ("/", "/metrics", "/v1/corrections", "/v1/dataset?model=credit"):
        assert server.get(path, Authorization=token("read")).headers["Cache-Control"] == "no-store"
    assert server.get("/static/style.css", Authorization=token("read")).headers["Cache-Control"] == "no-cache"
    assert shared.get("/metrics").headers["Cache-Control"] is None


def test_a_flood_without_credentials_is_answered_slowly(server: Served) -> None:
    """Requests behind one another on a connection wait a moment each for their 401."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
        received = b""
        while received.count(b"HTTP/1.1 401 ") < 5:
            received += connection.recv(65536)
    assert time.monotonic() - started >= 5 * REFUSAL_SECONDS


@pytest.mark.parametrize(
    "header",
    [b"", b"Bearer", b"Bearer ", b"Bearer \xff\xfe", b"Basic \xff", b"B", b"\xc3\xa9 x", b"Bearer " + b"x" * 9000],
    ids=lambda header: repr(header[:12]),
)
def test_invalid_authorization_headers_are_401(server: Served, header: bytes) -> None:
    """Any invalid Authorization header is a 401, never a 500."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        head = b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n"
        connection.sendall(head + b"Authorization: " + header + b"\r\n\r\n{}")
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_a_decision_has_the_name_of_its_reviewer(server: Served) -> None:
    """The reviewer is the authenticated user or token, whatever the request's body contains."""
    word = {"model": "credit", "prediction": "yes", "label": "no"}
    correction_id = server.post("/v1/feedback", word, Authorization=token("feedback")).json["id"]

    def decided(revision: int, authorization: str) -> Any:
        body = {"status": "rejected", "revision": revision}
        return ask(f"{server.url}/v1/corrections/{correction_id}", body, "PATCH", Authorization=authorization).json[
            "reviewer"
        ]

    assert decided(1, token("review")) == "reviewer"
    assert decided(2, ALICE) == "alice"


def test_without_users_decisions_have_no_name(shared: Served) -> None:
    """Without authentication anybody can decide, and no name is taken from an unchecked header."""
    correction_id = shared.post("/v1/feedback", {"model": "credit", "prediction": "yes", "label": "no"}).json["id"]
    body = {"status": "rejected", "revision": 1}
    answer = ask(f"{shared.url}/v1/corrections/{correction_id}", body, "PATCH", Authorization=ALICE)
    assert (answer.status, answer.json["reviewer"]) == (200, None)


def test_metrics_can_stay_open(tmp_path: Path) -> None:
    """With --web.open-metrics scrapes and probes need no authentication; everything else does."""
    with guarded(tmp_path, "--web.open-metrics").start() as server:
        assert {server.get(path).status for path in ("/metrics", "/metrics?name[]=x", "/-/healthy", "/-/ready")} == {
            200
        }
        assert server.get("/metrics", Authorization=bearer("old")).status == 200
        closed = ["/", "/v1/corrections", "/-/healthy/", "//metrics", "/-/reload"]
        assert [server.get(path).status for path in closed] == [401] * 5
        assert server.post("/metrics", b"").status == server.post("/-/reload", b"").status == 401


def test_a_reload_adds_and_removes_tokens(tmp_path: Path) -> None:
    """SIGHUP and /-/reload read the tokens again; an invalid file changes nothing."""
    server = guarded(tmp_path).start()
    path = tmp_path / "tokens.yml"
    new = bearer("newcomer"[::-1])
    with server:
        assert server.get("/metrics", Authorization=token("read")).status == 200
        path.write_text(yaml.safe_dump([entry("newcomer", "read", "ingest")]))
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.get("/metrics", Authorization=new).status == 200)
        assert server.get("/metrics", Authorization=token("read")).status == 401
        path.write_text(yaml.safe_dump([entry("newcomer", "reed")]))
        answer = server.post("/-/reload", b"", Authorization=ALICE)
        assert answer.status == 500
        assert answer.json["detail"].endswith(
            'tokens.yml: [0].scopes[0]: "reed" is not a valid scope; did you mean "read"?'
        )
        assert server.post("/v1/predictions", PREDICTION, Authorization=new).status == 202
        path.write_text("")
        assert server.post("/-/reload", b"", Authorization=ALICE).status == 200
        assert server.get("/metrics", Authorization=new).status == 401
        assert not any(word in server.log.read_text() for word in ("remocwen", PASSWORD))


def test_a_token_may_have_a_rate_limit(tmp_path: Path) -> None:
    """Events above a token's rate are a 429 with Retry-After and are counted; other tokens are not affected."""
    write_config(tmp_path)
    path = tmp_path / "tokens.yml"
    rates = {"slow": {"rate": 0.1}, "many": {"rate": 5}, "free": {}}
    path.write_text(yaml.safe_dump([{**entry(name, "ingest", "read"), **rate} for name, rate in rates.items()]))
    server = Served(tmp_path, f"--web.tokens.file={path}").start()
    slow, many, free = (bearer(name[::-1]) for name in rates)
    with server:
        assert server.post("/v1/predictions", PREDICTION, Authorization=slow).status == 202
        refused = [server.post("/v1/predictions", PREDICTION, Authorization=slow), server.get("/", Authorization=slow)]
        assert [answer.status for answer in refused] == [429, 429]
        assert refused[0].json["detail"] == 'the token "slow" may send 0.1 events a second'
        assert 1 <= int(refused[0].headers["Retry-After"]) <= 10
        assert [server.post("/v1/predictions", PREDICTION, Authorization=free).status for _ in range(20)] == [202] * 20
        metrics = server.get("/metrics", Authorization=free).text
        assert 'model_exporter_events_rejected_total{reason="rate_limited"} 2.0' in metrics
        key = {"Idempotency_Key": "one"}  # that of each token is another one
        assert server.post("/v1/predictions", PREDICTION, Authorization=free, **key).json["accepted"] == 1
        assert server.post("/v1/predictions", [PREDICTION] * 100, Authorization=many, **key).json["accepted"] == 100
        assert 15 <= int(server.get("/", Authorization=many).headers["Retry-After"]) <= 20


def test_the_command_creates_a_token(tmp_path: Path) -> None:
    """The printed entry, put into the tokens file, authenticates the printed token."""
    write_config(tmp_path)
    path = tmp_path / "tokens.yml"
    tokens = []
    for name, scope in (('bäd: "name" #1', "ingest"), ("prometheus", "read")):
        with path.open("a") as file:
            command = [sys.executable, "-m", "exporter.cli", "token", name, f"--scope={scope}"]
            tokens.append(subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, check=True).stderr)
    scorer, prometheus = (bearer(line.rsplit(maxsplit=1)[1]) for line in tokens)
    assert scorer.split()[1] not in path.read_text()
    with serving(tmp_path, f"--web.tokens.file={path}") as server:
        assert server.post("/v1/predictions", PREDICTION, Authorization=scorer).status == 202
        assert server.get("/metrics", Authorization=prometheus).status == 200
        refused = server.get("/metrics", Authorization=scorer)
        assert (refused.status, refused.json["scope"]) == (403, "read")
        assert server.get("/").headers["WWW-Authenticate"] == 'Bearer realm="model-exporter"'


# --- pages of other sites ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://HOST"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://public.example"}, True),  # a proxy changed Host
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "http://HOST"}, True),
        ({"Origin": "https://HOST"}, True),  # TLS ended at a proxy
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://HOST"}, False),
        ({"Sec-Fetch-Site": ""}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://127.0.0.1"}, False),
        ({"Origin": "http://HOST.evil.example"}, False),
        ({"Origin": "http://HOST@evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Origin": "http://evil.example", "X-Forwarded-Host": "evil.example"}, False),
    ],
)
@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/feedback", "/-/reload", "/nothing"])
def test_pages_of_other_origins_cannot_change_anything(
    shared: Served, path: str, headers: dict[str, str], taken: bool
) -> None:
    """Requests of another origin's page are refused on every route, whatever the content type."""
    body = {"/v1/predictions": PREDICTION, "/v1/feedback": WORD}.get(path, b"")
    own = {name: value.replace("HOST", f"127.0.0.1:{shared.port}") for name, value in headers.items()}
    answer = shared.post(path, body, **{"Content-Type": "text/plain", **own})
    if taken:
        assert answer.status in {200, 201, 202, 404}
    else:
        assert answer.status == 403
        assert "a page of another origin (" in answer.json["detail"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:9877", 421),
        ("127.0.0.1.evil.example", 421),
        ("x." * 200, 421),
        ("[evil", 421),
        ("localhost", 200),
        ("[::1]:9877", 200),
        ("exporter:9877", 200),
        ("model-exporter.monitoring.svc:9877", 200),
    ],
)
def test_without_authentication_only_own_hosts_are_answered(shared: Served, host: str, status: int) -> None:
    """A page of a domain whose address became the exporter's (DNS rebinding) reads nothing and changes nothing."""
    assert shared.get("/-/healthy", Host=host).status == status
    assert shared.post("/v1/predictions", PREDICTION, Host=host).status == (202 if status == 200 else status)


def test_with_authentication_any_host_is_answered(server: Served) -> None:
    """A page of another domain does not know the password."""
    assert server.get("/-/healthy", Host="evil.example").status == 401
    assert server.get("/-/healthy", Host="evil.example", Authorization=ALICE).status == 200


def test_pages_of_other_origins_may_link_to_the_exporter(server: Served) -> None:
    """Links from other origins work: safe requests are answered if the caller may send them."""
    headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert server.get("/drift", Authorization=ALICE, **headers).status == 200
    assert server.post("/v1/feedback", WORD, Authorization=ALICE, **headers).status == 403
    assert server.post("/v1/feedback", WORD, **headers).status == 403  # not 401: no window asks for a password


FORM = """() => {
  const form = document.createElement("form");
  form.method = "post"; form.enctype = "text/plain"; form.action = ACTION;
  const field = document.createElement("input");
  field.name = '{"model": "credit", "prediction": "yes", "comment": "'; field.value = '", "label": "no"}';
  form.append(field); document.body.append(form); form.submit();
}"""


@contextlib.contextmanager
def site() -> Iterator[int]:
    """The port of a site with an empty page."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>A site</title>")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield listening.server_port
        finally:
            listening.shutdown()
            thread.join()


def submitted(page: Page, target: str) -> int:
    """Return the status that a browser gets for feedback sent by a form from the current page."""
    with page.expect_navigation() as navigation:
        page.evaluate(FORM.replace("ACTION", f'"{target}/v1/feedback"'))
    return int(navigation.value.status)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["127.0.0.1", "exporter.test"])
def test_a_browser_is_refused_from_another_origin_only(served: Served, name: str) -> None:
    """Chromium may send a form from the exporter's page only, with Sec-Fetch-Site (localhost) and without."""
    own = f"http://{name}:{served.port}"
    write_config(served.folder, {**CONFIG, "external_url": own})
    assert served.post("/-/reload", b"").status == 200
    options = ["--no-sandbox", "--host-resolver-rules=MAP *.test 127.0.0.1"]
    with site() as port, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        page = browser.new_page()
        page.goto(f"http://evil.test:{port}/")
        assert submitted(page, own) == 403
        assert served.get("/v1/corrections").json["corrections"] == []
        page.goto(own)
        assert submitted(page, own) == 201
        assert len(served.get("/v1/corrections").json["corrections"]) == 1
        browser.close()
