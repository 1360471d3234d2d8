"""The proxy in its own process: between real clients, real upstreams and a real exporter, and what goes wrong there."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import http.server
import json
import os
import re
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import certificate
from support.paths import ROOT
from support.processes import ForkedCommand, run_command
from support.servers import Answer, Served, ask, eventually, free_port

ROWS = {"inputs": [
    {"name": "age", "shape": [2], "datatype": "FP32", "data": [41, 50]},
    {"name": "country", "shape": [2], "datatype": "BYTES", "data": ["NL", "DE"]},
]}  # fmt: skip
BODY = json.dumps(ROWS).encode()
INFERENCE = b"POST /v2/models/credit/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
RESPONSE = {"model_name": "credit", "model_version": "3",
        "outputs": [{"name": "predict", "shape": [2], "datatype": "BYTES", "data": ["yes", "no"]}]}  # fmt: skip


class Proxied:
    """A proxy in its own process."""

    def __init__(
        self, folder: Path, upstream: int | str, *flags: str, exporter: str = "http://127.0.0.1:1", files: int = 1024
    ) -> None:
        self.port, self.web = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "proxy.log"
        url = f"http://127.0.0.1:{upstream}" if isinstance(upstream, int) else upstream
        command = ["proxy", f"--upstream={url}", f"--exporter={exporter}"]
        command += [f"--listen-address=127.0.0.1:{self.port}", f"--web.listen-address=127.0.0.1:{self.web}", *flags]
        self.process = ForkedCommand(command, self.log, files=files)
        eventually(self._there)

    def _there(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            return ask(f"http://127.0.0.1:{self.web}/-/ready").status == 200
        return False

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=40)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def raw(self, sent: bytes) -> bytes:
        """What comes back for some bytes until the connection ends."""
        with self.connect() as connection:
            connection.sendall(sent)
            return everything(connection)

    def samples(self) -> dict[str, float]:
        lines = ask(f"http://127.0.0.1:{self.web}/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("model_proxy_"))
        return {series.removeprefix("model_proxy_"): float(value) for series, value in pairs}

    def sample(self, series: str) -> float:
        return self.samples().get(series, 0.0)


def everything(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


def until(connection: socket.socket, end: bytes) -> bytes:
    """Bytes up to and with some that must come; nothing where the connection ends instead of them."""
    received = b""
    while not received.endswith(end):
        part = connection.recv(1 if b"\r\n\r\n" not in received else 65536)
        if not (part or received):
            return b""
        assert part, received
        received += part
    return received


class Scripted:
    """An upstream that does to each connection what a test says, and remembers what went wrong there."""

    def __init__(self, script: Callable[[socket.socket], None]) -> None:
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.errors: list[BaseException] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                connection.settimeout(15)
                threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with connection:
            try:
                self._script(connection)
            except OSError:
                pass
            except BaseException as error:  # an assertion of the test's
                self.errors.append(error)

    def close(self) -> None:
        self._listener.close()
        assert not self.errors, self.errors


Start = Callable[..., Proxied]


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Start]:
    """Starts proxies in front of a port, a script or a URL."""
    running: list[Proxied] = []
    scripts: list[Scripted] = []

    def start(upstream: Any, *flags: str, **settings: Any) -> Proxied:
        if callable(upstream):
            scripts.append(Scripted(upstream))
            upstream = scripts[-1].port
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(Proxied(folder, upstream, *flags, **settings))
        return running[-1]

    yield start
    for proxy in running:
        assert proxy.stop() == 0, proxy.log.read_text()
        assert "Traceback" not in proxy.log.read_text(), proxy.log.read_text()
    for script in scripts:
        script.close()


class Models(http.server.BaseHTTPRequestHandler):
    """A model server: Open Inference Protocol 2 and 1, MLflow, and a path that fails."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = 200, {}
        if self.path.partition("?")[0].endswith("/infer"):
            answer = {**RESPONSE, "id": body.get("id", "none")}
        elif self.path.endswith(":predict"):
            answer = {"predictions": ["yes"] * len(body["instances"])}
        elif self.path == "/invocations":
            answer = {"predictions": ["no"]}
        if "fail" in body.get("parameters", {}):
            status, answer = 500, {"error": "out of memory"}
        packed = json.dumps(answer).encode()
        self.send_response(status)
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            packed = gzip.compress(packed)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", "application/json")
        if self.path.endswith(":predict"):
            self.send_header("X-Request-Id", "by-protocol-1")
        self.send_header("Content-Length", str(len(packed)))
        self.end_headers()
        self.wfile.write(packed)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"alive")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def models() -> Iterator[int]:
    """The port of a model server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def counted(server: Served, code: int, version: str = r"\w+") -> float:
    """Requests to the model so far that ended so, of a version or of all."""
    series = rf'model_requests_total\{{model="credit",version="{version}",code="{code}"\}}'
    samples = server.samples("model_requests_total").items()
    return sum(value for name, value in samples if re.fullmatch(series, name))


def head_of(connection: socket.socket) -> bytes:
    return until(connection, b"\r\n\r\n")


def answer(connection: socket.socket, body: bytes = b"ok", more: bytes = b"") -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (more, len(body), body))


# --- what the exporter learns ------------------------------------------------------------------


def test_proxied_requests_become_predictions(served: Served, models: int, proxied: Start) -> None:
    """Requests of every known format give rows, models, versions and codes; feedback finds them."""
    proxy = proxied(models, exporter=served.url)
    first = ask(f"{proxy.url}/v2/models/credit/infer", ROWS, X_Request_Id="r-17")
    assert (first.status, first.json["outputs"], first.headers["X-Request-Id"]) == (200, RESPONSE["outputs"], "r-17")
    named = ask(f"{proxy.url}/v2/models/credit/versions/8/infer", {**ROWS, "id": "own"}, Accept_Encoding="gzip")
    assert gzip.decompress(named.body)
    made = ask(
        f"{proxy.url}/v1/models/credit:predict", {"instances": [{"age": 30, "country": "FR"}]}, X_Request_Id="made"
    )
    ask(f"{proxy.url}/v2/models/credit/infer", {**ROWS, "parameters": {"fail": True}})
    assert ask(f"{proxy.url}/healthz").text == "alive"
    assert proxy.sample("records_total") == 4
    eventually(lambda: proxy.sample("records_sent_total") == 4)
    samples = served.samples("model_requests_total", "model_exporter_events_total")
    assert samples['model_requests_total{model="credit",version="3",code="200"}'] == 2
    assert samples['model_requests_total{model="credit",version="8",code="200"}'] == 2
    assert samples['model_requests_total{model="credit",version="unknown",code="200"}'] == 1
    assert samples['model_requests_total{model="credit",version="8",code="500"}'] == 2  # served last
    assert samples['model_exporter_events_total{source="exchanges"}'] == 7
    means = served.samples("model_feature_mean")
    assert means['model_feature_mean{model="credit",version="3",feature="age",window="5m"}'] == 45.5
    for name in ("r-17-1", "own-0", made.headers["X-Request-Id"], "by-protocol-1"):
        feedback = {"prediction_id": name, "verdict": "corrected", "label": "no"}
        assert eventually(lambda feedback=feedback: served.post("/v1/feedback", feedback).json["joined"])


def test_options_override_model_and_version(shared: Served, models: int, proxied: Start) -> None:
    """`--model` and `--version` take precedence; with `--record.path` other paths are recorded instead."""
    before = counted(shared, 200)
    proxy = proxied(models, "--model=credit", "--version=7", exporter=shared.url)
    frame = {"dataframe_split": {"columns": ["age", "country"], "data": [[41, "NL"]]}}
    assert ask(f"{proxy.url}/invocations", frame).json == {"predictions": ["no"]}
    ask(f"{proxy.url}/v2/models/else/infer?x=1", ROWS)
    with_path = proxied(models, "--model=credit", "--record.path=/score/*", exporter=shared.url)
    ask(f"{with_path.url}/score/7", {"instances": [1]})
    ask(f"{with_path.url}/invocations", frame)
    for instance, count in ((proxy, 2), (with_path, 1)):
        eventually(lambda instance=instance, count=count: instance.sample("records_sent_total") == count)
        assert instance.sample("records_total") == count
    eventually(lambda: counted(shared, 200, "7") == 3)
    eventually(lambda: counted(shared, 200) == before + 4)
    nameless = proxied(models, exporter=shared.url)
    ask(f"{nameless.url}/invocations", frame)
    assert nameless.samples()["unnamed_total"] == 1
    assert nameless.samples()["records_total"] == 0


def test_large_and_unknown_bodies_are_counted_without_inputs(shared: Served, models: int, proxied: Start) -> None:
    """For a body above the limit, an image and an unknown format the request counts, without its inputs."""
    refused = "model_exporter_events_rejected_total"
    before = shared.samples(refused)[f'{refused}{{reason="missing_field"}}']
    proxy = proxied(models, "--model=credit", "--version=wide", exporter=shared.url)
    wide = {"instances": [{"age": 41, "text": "x" * 2**20}]}
    assert ask(f"{proxy.url}/v1/models/credit:predict", wide).json == {"predictions": ["yes"]}
    assert ask(f"{proxy.url}/invocations", {"instances": [1]}, Content_Type="image/png").status == 200
    assert ask(f"{proxy.url}/else/v2/models/credit/infer", {"nothing": "known"}).status == 200
    eventually(lambda: proxy.sample("records_sent_total") == 3)
    assert proxy.sample('bodies_left_out_total{reason="too_large"}') == 1
    assert proxy.sample('bodies_left_out_total{reason="type"}') == 1
    eventually(lambda: proxy.sample("copies_bytes") == 0)
    eventually(lambda: counted(shared, 200, "wide") == 3)
    assert shared.samples(refused)[f'{refused}{{reason="missing_field"}}'] == before + 1


@pytest.mark.parametrize("trouble", ["away", "hanging", "401", "503"])
def test_a_failing_exporter_does_not_affect_clients(models: int, proxied: Start, trouble: str) -> None:
    """Requests pass at once whatever the exporter does; lost records are counted."""

    def bad(connection: socket.socket) -> None:
        if trouble == "hanging":
            everything(connection)
        while head := head_of(connection):
            length = int(re.search(rb"Content-Length: (\d+)", head)[1])  # type: ignore[index]
            while length:
                length -= len(connection.recv(length))
            connection.sendall(b"HTTP/1.1 %b No\r\nContent-Length: 0\r\n\r\n" % trouble.encode())

    exporter = Scripted(bad)
    port = free_port() if trouble == "away" else exporter.port
    proxy = proxied(models, exporter=f"http://127.0.0.1:{port}")
    for _ in range(50):
        assert ask(f"{proxy.url}/v2/models/credit/infer", ROWS).json["outputs"] == RESPONSE["outputs"]
    eventually(lambda: proxy.sample('requests_total{code="200"}') == 50)
    if trouble == "401":
        eventually(lambda: proxy.sample("records_dropped_total") == 50)
    assert proxy.sample("records_sent_total") == 0
    assert proxy.stop() == 0
    assert "0 records sent, 50 dropped" in proxy.log.read_text()
    exporter.close()


# --- what passes -------------------------------------------------------------------------------


def test_requests_and_responses_are_unchanged(proxied: Start) -> None:
    """Method, target and headers stay in their order; hop-by-hop headers go, Via, X-Forwarded-* and an id are added."""
    seen: list[bytes] = []

    def script(connection: socket.socket) -> None:
        seen.append(head_of(connection) + connection.recv(5))
        answer(connection, b"what?", b"Set-Cookie: a=1\r\nX-B: \xe9\r\nKeep-Alive: 5\r\nConnection: X-Own\r\n"
                                     b"X-Own: 1\r\nSet-Cookie: b=2\r\n")  # fmt: skip

    proxy = proxied(script)
    sent = (
        b"REPORT /a%2Fb//c?q=%20&r HTTP/1.1\r\nHost: models.example\r\nX-One: 1\r\nConnection: keep-alive, X-Hop\r\n"
        b"X-Hop: gone\r\nKeep-Alive: 9\r\nTE: trailers\r\nX-One: 2\r\nAuthorization: Bearer t\r\n"
        b"X-Forwarded-For: 10.0.0.9\r\nContent-Length: 5\r\nX-Request-Id: r-1\r\n\r\nhello"
    )
    with proxy.connect() as connection:
        connection.sendall(sent)
        got = until(connection, b"what?")
    line, *fields = seen[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert line == b"REPORT /a%2Fb//c?q=%20&r HTTP/1.1"
    assert fields[:5] == [
        b"Host: models.example", b"X-One: 1", b"X-One: 2", b"Authorization: Bearer t", b"Content-Length: 5",
    ]  # fmt: skip
    assert re.fullmatch(rb"Via: 1\.1 model-exporter-[0-9a-f]{8}", fields[-1])
    assert sorted(fields[5:-1]) == [
        b"X-Forwarded-For: 10.0.0.9, 127.0.0.1", b"X-Forwarded-Host: models.example", b"X-Forwarded-Proto: http",
        b"X-Request-Id: r-1",
    ]  # fmt: skip
    assert seen[0].endswith(b"hello")
    assert got == (
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-B: \xc3\xa9\r\nSet-Cookie: b=2\r\nContent-Length: 5\r\n"
        b"X-Request-Id: r-1\r\n\r\nwhat?"
    )


def forwarded(proxied: Start, *parts: bytes) -> tuple[bytes, list[bytes]]:
    """Send the parts of a request in turn; return the request line and the headers that the model server gets."""
    seen: list[bytes] = []

    def script(connection: socket.socket) -> None:
        seen.append(head_of(connection))
        if b"chunked" in seen[-1]:
            seen[-1] += until(connection, b"0\r\n\r\n")
        answer(connection)

    proxy = proxied(script)
    with proxy.connect() as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.1)
        until(connection, b"ok")
    line, *fields = seen[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert b"evil" not in seen[0]
    return line, fields


@pytest.mark.parametrize("name", [b"Host", b"Authorization", b"X-Forwarded-For", b"X-Request-Id", b"X-Own"])
@pytest.mark.parametrize("together", [True, False])
def test_trailers_are_not_forwarded(proxied: Start, name: bytes, together: bool) -> None:
    """No field after the body becomes a header or a trailer of the forwarded request."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    trailer = b"0\r\n%b: evil\r\n\r\n" % name
    _, fields = forwarded(proxied, *([head + trailer] if together else [head, trailer]))
    assert b"Host: a" in fields


