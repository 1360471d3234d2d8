"""The HTTP client: retries, deadlines, sockets, credentials and messages."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import socket
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.dripping_server import DRIPS, dripping_server
from support.fake_exporter import Exporter, nobody

from exporter.client import transport
from exporter.commands import common
from exporter.errors import ExporterError, UsageError
from exporter.http_client import MAX_BODY, WHEN_BUSY, Client, RequestError, basic_authorization


def test_a_busy_server_is_asked_again_when_it_says_so(exporter: Exporter) -> None:
    """503 with Retry-After is repeated after that time with the same headers, over one connection; 503 alone is not."""
    exporter.answers = [(503, {"Retry-After": 1}, {"detail": "full"}), (503, {}, {"detail": "no disk"})]
    with Client(exporter.url, "--url", retries=WHEN_BUSY) as client:
        response = client.request("POST", "/v1/predictions", b"{}", headers={"Idempotency-Key": "k"})
    assert (response.status, response.error_message()) == (503, "503 no disk")
    first, second = exporter.requests
    assert second["at"] - first["at"] >= 0.99
    assert first["headers"]["Idempotency-Key"] == second["headers"]["Idempotency-Key"] == "k"
    assert first["peer"] == second["peer"]


def test_a_request_is_repeated_until_it_succeeds(exporter: Exporter) -> None:
    """Lost connections, 429 and 500 are repeated with the same key, and reported; success ends it."""
    exporter.answers = [None, (500, {}, {}), (429, {}, {})]
    reported: list[str] = []
    with Client(exporter.url, "--exporter") as client:
        response = client.repeat(30, reported.append, "POST", "/", b"{}", headers={"Idempotency-Key": "k"})
    assert response.status == 202
    assert [request["headers"]["Idempotency-Key"] for request in exporter.requests] == ["k"] * 4
    reasons = ["Remote end closed connection without response", "500 Internal Server Error", "429 Too Many Requests"]
    assert reported == reasons


def test_a_request_is_repeated_until_its_deadline(exporter: Exporter) -> None:
    """After the time that was given the last response is returned, or the last error raised; 400 is never repeated."""
    exporter.answers = [(503, {}, {"detail": "full"})] * 100
    with Client(exporter.url, "--exporter") as client:
        assert client.repeat(1, lambda _: None, "POST", "/", b"{}").error_message() == "503 full"
        assert len(exporter.requests) < 10
        exporter.answers = [(400, {}, {"detail": "bad"})]
        assert client.repeat(1, lambda _: None, "POST", "/", b"{}").status == 400
    with Client(nobody(), "--exporter") as client, pytest.raises(RequestError, match="Connection refused"):
        client.repeat(1, lambda _: None, "POST", "/", b"{}")


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "Remote end closed connection without response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "the response ended early"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n", None),
        (
            b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1),
            "larger than 64 MiB",
        ),
    ],
)
def test_errors_have_a_reason(sent: bytes, message: str | None) -> None:
    """A response that ends early or is too large is an error with its reason; a redirect is not followed."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=answer_once, args=(server, sent), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Client(url, "--url", timeout=60) as client:
            if message is None:
                assert client.request("GET", "/").error_message() == "302 Found"
                return
            with pytest.raises(RequestError, match=message) as caught:
                client.request("GET", "/")
            assert str(caught.value).startswith(f"{url}: ")


