"""HTTP/1.1 of the server: pipelined requests, ends of connections and invalid requests."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.servers import Served, eventually, serving, write_config

from exporter.errors import QueueFullError
from exporter.server import asgi
from exporter.server.access import Sender, sender
from exporter.server.application import Exporter
from exporter.server.asgi import ThreadPool
from exporter.server.serve import SPARE_FILES

EVENT = json.dumps({"model": "credit", "version": "http"}).encode()
HEALTHY = b"model-exporter is healthy.\n"


@contextmanager
def connected(server: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), 10) as client:
        yield client


def request(line: str, *fields: str, body: bytes = b"") -> bytes:
    """Return a request with the length of its body, unless other headers are given."""
    length = [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([line, "Host: x", *(fields or length), "", ""]).encode() + body


def answers(client: socket.socket, count: int) -> list[tuple[int, dict[str, str], bytes]]:
    """Return the next responses: status, headers by their names in lower case, body."""
    file = client.makefile("rb")
    responses = []
    for _ in range(count):
        status = int(file.readline().split()[1])
        pairs = (line.decode().strip().split(": ", 1) for line in iter(file.readline, b"\r\n"))
        fields = {name.lower(): value for name, value in pairs}
        responses.append((status, fields, file.read(int(fields.get("content-length", 0)))))
    return responses


def closed(client: socket.socket) -> bool:
    """Return whether the server has closed the connection."""
    return client.recv(1) == b""


PREDICTION = request("POST /v1/predictions HTTP/1.1", body=EVENT)


def test_pipelined_requests_take_little_memory(shared: Served) -> None:
    """The server stops reading from a client that reads no responses; once it reads, each request is answered."""
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


def test_expect_100_continue_is_answered(shared: Served) -> None:
    """``Expect: 100-continue`` is answered at once, unless the body would be refused."""
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


def test_missing_credentials_are_refused_before_the_body(tmp_path: Path) -> None:
    """A client without credentials need not send its body; after a small body its connection stays open."""
    write_config(tmp_path)
    (tmp_path / "tokens.yml").write_text(f"- {{name: one, sha256: '{'a' * 64}', scopes: [ingest]}}\n", encoding="utf-8")
    with serving(tmp_path, f"--web.tokens.file={tmp_path / 'tokens.yml'}") as served:
        with connected(served) as client:
            client.sendall(PREDICTION + request("GET /metrics HTTP/1.1"))
            assert [status for status, _, _ in answers(client, 2)] == [401, 401]
            client.sendall(request("POST /v1/predictions HTTP/1.1", "Content-Length: 5", "Expect: 100-continue"))
            assert answers(client, 1)[0][0] == 401
            assert closed(client)
        with connected(served) as client:
            client.sendall(request("POST /v1/predictions HTTP/1.1", "Content-Length: 10000000"))
            assert answers(client, 1)[0][0] == 401


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
def test_valid_and_invalid_requests(shared: Served, sent: bytes, status: int) -> None:
    """Each gets the appropriate status, and the exporter keeps serving."""
    with connected(shared) as client:
        client.sendall(sent)
        assert answers(client, 1)[0][0] == status
    assert shared.get("/-/healthy").text == HEALTHY.decode()


def test_keep_alive_follows_the_client(shared: Served) -> None:
    """Connections are kept by default in HTTP/1.1 but not in HTTP/1.0, and closed when the client asks for it."""
    for version, wanted in (("1.0", "keep-alive"), ("1.1", "close")):
        with connected(shared) as client:
            client.sendall(request(f"GET /-/healthy HTTP/{version}", f"Connection: {wanted}"))
            ((_, fields, _),) = answers(client, 1)
            assert fields["connection"] == "close" and fields["date"].endswith(" GMT")
            assert closed(client)


def test_a_client_that_closes_its_side_still_gets_its_responses(shared: Served) -> None:
    """A client that closes its side of the connection, as ``nc -N`` does, receives all responses."""
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


def test_a_304_has_no_content_type(shared: Served) -> None:
    """A 304 has no media type, which would replace that of the cached response, and exactly one date."""
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
def test_head_has_a_content_length_and_no_body(shared: Served, path: str) -> None:
    """The response to HEAD is that to GET without the body; the next request is answered correctly."""
    with connected(shared) as client:
        client.sendall(request(f"HEAD {path} HTTP/1.1") + request("GET /-/healthy HTTP/1.1"))
        file = client.makefile("rb")
        head = dict(line.decode().strip().split(": ", 1) for line in list(iter(file.readline, b"\r\n"))[1:])
        assert int(head["content-length"]) > 0
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"


CHUNKED = "Transfer-Encoding: chunked"


def test_chunks_and_trailers(shared: Served) -> None:
    """A body may have chunks and trailers, but not a very large number of tiny chunks."""
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (EVENT[:7], EVENT[7:]))
    with connected(shared) as client:
        client.sendall(request("POST /v1/predictions HTTP/1.1", CHUNKED) + pieces + b"0\r\nX-Sum: 1\r\n\r\n")
        assert answers(client, 1)[0][0] == 202
        client.sendall(request("POST /v1/predictions HTTP/1.1", CHUNKED) + b"2\r\n  \r\n" * 50_000)
        ((status, fields, body),) = answers(client, 1)
        assert (status, fields["connection"]) == (400, "close")
        assert json.loads(body)["detail"] == "the body comes in far too many chunks"


OFFER = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


@pytest.mark.parametrize("pieces", [1, 7])
def test_an_offer_to_upgrade_is_ignored(shared: Served, pieces: int) -> None:
    """Java's client offers HTTP/2 with any first request; the request's body is not parsed as another request."""
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


def test_pipelined_requests_of_many_clients_take_little_memory(shared: Served) -> None:
    """Requests of clients that do not read their responses are neither read nor buffered."""
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
    """Return a request with events, with their length or in chunks of so many bytes."""
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
def test_how_requests_are_split_changes_nothing(shared: Served, seed: int) -> None:
    """Pipelined requests of all kinds, sent in pieces of all sizes, get the same responses in the same order."""
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
        responses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) [A-Z]", answer)]
        assert responses == [status for _, status in several] + statuses


def test_connections_above_the_limit_of_open_files_are_refused(tmp_path: Path) -> None:
    """Clients above the limit of open files get a 503; connected clients and later ones are served."""
    write_config(tmp_path)
    with serving(tmp_path, files=SPARE_FILES + 18) as served:
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


def test_requests_are_counted_by_route_and_code(shared: Served) -> None:
    """Paths with variables count under their rule, and unknown ones together."""
    shared.get("/-/healthy")
    for path in ("/v1/dataset/releases/a", "/v1/dataset/releases/b", "/nothing", "/elsewhere"):
        shared.get(path)
    counted = shared.samples("model_exporter_http_requests_total")
    assert counted['model_exporter_http_requests_total{route="/-/healthy",code="200"}'] >= 1
    rule = "/v1/dataset/releases/<key>"
    assert sum(count for name, count in counted.items() if rule in name) >= 2, counted
    assert counted['model_exporter_http_requests_total{route="other",code="404"}'] >= 2
    assert shared.samples("model_exporter_http_request_duration_seconds_count")


async def run_as(client: str, pool: ThreadPool, call: Callable[[], Any]) -> Any:
    """Run a call for a client."""
    sender.set(Sender(client))
    return await pool.run(call)


def test_clients_take_turns() -> None:
    """A client's request waits for one of each other client, however many those have sent before."""
    order: list[str] = []

    async def run() -> None:
        pool, begun, go_on = ThreadPool("test", 1), threading.Event(), threading.Event()

        def first() -> None:
            begun.set()
            go_on.wait(60)

        running = [asyncio.create_task(run_as("flood", pool, first))]
        await asyncio.to_thread(begun.wait, 10)
        running += [asyncio.create_task(run_as("flood", pool, lambda: order.append("flood"))) for _ in range(50)]
        await asyncio.sleep(0)
        for client in ("one", "other", "one"):
            running.append(asyncio.create_task(run_as(client, pool, lambda client=client: order.append(client))))
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*running)
        assert await pool.run(lambda: "free again") == "free again"
        pool.close()

    asyncio.run(run())
    assert order[:5] == ["flood", "one", "other", "flood", "one"]
    assert len(order) == 53