_KEPT = [b"X-Forwarded-Proto: https", b"X-Forwarded-Host: public", b"X-Forwarded-Port: 443", b"Forwarded: for=a"]
_NAMES = b", ".join(field.partition(b":")[0] for field in _KEPT)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"X_Forwarded_For: evil\r\nX-Forwarded_Prefix: evil\r\nx_request_id: evil\r\nContent_Length: evil\r\n"
         b"Transfer_Encoding: evil\r\nX_User: evil\r\nX-User: ada\r\nX_Own: 1",
         {b"X-User: ada", b"X_Own: 1", b"X-Forwarded-For: 127.0.0.1"}),
        (b"Connection: X-Hop, %b\r\nX-Hop: evil\r\n%b\r\nX-Forwarded-For: 10.0.0.9" % (_NAMES, b"\r\n".join(_KEPT)),
         {*_KEPT, b"X-Forwarded-For: 10.0.0.9, 127.0.0.1"}),
    ],
    ids=["underscores", "Connection"],
)  # fmt: skip
def test_headers_of_a_client_do_not_replace_or_remove_others(proxied: Start, sent: bytes, expected: set[bytes]) -> None:
    """WSGI servers take X_A for X-A; X-Forwarded-* and the like pass even if Connection names them."""
    _, fields = forwarded(proxied, b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % sent)
    assert expected <= set(fields)