def answer_once(server: socket.socket, sent: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(10_000)
        connection.sendall(sent)


def test_a_request_has_a_timeout() -> None:
    """The timeout limits each wait."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        Client(f"http://127.0.0.1:{server.getsockname()[1]}", "--url", timeout=0.2) as client,
        pytest.raises(RequestError, match="timed out"),
    ):
        client.request("GET", "/")


@pytest.mark.parametrize(("begin", "again"), DRIPS)
def test_a_response_has_a_timeout(begin: bytes, again: bytes) -> None:
    """The timeout limits the whole response, even while its bytes arrive one by one."""
    with (
        dripping_server(begin, again) as url,
        Client(url, "--url", timeout=0.1) as client,
        pytest.raises(RequestError, match="timed out"),
    ):
        client.request("GET", "/")


def test_a_download_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a download, the timeout limits each wait only."""
    hours = itertools.count(step=3600)
    monkeypatch.setattr(transport, "time", SimpleNamespace(monotonic=lambda: next(hours)))
    for downloads in (True, False):
        with (
            dripping_server(b"HTTP/1.1 200 OK\r\n\r\n", b"x", times=3) as url,
            Client(url, "--url", downloads=downloads) as client,
            contextlib.nullcontext() if downloads else pytest.raises(RequestError, match="timed out"),
        ):
            assert client.request("GET", "/").body == b"xxx"


def test_a_unix_socket_is_reached(tmp_path: Path) -> None:
    """``unix://`` names a socket in the file system, whose name may be percent-encoded."""
    path = tmp_path / "a socket"
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(str(path))
        server.listen()
        sent = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
        threading.Thread(target=answer_once, args=(server, sent), daemon=True).start()
        with Client(f"unix://{tmp_path}/a%20socket", "--exporter", timeout=60) as client:
            assert client.request("GET", "/-/healthy").body == b"hi"
    with pytest.raises(RequestError, match="No such file or directory"):
        Client(f"unix://{tmp_path}/none", "--exporter").request("GET", "/")


@pytest.mark.parametrize("url", ["localhost:9877", "http://", "http://h:port", "http://[::1", "unix://x/y"])
def test_a_url_that_is_not_valid_is_refused(url: str) -> None:
    """The message names the option, and an example."""
    with pytest.raises(UsageError, match=r"^--url: expected a URL such as http://127\.0\.0\.1:9877, got "):
        Client(url, "--url")


def test_a_url_with_a_query_is_refused() -> None:
    """The message says that there may be none, and does not show it."""
    with pytest.raises(UsageError, match=r"^--url: expected a URL without \? and #, such as \S+, got http://h/\?…$"):
        Client("http://h/?token=s3cret", "--url")


def test_a_secret_in_a_url_is_never_shown(exporter: Exporter) -> None:
    """A password is accepted only where the option says so, and is sent as basic authentication; a query never is."""
    urls = ["http://me:s3cret@127.0.0.1:9877", "htp://me:s3cret@127.0.0.1:9877", "http://127.0.0.1:9877/?token=s3cret"]
    for url in urls:
        with pytest.raises(ExporterError) as caught:
            Client(url, "--url")
        assert "s3cret" not in str(caught.value)
    with Client(exporter.url.replace("//", "//me:s3cret@"), "--exporter", user_in_url=True) as client:
        assert client.url == exporter.url
        client.request("POST", "/v1/predictions", b"{}")
    assert exporter.requests[0]["headers"]["Authorization"] == basic_authorization("me", "s3cret")


def test_a_token_is_read_for_each_request(exporter: Exporter, tmp_path: Path) -> None:
    """A token that is renewed while a command runs is used from then on."""
    file = tmp_path / "token"
    parser = argparse.ArgumentParser()
    common.add_credentials(parser, "MODEL_EXPORTER")
    options = parser.parse_args([f"--bearer-token-file={file}"])
    with Client(exporter.url, "--url", authorization=lambda: common.credentials(options).header()) as client:
        for token in ("first", "second"):
            file.write_text(f"{token}\n")
            client.request("POST", "/v1/predictions", b"{}")
    assert [request["headers"]["Authorization"] for request in exporter.requests] == ["Bearer first", "Bearer second"]
    file.write_text("two words")
    with pytest.raises(ExporterError, match=r"--bearer-token-file: .*: expected one line") as caught:
        common.credentials(options).header()
    assert "words" not in str(caught.value).replace(str(file), "")