def test_the_queue_is_shared(tmp_path: Path) -> None:
    """A client that fills its half of the queue leaves room for another, whose prediction is in the next batch."""
    path = write_config(tmp_path, {"queue": {"capacity": 20_000}, "models": [{"name": "credit"}]})
    body = b"[%b]" % b",".join([b'{"model": "credit", "version": "%b"}'] * 5000)
    go_on, stored = threading.Event(), list[str]()
    with closing(Exporter(path)) as exporter:
        exporter.store.add = lambda batch: stored.append(batch.versions[0]) or go_on.wait(60) * 0  # type: ignore[method-assign, func-returns-value]
        for client, sent in (("flood", 5), ("one", 1)):
            sender.set(Sender(client))
            answers = [
                exporter.ingest.predictions(body.replace(b"%b", client.encode()), False, None, False)
                for _ in range(sent)
            ]
            assert [answer.status for answer in answers] == [202] * min(sent, 4) + [503] * (sent > 4)
        go_on.set()
    assert "one" in stored[:3] and len(stored) == 5


def test_a_cancelled_request_gives_up_its_turn() -> None:
    """Requests that are cancelled while they wait, or as their turn comes, keep no thread from the others."""

    async def run() -> None:
        pool, go_on = ThreadPool("test", 1), threading.Event()
        running = asyncio.create_task(run_as("one", pool, lambda: go_on.wait(60)))
        waiting = [asyncio.create_task(run_as(client, pool, str)) for client in ("one", "other", "third")]
        await asyncio.sleep(0)
        waiting[0].cancel()
        await asyncio.sleep(0)
        running.add_done_callback(lambda _: waiting[1].cancel())  # its turn has come by then
        go_on.set()
        await asyncio.wait([running, *waiting])
        assert [task.cancelled() for task in waiting] == [True, True, False]
        assert await asyncio.wait_for(pool.run(lambda: "free again"), 10) == "free again"
        pool.close()

    asyncio.run(run())


def test_a_client_cannot_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has the most requests waiting that it may have is refused, and others are not."""
    monkeypatch.setattr(asgi, "WAITING", 6)

    async def run() -> None:
        pool, go_on = ThreadPool("test", 1), threading.Event()
        running = []
        for taken, refused in (("one one one", "one"), ("other other third", "other"), ("", "one")):
            running += [asyncio.create_task(run_as(name, pool, lambda: go_on.wait(60))) for name in taken.split()]
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError):
                await asyncio.create_task(run_as(refused, pool, str))
        go_on.set()
        await asyncio.gather(*running)
        assert await pool.run(lambda: "free again") == "free again"
        pool.close()

    asyncio.run(run())