@pytest.mark.parametrize(
    ("target", "line", "host"),
    [
        (b"http://models.example:81/a?b", b"GET /a?b HTTP/1.1", b"models.example:81"),
        (b"HTTP://user:secret@models.example", b"GET / HTTP/1.1", b"models.example"),
        (b"http://[::1]:80?b", b"GET /?b HTTP/1.1", b"[::1]:80"),
        (b"/a?u=http://evi.l/", b"GET /a?u=http://evi.l/ HTTP/1.1", b"a"),
    ],
)
def test_the_host_of_a_url_replaces_the_header(proxied: Start, target: bytes, line: bytes, host: bytes) -> None:
    """RFC 9112, section 3.2.2: both names could otherwise lead to different rules."""
    got, fields = forwarded(proxied, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)
    assert got == line
    assert fields.count(b"Host: " + host) == fields.count(b"X-Forwarded-Host: " + host) == 1


def test_the_request_id_is_the_clients_else_the_model_servers(proxied: Start) -> None:
    """An identifier is made where none or an invalid one came from either."""

    def script(connection: socket.socket) -> None:
        while head := head_of(connection):
            header = b"X-Request-ID: mine\r\n" if b"GET /own" in head else b""
            answer(connection, re.search(rb"X-Request-Id: (.*)\r", head)[1], header)  # type: ignore[index]

    proxy = proxied(script)
    made = ask(f"{proxy.url}/a")
    assert made.text == made.headers["X-Request-Id"]
    assert len(made.text) == 36
    long = ask(f"{proxy.url}/a", X_Request_Id="x" * 121)
    assert long.text == long.headers["X-Request-Id"] != "x" * 121
    for sent, expected in ({}, "mine"), ({"X_Request_Id": "r-1"}, "r-1"):
        assert ask(f"{proxy.url}/own", **sent).headers.get_all("X-Request-Id") == [expected]  # type: ignore[attr-defined]


