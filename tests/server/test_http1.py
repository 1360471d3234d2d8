"""The server's HTTP/1.1: requests one after the other, what ends them, and what is no request."""

from __future__ import annotations

import json
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.servers import Served, eventually, write_config

from exporter.server.serve import SPARE_FILES

EVENT = json.dumps({"model": "credit", "version": "http"}).encode()
HEALTHY = b"model-exporter is healthy.\n"


@contextmanager
def connected(server: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        yield client


def request(line: str, *fields: str, body: bytes = b"") -> bytes:
    """A request; its body has its length unless a field says otherwise."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([line, "Host: x", *(fields or length), "", ""]).encode() + body


def answers(client: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """The next answers: status, headers by name in small letters, body."""
    file = client.makefile("rb")
    found = []
    for _ in range(count):
        status = int(file.readline().split()[1])
        pairs = (line.decode().strip().split(": ", 1) for line in iter(file.readline, b"\r\n"))
        fields = {name.lower(): value for name, value in pairs}
        found.append((status, fields, file.read(int(fields.get("content-length", 0)))))
    return found


def closed(client: socket.socket) -> bool:
    """Whether the server has nothing more to say."""
    return client.recv(1) == b""


PREDICTION = request("POST /v1/predictions HTTP/1.1", body=EVENT)


def test_requests_on_a_connection_are_answered_in_order(shared: Served) -> None:
    """What takes a thread's time does not let what takes none overtake it."""
    several = request("GET /-/healthy HTTP/1.1") + PREDICTION + request("GET /nothing HTTP/1.1") + PREDICTION
    with connected(shared) as client:
        client.sendall(several * 50)
        assert [status for status, _, _ in answers(client, 200)] == [200, 202, 404, 202] * 50


def test_requests_that_wait_take_little_room(shared: Served) -> None:
    """A client that sends requests and reads no answers is read no further; when it reads, each is answered."""
    memory = psutil.Process(shared.process.pid).memory_info
    before = memory().rss
    many = request("GET /-/healthy HTTP/1.1") * 20_000
    with connected(shared) as client:
        client.setblocking(False)
        sent = 0
        for _ in range(200):
            try:
                sent += client.send(many[sent:])
            except BlockingIOError:
                shared.get("/-/healthy")
        assert sent < len(many) or memory().rss - before < 32 * 2**20
        client.settimeout(10)
        whole = sent // len(request("GET /-/healthy HTTP/1.1"))
        assert {body for _, _, body in answers(client, min(whole, 5000))} == {HEALTHY}


def test_a_client_that_asks_first_is_told_to_go_on(shared: Served) -> None:
    """``Expect: 100-continue`` is answered at once, and not where the body would be refused."""
    fields = (f"Content-Length: {len(EVENT)}", "Expect: 100-continue")
    with connected(shared) as client:
        client.sendall(request("POST /v1/predictions HTTP/1.1", *fields))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(EVENT)
        assert answers(client, 1)[0][0] == 202
        client.sendall(request("POST /v1/predictions HTTP/1.1", "Content-Length: 16777217", "Expect: 100-continue"))
        (status, fields_back, _), *_ = answers(client, 1)
        assert (status, fields_back["connection"]) == (413, "close")
        assert closed(client)


def test_who_is_nobody_is_told_before_the_body(tmp_path: Path) -> None:
    """A client without credentials need not send what nobody reads; a small body does not cost it the connection."""
    write_config(tmp_path)
    (tmp_path / "tokens.yml").write_text(f"- {{name: one, sha256: '{'a' * 64}', scopes: [ingest]}}\n", encoding="utf-8")
    served = Served(tmp_path, f"--web.tokens.file={tmp_path / 'tokens.yml'}").start()
    try:
        with connected(served) as client:
            client.sendall(PREDICTION + request("GET /metrics HTTP/1.1"))
            assert [status for status, _, _ in answers(client, 2)] == [401, 401]
            client.sendall(request("POST /v1/predictions HTTP/1.1", "Content-Length: 5", "Expect: 100-continue"))
            assert answers(client, 1)[0][0] == 401
            assert closed(client)
        with connected(served) as client:
            client.sendall(request("POST /v1/predictions HTTP/1.1", "Content-Length: 10000000"))
            assert answers(client, 1)[0][0] == 401
    finally:
        served.stop()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("GET /-/healthy HTTP/1.0"), 200),
        (request("GET http://x/-/healthy HTTP/1.1"), 200),
        (request("GET https://x:1/-/healthy?a=b HTTP/1.1"), 200),
        (request("GET http://x HTTP/1.1"), 200),
        (request("GET /-/healthy HTTP/2.0"), 400),
        (b"GET /-/healthy\r\n\r\n", 400),
        (request("OPTIONS * HTTP/1.1"), 404),
        (request("CONNECT x:443 HTTP/1.1"), 400),
        (request("POST /v1/predictions HTTP/1.1", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 501),
        (request("POST /v1/predictions HTTP/1.0", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 501),
        (request("POST / HTTP/1.1", "Transfer-Encoding: chunked", "Content-Length: 5") + b"0\r\n\r\n", 400),
        (request("POST /v1/predictions HTTP/1.1", "Content-Length: 2", "Content-Length: 3") + b"{}", 400),
        (request("BREW /coffee HTTP/1.1"), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (request("GET / HTTP/1.1", "X: " + "y" * 100_000), 431),
        (request("GET / HTTP/1.1", "Host: y"), 400),
        (b"GET /-/healthy HTTP/1.1\r\n\r\n", 200),
        (b"GET /-/healthy HTTP/1.0\r\n\r\n", 200),
        (request("POST /v1/predictions HTTP/1.1", "Content-Encoding: Identity", "Content-Length: 2") + b"{}", 400),
        (request("POST /v1/predictions HTTP/1.1", "Content-Encoding: GZIP", "Content-Length: 2") + b"{}", 415),
        (request("GET / HTTP/1.1", "X: y\r\n z"), 400),
        (request("GET / HTTP/1.1", "X : y"), 400),
        (request("GET / HTTP/1.1", "X: y\x00z"), 400),
        (request("GET / HTTP/1.1", "X: y\rZ: 1"), 400),
        (request("GET / HTTP/1.1", "X: y").replace(b"\r\n", b"\n"), 400),
        (request("POST / HTTP/1.1", "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n", 400),
        (request("POST / HTTP/1.1", "Transfer-Encoding : chunked") + b"0\r\n\r\n", 400),
        (request("POST / HTTP/1.1", "Content-Length: +2") + b"{}", 400),
        (request("POST / HTTP/1.1", "Transfer-Encoding: chunked") + b"2;a\n{}\r\n0\r\n\r\n", 400),
        (request("POST / HTTP/1.1", "Transfer-Encoding: chunked") + b"0x2\r\n{}\r\n0\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_kinds_of_requests(shared: Served, sent: bytes, status: int) -> None:
    """Each gets the answer that says most, and the exporter serves on."""
    with connected(shared) as client:
        client.sendall(sent)
        assert answers(client, 1)[0][0] == status
    assert shared.get("/-/healthy").text == HEALTHY.decode()


def test_connections_are_kept_as_their_clients_wish(shared: Served) -> None:
    """By default in HTTP/1.1, not in HTTP/1.0, and not where the client says so."""
    with connected(shared) as client:
        client.sendall(request("GET /-/healthy HTTP/1.0", "Connection: keep-alive"))
        ((_, fields, _),) = answers(client, 1)
        assert fields["connection"] == "close"
        assert closed(client)
    with connected(shared) as client:
        client.sendall(request("GET /-/healthy HTTP/1.1", "Connection: close"))
        ((_, fields, _),) = answers(client, 1)
        assert fields["connection"] == "close" and fields["date"].endswith(" GMT")
        assert closed(client)


def test_a_client_that_has_said_all_still_gets_its_answers(shared: Served) -> None:
    """One that ends its side of the connection, as ``nc -N`` does, reads what it asked for."""
    with connected(shared) as client:
        client.sendall(request("GET /-/healthy HTTP/1.1") + PREDICTION)
        client.shutdown(socket.SHUT_WR)
        assert [status for status, _, _ in answers(client, 2)] == [200, 202]
        assert closed(client)
    with connected(shared) as client:
        client.sendall(PREDICTION)
        assert answers(client, 1)[0][0] == 202
        client.shutdown(socket.SHUT_WR)
        assert closed(client)


def test_what_has_not_changed_says_nothing_of_it(shared: Served) -> None:
    """A 304 has no media type, which would replace the one that is known; a date is there once."""
    with connected(shared) as client:
        client.sendall(request("GET /static/review.js HTTP/1.1"))
        ((_, known, _),) = answers(client, 1)
        client.sendall(
            request("GET /static/review.js HTTP/1.1", f"If-None-Match: {known['etag']}", "Connection: close")
        )
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 304 ")
    assert b"content-type:" not in answer
    assert answer.count(b"\r\ndate:") == 1


@pytest.mark.parametrize("path", ["/-/healthy", "/metrics", "/", "/nothing"])
def test_head_has_the_length_and_no_body(shared: Served, path: str) -> None:
    """The answer to HEAD is that to GET without what it would say; the next request on the connection is read right."""
    with connected(shared) as client:
        client.sendall(request(f"HEAD {path} HTTP/1.1") + request("GET /-/healthy HTTP/1.1"))
        file = client.makefile("rb")
        head = dict(line.decode().strip().split(": ", 1) for line in list(iter(file.readline, b"\r\n"))[1:])
        assert int(head["content-length"]) > 0
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"


CHUNKED = "Transfer-Encoding: chunked"


def test_chunks_and_trailers(shared: Served) -> None:
    """A body may come in chunks with trailers behind them, but not in a great many of a few bytes each."""
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (EVENT[:7], EVENT[7:]))
    with connected(shared) as client:
        client.sendall(request("POST /v1/predictions HTTP/1.1", CHUNKED) + pieces + b"0\r\nX-Sum: 1\r\n\r\n")
        assert answers(client, 1)[0][0] == 202
        client.sendall(request("POST /v1/predictions HTTP/1.1", CHUNKED) + b"2\r\n  \r\n" * 50_000)
        ((status, fields, body),) = answers(client, 1)
        assert (status, fields["connection"]) == (400, "close")
        assert json.loads(body)["detail"] == "the body comes in far too many chunks"


HEALTHY_CLOSE = request("GET /-/healthy HTTP/1.1", "Connection: close")
CLOSE = request("POST /v1/predictions HTTP/1.1", "Connection: close", f"Content-Length: {len(EVENT)}") + EVENT
OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (CLOSE + PREDICTION, [202]),
        (CLOSE + b"garbage\r\n\r\n", [202]),
        (CLOSE.replace(b"close", b"close, Upgrade\r\nUpgrade: h2c") + PREDICTION, [202]),
        (PREDICTION.replace(b"HTTP/1.1", b"HTTP/1.0") + PREDICTION, [202]),
        (HEALTHY_CLOSE + PREDICTION, [200]),
        (request("GET /-/healthy HTTP/1.1") + CLOSE + PREDICTION, [200, 202]),
        (request("POST / HTTP/1.1", "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n" + PREDICTION, [501]),
        (request("POST / HTTP/1.1", "Origin: http://y", "Content-Length: 70000") + b" " * 70_000 + PREDICTION, [403]),
        (request("GET /-/healthy HTTP/1.1") + request("CONNECT x:1 HTTP/1.1") + PREDICTION, [200, 400]),
        (PREDICTION + b"\x00" * 20 + PREDICTION, [202, 400]),
        (request("POST / HTTP/1.1", *OFFER, "Transfer-Encoding: gzip") + b"0\r\n\r\n" + PREDICTION, [400]),
        (request("POST / HTTP/1.1", CHUNKED) + b"0\r\nConnection: close\r\n\r\n" + PREDICTION, [405]),
        (request("GET /-/healthy HTTP/1.1") + PREDICTION[:-1].replace(b"Host", b"Bad Name") + PREDICTION, [200, 400]),
    ],
)  # fmt: skip
def test_nothing_is_answered_behind_the_end(shared: Served, sent: bytes, statuses: list[int]) -> None:
    """What comes behind a request that ends the connection is not worked on, and no fault of the exporter."""
    before = shared.samples("model_exporter_events_total")
    with connected(shared) as client:
        client.sendall(sent)
        assert [status for status, _, _ in answers(client, len(statuses))] == statuses
        assert closed(client)
    after = shared.samples("model_exporter_events_total")
    assert sum(after.values()) - sum(before.values()) == statuses.count(202)
    assert "Traceback" not in shared.log.read_text()


@pytest.mark.parametrize("pieces", [1, 7])
def test_an_offer_to_upgrade_is_passed_over(shared: Served, pieces: int) -> None:
    """Java's client offers HTTP/2 with its first request, whatever that is: its body is no request of its own."""
    sized = request("POST /v1/predictions HTTP/1.1", *OFFER, f"Content-Length: {len(EVENT)}") + EVENT
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT)
    chunked = request("POST /v1/predictions HTTP/1.1", *OFFER, "Transfer-Encoding: chunked") + chunk
    inner = request("POST /v1/predictions HTTP/1.1", *OFFER, f"Content-Length: {len(PREDICTION)}") + PREDICTION
    sent = sized + request("GET /-/healthy HTTP/1.1", *OFFER) + chunked + inner + PREDICTION
    with connected(shared) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(sent), len(sent) // pieces):
            client.sendall(sent[start : start + len(sent) // pieces])
            time.sleep(0.01)
        assert [status for status, _, _ in answers(client, 5)] == [202, 200, 202, 400, 202]


def test_a_body_waits_with_its_request(shared: Served) -> None:
    """Of a large one behind a request that takes time the rest is read when its turn has come."""
    large = json.dumps({"model": "credit", "inputs": {"name": "x" * 50_000}}).encode()
    post = request("POST /v1/predictions HTTP/1.1", body=large)
    with connected(shared) as client:
        client.sendall((request("GET /-/healthy HTTP/1.1") + post) * 3)
        assert [status for status, _, _ in answers(client, 6)] == [200, 202] * 3


def test_an_old_client_is_not_told_to_go_on(shared: Served) -> None:
    """HTTP/1.0 knows no interim answers."""
    fields = (f"Content-Length: {len(EVENT)}", "Expect: 100-continue")
    with connected(shared) as client:
        client.sendall(request("POST /v1/predictions HTTP/1.0", *fields))
        time.sleep(0.1)
        client.sendall(EVENT)
        assert client.recv(20).startswith(b"HTTP/1.1 202")


def test_requests_of_many_that_wait_take_little_room(shared: Served) -> None:
    """What clients send that read no answers is neither read nor kept."""
    memory = psutil.Process(shared.process.pid).memory_info
    shared.get("/metrics")
    before = memory().rss
    clients = [socket.socket() for _ in range(100)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", shared.port))
        client.setblocking(False)
        client.send(request("GET /metrics HTTP/1.1") * 10_000)
    time.sleep(1)
    assert shared.get("/-/healthy").status == 200
    assert memory().rss - before < len(clients) * 400_000  # a read of 256 KiB, and answers
    for client in clients:
        client.close()


LARGE = json.dumps({"model": "credit", "inputs": {"name": "x" * 30_000}}).encode()


def posted(body: bytes, *fields: str, pieces: int = 0) -> bytes:
    """Events, with their length or in chunks of so many bytes."""
    line = "POST /v1/predictions HTTP/1.1"
    if not pieces:
        return request(line, *fields, f"Content-Length: {len(body)}") + body
    cut = [body[start : start + pieces] for start in range(0, len(body), pieces)]
    chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(piece), piece) for piece in cut)
    return request(line, *fields, "Transfer-Encoding: chunked") + chunks + b"0\r\nLast: x\r\n\r\n"


WHOLE = [
    (PREDICTION, 202),
    (posted(LARGE), 202),
    (posted(EVENT, pieces=5), 202),
    (posted(LARGE, pieces=3000), 202),
    (posted(EVENT, *OFFER), 202),
    (posted(EVENT, *OFFER, pieces=4), 202),
    (request("GET /-/healthy HTTP/1.1"), 200),
    (request("GET /metrics HTTP/1.1", *OFFER), 200),
    (request("GET /nothing HTTP/1.1"), 404),
    (posted(EVENT, "Origin: http://y"), 403),
    (posted(b"x" * 20_000, "Origin: http://y"), 403),
    (posted(b"{}"), 400),
]
LAST: list[tuple[bytes, list[int]]] = [
    (b"", []),
    (posted(EVENT, "Connection: close") + PREDICTION, [202]),
    (PREDICTION.replace(b"HTTP/1.1", b"HTTP/1.0") + PREDICTION, [202]),
    (posted(b"y" * 70_000, "Origin: http://y") + PREDICTION, [403]),
    (request("CONNECT a:1 HTTP/1.1") + PREDICTION, [400]),
    (b"\x00" + PREDICTION, [400]),
    (posted(LARGE)[:-5], [400]),
    (posted(EVENT, pieces=4)[:-3], [400]),
    (b"GET / HTT", [400]),
]


@pytest.mark.parametrize("seed", range(10))
def test_how_bytes_are_cut_changes_nothing(shared: Served, seed: int) -> None:
    """Requests of all kinds one after the other, in pieces of all sizes, are answered alike and in their order."""
    chance = random.Random(seed)
    for _ in range(10):
        several = [chance.choice(WHOLE) for _ in range(chance.randint(1, 12))]
        end, statuses = chance.choice(LAST)
        sent = b"".join(one for one, _ in several) + end
        with connected(shared) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while sent:
                size = chance.choice([1, 7, 100, 1024, 16_384, 20_000, 500_000])
                client.sendall(sent[:size])
                sent = sent[size:]
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda client=client: client.recv(65536), b""))
        found = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) [A-Z]", answer)]
        assert found == [status for _, status in several] + statuses


class Few(Served):
    """An exporter that may open few files."""

    def launch(self) -> None:
        few = f'ulimit -n {SPARE_FILES + 18}; exec "$@"'
        command = ["sh", "-c", few, "sh", sys.executable, "-m", "exporter.cli", "serve"]
        command += [f"--config.file={self.folder / 'exporter.yml'}", f"--web.listen-address=127.0.0.1:{self.port}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)


def test_more_connections_than_there_is_room_for(tmp_path: Path) -> None:
    """Beyond the limit of open files clients are told so; those that are connected are served, and so are the next."""
    write_config(tmp_path)
    served = Few(tmp_path).start()
    try:
        with connected(served) as first:
            first.sendall(PREDICTION)
            assert answers(first, 1)[0][0] == 202
            others = [socket.create_connection(("127.0.0.1", served.port), 10) for _ in range(40)]
            ((status, _, body),) = answers(others[-1], 1)
            assert (status, json.loads(body)["detail"]) == (503, "too many connections")
            first.sendall(PREDICTION)
            assert answers(first, 1)[0][0] == 202
            for other in others:
                other.close()
        eventually(lambda: served.get("/-/healthy").status == 200)
    finally:
        served.stop()