def test_bodies_are_streamed(proxied: Start) -> None:
    """A part of a body passes before the next one is sent, in both directions."""
    parts = threading.Event()

    def script(connection: socket.socket) -> None:
        head_of(connection)
        assert connection.recv(100) == b"3\r\none\r\n"
        parts.set()
        assert connection.recv(100) == b"3\r\ntwo\r\n"
        assert connection.recv(100) == b"0\r\n\r\n"
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in (b"1", b"2"):
            connection.sendall(b"9\r\ndata: %b\n\n\r\n" % number)
            assert parts.wait(60)
            parts.clear()
        connection.sendall(b"0\r\nX-Tail: t\r\n\r\n")

    proxy = proxied(script)
    with proxy.connect() as connection:
        connection.sendall(b"POST /s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        assert parts.wait(60)
        parts.clear()
        connection.sendall(b"3\r\ntwo\r\n")
        time.sleep(0.1)
        connection.sendall(b"0\r\nX-Sum: 7\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        assert until(connection, b"data: 1\n\n\r\n").startswith(head)
        parts.set()
        assert connection.recv(100) == b"9\r\ndata: 2\n\n\r\n"
        parts.set()
        assert until(connection, b"\r\n\r\n") == b"0\r\n\r\n"


def test_a_slow_reader_causes_backpressure(proxied: Start) -> None:
    """What one side sends faster than the other reads waits there, not in the proxy's memory."""
    large, sent, done = 256 * 2**20, [0], threading.Event()

    def script(connection: socket.socket) -> None:
        head = head_of(connection)
        if b"GET" in head:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % large)
            part = bytes(2**20)
            while sent[0] < large:
                connection.sendall(part)
                sent[0] += len(part)
        done.wait(30)

    proxy = proxied(script, "--upstream.timeout=2")
    with proxy.connect() as reader, proxy.connect() as writer:
        reader.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        writer.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % large)
        writer.settimeout(1)
        written = 0
        with contextlib.suppress(TimeoutError):
            while written < large:
                written += writer.send(bytes(2**20))
        assert written < 64 * 2**20
        assert sent[0] < 64 * 2**20
    done.set()
    status = Path(f"/proc/{proxy.process.pid}/status").read_text()
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 150_000  # type: ignore[index]


def test_heads_without_bodies_and_bodies_without_lengths(proxied: Start) -> None:
    """HEAD, 204, 304, interim responses, HTTP/1.0 on either side, and a body that ends with the connection."""

    def script(connection: socket.socket) -> None:
        while head := head_of(connection):
            path = head.split()[1]
            if path == b"/continue":
                assert b"Expect" not in head
                assert connection.recv(4) == b"body"
                answer(connection)
            elif path == b"/hints":
                connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
                answer(connection)
            elif path == b"/head":
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            elif path in {b"/204", b"/304"}:
                connection.sendall(b"HTTP/1.1 %b Nothing\r\nETag: e\r\n\r\n" % path[1:])
            elif path == b"/chunks":
                chunks = b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
            else:
                connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nto the end")
                return

    proxy = proxied(script)
    with proxy.connect() as connection:
        connection.sendall(b"POST /continue HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        assert head_of(connection) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"body")
        assert until(connection, b"ok")
        connection.sendall(b"GET /hints HTTP/1.1\r\nHost: a\r\n\r\n")
        assert until(connection, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")
        connection.sendall(b"HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"Content-Length: 1000\r\n" in head_of(connection)
        for path in (b"204", b"304"):
            connection.sendall(b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            got = head_of(connection)
            assert got.startswith(b"HTTP/1.1 %b Nothing\r\nETag: e\r\n" % path)
            assert b"chunked" not in got
        connection.sendall(b"GET /end HTTP/1.1\r\nHost: a\r\n\r\n")
        assert until(connection, b"0\r\n\r\n").endswith(b"\r\n\r\na\r\nto the end\r\n0\r\n\r\n")
        connection.sendall(b"GET /chunks HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"Connection: close\r\n" in head_of(connection)
        assert everything(connection) == b"3\r\nabc\r\n0\r\n\r\n"
    old = proxy.raw(b"GET /chunks HTTP/1.0\r\n\r\n")
    assert old.endswith(b"\r\n\r\nabc")
    assert b"chunked" not in old
    assert b"keep-alive" not in old
    with proxy.connect() as connection:
        connection.sendall(b"GET /204 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"Connection: keep-alive\r\n" in head_of(connection)


def test_connections_are_persistent_on_both_sides(proxied: Start) -> None:
    """A client sends many requests on one connection, also pipelined; upstream connections are shared."""
    requests: list[bytes] = []

    def script(connection: socket.socket) -> None:
        while head := head_of(connection):
            requests.append(head.split()[1])
            answer(connection, requests[-1])

    upstream = Scripted(script)
    proxy = proxied(upstream.port, "--upstream.idle=60")
    paths = [b"/%d" % number for number in range(300)]
    with proxy.connect() as connection:
        connection.sendall(b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in paths))
        got = until(connection, b"/299")
    assert requests == paths
    assert re.findall(rb"\n(/\d+)", got) == paths
    for path in paths[:20]:
        assert ask(proxy.url + path.decode()).body == path
    assert upstream.connections == 1
    upstream.close()


def test_idle_upstream_connections_are_closed(proxied: Start) -> None:
    """An idle connection is closed before the model server closes it."""

    def script(connection: socket.socket) -> None:
        while head_of(connection):
            answer(connection)

    proxy = proxied(script, "--upstream.idle=0.2")
    assert ask(proxy.url + "/").text == "ok"
    eventually(lambda: proxy.sample('connections{side="upstream"}') == 0)


def test_requests_on_connections_that_the_model_server_closed(proxied: Start) -> None:
    """A request of any method that meets a closed idle connection is sent once more; no client sees the difference."""
    answered = 0

    def script(connection: socket.socket) -> None:
        nonlocal answered
        length = re.search(rb"Content-Length: (\d+)", head_of(connection))
        assert length is not None
        remaining = int(length[1])
        while remaining:
            remaining -= len(connection.recv(min(remaining, 65536)))
        answer(connection)
        answered += 1
        head_of(connection)  # the next request gets no response

    upstream = Scripted(script)
    proxy = proxied(upstream.port, "--upstream.idle=60")
    for size in (1, 100, 1_000_000, 20, 1_000_000, 3):
        assert ask(proxy.url + "/", b"x" * size).text == "ok"
    eventually(lambda: answered == 6)
    assert proxy.sample('upstream_failures_total{reason="closed"}') == 0
    upstream.close()


def test_tls_to_the_model_server(tmp_path: Path, proxied: Start) -> None:
    """A model server behind https is verified, and gets the given host name and path prefix."""
    certificate(tmp_path, "server", names="DNS:localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    seen: list[bytes] = []

    def script(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as safe:
            while head := head_of(safe):
                seen.append(head)
                answer(safe, b"x" * 300_000)

    upstream = Scripted(script)
    url = f"https://localhost:{upstream.port}/deep"
    good = proxied(url, f"--upstream.ca-file={tmp_path / 'server.crt'}", "--upstream.host=models.example")
    assert len(ask(good.url + "/a").body) == len(ask(good.url + "/a").body) == 300_000
    assert seen[0].startswith(b"GET /deep/a HTTP/1.1\r\n")
    assert b"\r\nHost: models.example\r\n" in seen[0]
    doubtful = proxied(url)
    assert ask(doubtful.url + "/a").status == 502
    assert "certificate" in doubtful.log.read_text()
    upstream.close()


# --- what goes wrong ---------------------------------------------------------------------------


def problem(response: Answer) -> tuple[int, str]:
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json["status"] == response.status
    assert response.headers["X-Request-Id"]
    return response.status, response.json["detail"]


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CLOSED = (502, "model-exporter proxy: the model server closed the connection before its response was complete")


@pytest.mark.parametrize(
    ("says", "expected", "reason"),
    [
        (b"", CLOSED, "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", CLOSED, "closed"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", CLOSED, "closed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", (502, "Expected HTTP/"), "malformed"),
        (b"HTTP/1.1 200 OK\r\nA : b\r\nContent-Length: 5\r\n\r\n", (502, "is not valid HTTP"), "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + CHUNKED, (502, "is not valid HTTP"), "malformed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", (502, "transfer codings"), "malformed"),
        (b"HTTP/1.1 101 Over\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", (502, "a status of 101"), "malformed"),
        (b"HTTP/1.1 099 Low\r\n\r\n", (502, "a status of 99"), "malformed"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000, (502, "Got more than 65536 bytes"), "malformed"),
        (None, (504, "model-exporter proxy: the model server did not answer in time"), "timeout"),
    ],
)  # fmt: skip
def test_an_upstream_that_does_not_respond(
    shared: Served, proxied: Start, says: bytes | None, expected: tuple[int, str], reason: str
) -> None:
    """An invalid response is a clear one to the client, counted and recorded, and the next request succeeds."""
    first = threading.Event()

    def script(connection: socket.socket) -> None:
        head_of(connection)
        if not first.is_set():
            first.set()
            if says is None:
                everything(connection)
            else:
                connection.recv(1000)
                connection.sendall(says)
        else:
            answer(connection)

    before = counted(shared, expected[0])
    proxy = proxied(script, f"--upstream.timeout={2 if says is None else 60}", exporter=shared.url)
    status, detail = problem(ask(f"{proxy.url}/v2/models/credit/infer", ROWS))
    assert status == expected[0]
    assert expected[1] in detail
    assert ask(f"{proxy.url}/").text == "ok"
    assert proxy.sample(f'upstream_failures_total{{reason="{reason}"}}') == 1
    eventually(lambda: proxy.sample(f'requests_total{{code="{status}"}}') == 1)
    eventually(lambda: proxy.sample("records_sent_total") == 1)
    eventually(lambda: counted(shared, status) == before + 2)  # rows


def test_an_unreachable_upstream(proxied: Start) -> None:
    """An unreachable upstream is a 502 at once, without its address."""
    port = free_port()
    proxy = proxied(port)
    status, detail = problem(ask(f"{proxy.url}/v1/models/credit:predict", {"instances": [[1]]}))
    assert (status, detail) == (502, "model-exporter proxy: the model server cannot be reached")
    assert proxy.sample('upstream_failures_total{reason="connect"}') == 1
    assert f"{port}" in proxy.log.read_text()


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked", b"X-Until: reset"])
def test_a_truncated_response_is_never_complete(shared: Served, proxied: Start, framing: bytes) -> None:
    """A truncated response ends the client's connection and is recorded with 502."""

    def script(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n4\r\nhalf\r\n")
        if b"reset" in framing:
            time.sleep(0.2)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    before = counted(shared, 502)
    proxy = proxied(script, exporter=shared.url)
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=60)
    connection.request("POST", "/v2/models/credit/infer", json.dumps(ROWS))
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        connection.getresponse().read()
    connection.close()
    eventually(lambda: counted(shared, 502) == before + 2)
    eventually(lambda: proxy.sample('requests_total{code="502"}') == 1)


@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_an_unsolicited_response_is_discarded(proxied: Start, pause: float) -> None:
    """A second response does not reach the next request, on that connection or another."""

    def script(connection: socket.socket) -> None:
        head_of(connection)
        response = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
        connection.sendall(response + b"mine" + (b"" if pause else response + b"evil"))
        if pause:
            time.sleep(pause)
            connection.sendall(response + b"evil")
        everything(connection)

    proxy = proxied(script, "--upstream.idle=60")
    with proxy.connect() as connection:
        for _ in range(5):
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert until(connection, b"mine").count(b"HTTP/1.1 200") == 1
            time.sleep(2 * pause)


NOT_HTTP = "the request is not valid HTTP/1.1"


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, NOT_HTTP),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "HTTP/2, and so gRPC, is not passed on"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n" + CHUNKED + b"0\r\n\r\n", 400, NOT_HTTP),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400, NOT_HTTP),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400, NOT_HTTP),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400, NOT_HTTP),
        (b"GET /" + b"x" * 70_000, 431, "a request line and header fields of at most 16384 bytes"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "transfer coding"),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, "in HTTP/1.1"),
        (b"CONNECT mail.example:25 HTTP/1.1\r\nHost: mail.example\r\n\r\n", 501, "CONNECT is for proxies"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, NOT_HTTP),
    ],
)  # fmt: skip
def test_invalid_http_is_refused(models: int, proxied: Start, sent: bytes, status: int, detail: str) -> None:
    """An invalid request, or two in one, is refused with the reason and never forwarded."""
    proxy = proxied(models)
    got = proxy.raw(sent)
    assert re.match(rb"HTTP/1\.[01] %d " % status, got), got
    assert detail.encode() in got
    assert not re.search(rb"HTTP/1\.[01] \d", got[8:])  # one response
    eventually(lambda: proxy.sample(f'requests_total{{code="{status}"}}') == 1)
    eventually(lambda: proxy.sample("requests_in_flight") == 0)
    assert ask(f"{proxy.url}/").text == "alive"


def test_connections_beyond_the_limit_of_open_files(models: int, proxied: Start) -> None:
    """A client beyond the limit is refused at once, others are served, and a freed place is used."""
    proxy = proxied(models, files=160)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(proxy.connect()) for _ in range(16)]
        eventually(lambda: proxy.sample('connections{side="client"}') == 16)
        for _ in range(3):
            got = proxy.raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert got.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"model-exporter proxy: too many connections" in got
        eventually(lambda: proxy.sample('requests_total{code="503"}') == 3)
        clients[0].sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert until(clients[0], b"alive")
        clients[1].close()
        eventually(lambda: proxy.sample('connections{side="client"}') == 15)
        assert ask(f"{proxy.url}/").text == "alive"


def test_upgrades_are_not_forwarded(proxied: Start) -> None:
    """An upgrade request is answered in HTTP/1.1, and so is the next request."""
    requests: list[bytes] = []

    def script(connection: socket.socket) -> None:
        while head := head_of(connection):
            requests.append(head)
            answer(connection)

    proxy = proxied(script)
    offer = b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n"
    with proxy.connect() as connection:
        for path in (b"/1", b"/2"):
            connection.sendall(b"GET %b HTTP/1.1\r\n" % path + offer)
            assert until(connection, b"ok").startswith(b"HTTP/1.1 200 OK\r\n")
    assert len(requests) == 2
    assert not re.search(rb"(?i)\r\n(upgrade|connection|http2-settings):", b"".join(requests))


@pytest.mark.parametrize("chunked", [False, True])
def test_the_body_of_an_upgrade_request_is_forwarded(proxied: Start, chunked: bool) -> None:
    """The body belongs to that request, even if it looks like another request."""
    inner = b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n"
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(inner), inner) if chunked else inner
    requests: list[bytes] = []

    def script(connection: socket.socket) -> None:
        requests.append(head_of(connection) + until(connection, framed))
        answer(connection)

    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(inner)
    offer = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\n%b\r\n\r\n" % framing
    got = proxied(script).raw(offer + framed)
    assert got.count(b"HTTP/1.1 200 OK") == 1
    assert len(requests) == 1


def test_a_loop_is_detected(tmp_path: Path, proxied: Start) -> None:
    """An upstream that leads back to the proxy is detected at the first turn, before it uses all connections."""
    ports: list[int] = []

    def script(connection: socket.socket) -> None:
        head = head_of(connection)
        with socket.create_connection(("127.0.0.1", ports[0]), timeout=60) as back:
            back.sendall(head)
            connection.sendall(head_of(back) + everything(back))

    proxy = proxied(script)
    ports.append(proxy.port)
    status, detail = problem(ask(proxy.url + "/"))
    assert (status, "leads back to this proxy" in detail) == (508, True)


def test_a_client_that_goes_away(shared: Served, proxied: Start) -> None:
    """The upstream connection is closed at once, and 499 is recorded, which is no error of the model."""
    request_received, let_go = threading.Event(), threading.Event()

    def script(connection: socket.socket) -> None:
        head_of(connection)
        request_received.set()
        everything(connection)
        let_go.set()

    proxy = proxied(script, exporter=shared.url)
    with proxy.connect() as connection:
        connection.sendall(INFERENCE)
        assert request_received.wait(60)
    assert let_go.wait(60)
    eventually(lambda: counted(shared, 499) == 2)
    eventually(lambda: proxy.sample("requests_in_flight") == 0)
    with proxy.connect() as connection:  # in the middle of a body
        connection.sendall(b"POST /v2/models/credit/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
        eventually(lambda: proxy.sample("requests_in_flight") == 1)
    eventually(lambda: proxy.sample('requests_total{code="499"}') == 2)
    eventually(lambda: proxy.sample("copies_bytes") == 0)


def test_a_client_that_stalls(models: int, proxied: Start) -> None:
    """A body that does not arrive in time is a 408, and the upstream connection is closed."""
    proxy = proxied(models, "--upstream.timeout=0.4")
    got = proxy.raw(b"POST /v2/models/credit/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
    assert got.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"the rest of the request did not come in time" in got
    eventually(lambda: proxy.sample('connections{side="upstream"}') == 0)


def test_a_response_before_the_end_of_the_body(proxied: Start) -> None:
    """An early response of the model server reaches the client, and the rest of the body is not forwarded."""

    def script(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 413 Large\r\nContent-Length: 3\r\n\r\nno!")
        everything(connection)

    proxy = proxied(script)
    with proxy.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(1000))
        assert until(connection, b"no!").startswith(b"HTTP/1.1 413 Large\r\n")
        assert everything(connection) == b""


# --- the process -------------------------------------------------------------------------------


def test_sigterm_drains_requests(shared: Served, proxied: Start) -> None:
    """After SIGTERM there are no new connections, requests in progress are answered, and all records are sent."""
    go = threading.Event()

    def script(connection: socket.socket) -> None:
        head_of(connection)
        assert go.wait(60)
        answer(connection, json.dumps({**RESPONSE, "model_version": "stop"}).encode())

    proxy = proxied(script, exporter=shared.url)
    with proxy.connect() as connection, proxy.connect() as idle:
        connection.sendall(INFERENCE)
        eventually(lambda: proxy.sample("requests_in_flight") == 1)
        os.kill(proxy.process.pid, signal.SIGTERM)
        assert everything(idle) == b""
        assert ask(f"http://127.0.0.1:{proxy.web}/-/ready").status == 503
        assert ask(f"http://127.0.0.1:{proxy.web}/-/healthy").status == 200
        with pytest.raises(OSError):
            proxy.connect()
        go.set()
        assert b"\r\nConnection: close\r\n" in everything(connection)
    assert proxy.process.wait(timeout=20) == 0
    assert "1 records sent, 0 dropped" in proxy.log.read_text()
    eventually(lambda: counted(shared, 200, "stop") == 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--upstream=127.0.0.1:80"], "--upstream: expected the model server's address, such as http://127.0.0.1:8080"),
        (["--upstream=http://a:99999"], "--upstream: Port out of range"),
        (["--upstream=http://u:secret@a"], "--upstream: a user in the address is not passed on"),
        (["--upstream=https://a", "--upstream.ca-file=/nothing"], "--upstream.ca-file: /nothing: "),
        (["--upstream=http://a", "--record.path=/x"], "--record.path: needs a --model"),
        (["--upstream=http://a", "--upstream.timeout=0"], "expected seconds above 0 and up to 86400, got '0'"),
        (["--upstream=http://a", "--exporter=u:secret@nowhere"], "--exporter: …@nowhere: expected the exporter's"),
        (["--upstream=http://a", "--exporter.token-file=/nothing"], "the exporter's token: "),
        (["--upstream=http://a", "--upstream.host=a b"], "expected a host such as models.example.com"),
    ],
)
def test_invalid_options(flags: list[str], message: str) -> None:
    """Each error is named with its option, and no secret is in the message."""
    result = run_command("proxy", "--listen-address=127.0.0.1:0", *flags)
    assert result.returncode in {1, 2}
    assert message in result.stderr
    assert "secret" not in result.stderr


def test_a_port_that_is_taken(proxied: Start, models: int) -> None:
    """The address is in the message."""
    addresses = f"--listen-address=127.0.0.1:{models}", "--web.listen-address=127.0.0.1:0"
    result = run_command("proxy", "--upstream=http://127.0.0.1:1", *addresses)
    assert (result.returncode, f"cannot listen on 127.0.0.1:{models}" in result.stderr) == (1, True)


# --- the route ---------------------------------------------------------------------------------


def test_exchanges_count_even_when_their_bodies_are_refused(shared: Served) -> None:
    """`POST /v1/exchanges`: a repeated key counts once, invalid bodies are reported, and their requests count."""

    def packed(value: Any) -> str:
        return base64.b64encode(value if isinstance(value, bytes) else json.dumps(value).encode()).decode()

    before = counted(shared, 200)
    message = {**RESPONSE, "model_version": "packed"}
    lines = [
        {"model": "credit", "code": 200, "id": "a", "request": packed(ROWS), "response": packed(message)},
        {"model": "credit", "code": 200, "request": packed(gzip.compress(json.dumps(ROWS).encode()))},
        {"model": "credit", "code": 503, "request": packed(b"no JSON"), "response": packed(b"<html>")},
        {"model": "credit", "code": 200, "request": packed(ROWS), "response": packed({"predictions": ["yes"]})},
        {"model": "credits", "code": 200},
        {"model": "credit", "code": 99},
        {"model": "credit", "code": 200, "request": "?"},
    ]
    body = "\n".join(map(json.dumps, lines)).encode()
    key = {"Content_Type": "application/x-ndjson", "Idempotency_Key": "k"}
    first = shared.post("/v1/exchanges?ids=1", body, **key)
    assert first.status == 202
    assert first.json["accepted"] == 2 + 2 + 1 + 1
    pairs = [(rejection["index"], rejection["pointer"]) for rejection in first.json["rejected"]]
    assert pairs == [(3, ""), (4, "/model"), (5, "/code"), (6, "/request")]
    assert first.json["ids"][:2] == ["a-0", "a-1"]
    assert shared.post("/v1/exchanges?ids=1", body, **key).json == first.json
    assert counted(shared, 200, "packed") == 2
    assert counted(shared, 503, "packed") == 1  # which served last
    assert counted(shared, 200) == before + 5


def test_the_metrics_are_documented(proxied: Start) -> None:
    """The table of docs/proxy.md has each metric, and nothing else."""
    text = (ROOT / "docs" / "proxy.md").read_text()
    exposition = ask(f"http://127.0.0.1:{proxied(free_port()).web}/metrics").text
    metrics = {re.sub(r"_total$", "", name) for name in re.findall(r"^# TYPE (model_proxy_\S+)", exposition, re.M)}
    assert {re.sub(r"_total$", "", name) for name in re.findall(r"^\| `(model_proxy_\w+)`", text, re.M)} == metrics
