"""The first failure to send is one warning that names the cause and what to do about it."""

from __future__ import annotations

import http.server
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import certificate, serve_tls, signed_by
from support.fake_exporter import Exporter, nobody
from support.servers import Served, eventually, write_config

from exporter import Monitor
from exporter.errors import ExporterError

# CPython leaves a socket to the garbage collector when its server resets the connection before the handshake begins.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")

KEPT = "cannot send events, the newest 10,000 are kept: "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates: of a private authority, and of servers that it vouches for."""
    folder = tmp_path_factory.mktemp("certificates")
    certificate(folder, "authority")
    certificate(folder, "other")
    certificate(folder, "server", *signed_by(folder, "authority"))
    certificate(folder, "elsewhere", *signed_by(folder, "authority"), names="DNS:exporter.example.com")
    certificate(folder, "expired", *signed_by(folder, "authority"), at="2020-01-01")
    return folder


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Served]:
    """An exporter with TLS and tokens."""
    here = tmp_path_factory.mktemp("secured")
    write_config(here)
    command = [sys.executable, "-m", "exporter.cli", "token", "service", "--scope=ingest"]
    token = subprocess.run(command, check=True, capture_output=True, text=True)
    (here / "token").write_text(token.stderr.split()[-1])
    (here / "tokens.yml").write_text(token.stdout)
    with serve_tls(here, folder, f"--web.tokens.file={here / 'tokens.yml'}") as server:
        yield server


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The warnings of the client so far."""
    caplog.set_level(logging.DEBUG, "exporter.client")
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == "exporter.client" and record.levelno >= logging.WARNING
    ]


def _warned(url: str, warnings: Callable[[], list[str]], **options: Any) -> str:
    """Return the only warning of a monitor that keeps failing; feedback fails for the same reason."""
    monitor = Monitor(url, "credit", "3", **{"interval": 0.01, "timeout": 1.0, **options})

    def own() -> list[str]:
        return [warning for warning in warnings() if warning.startswith(f"{url}: ")]

    try:
        for _ in range(3):
            monitor.record(prediction="yes")
        monitor.flush(1.0)
        assert eventually(lambda: bool(own()), 20)
        with pytest.raises(ExporterError) as caught:
            monitor.feedback("r-1", "accepted")
    finally:
        monitor.close(0)
    (warning,) = own()
    warning = warning.removeprefix(f"{url}: ")
    reason = warning.partition(": ")[2]
    assert reason.partition(": ")[2] in str(caught.value)
    return warning


def test_a_port_where_no_exporter_answers(
    warnings: Callable[[], list[str]], tmp_path: Path, secured: Served, shared: Served
) -> None:
    """The warning says what is there instead, also where the scheme is the wrong one, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        reasons = {
            (
                url := nobody()
            ): f"connection refused: is the exporter running, and is {url.rpartition(':')[2]} its port?",
            "http://exporter.invalid:9877": "unknown host 'exporter.invalid': ",
            f"http://127.0.0.1:{silent.getsockname()[1]}": "timed out after 1 s: is it the right host and port",
            f"unix://{tmp_path}/exporter.sock": "No such file or directory: does the exporter listen there "
            "(--web.unix-socket), and may this user open it?",
            secured.url: f"the port expects TLS: use https://127.0.0.1:{secured.port}",
            f"https://127.0.0.1:{shared.port}": f"the port does not speak TLS: use http://127.0.0.1:{shared.port}",
        }
        for url, reason in reasons.items():
            assert _warned(url, warnings).startswith(KEPT + reason)


def test_http_to_a_tls_port_that_says_so(exporter: Exporter, warnings: Callable[[], list[str]]) -> None:
    """What nginx and servers in Go answer to plain HTTP on a TLS port is understood, too."""
    exporter.answers = [(400, {}, b"Client sent an HTTP request to an HTTPS server.\n")] * 2
    warning = _warned(exporter.url, warnings, interval=0.2)
    assert warning == f"3 events dropped: the port expects TLS: use {exporter.url.replace('http', 'https')}"


@pytest.mark.parametrize(
    ("server", "trusted", "reason"),
    [
        ("server", None, "private authority issued it, set ca_file to the authority's certificate"),
        ("server", "other", "private authority issued it, set ca_file to the authority's certificate"),
        ("elsewhere", "authority", "use a host in the URL that the certificate names"),
        ("expired", "authority", "renew the certificate, or correct the clock of this machine"),
    ],
)
def test_an_untrusted_certificate(
    exporter: Exporter,
    warnings: Callable[[], list[str]],
    folder: Path,
    server: str,
    trusted: str | None,
    reason: str,
) -> None:
    """A certificate that cannot be verified is told of with what mends it."""
    exporter.serve_tls(folder / f"{server}.crt", folder / f"{server}.key")
    warning = _warned(exporter.url, warnings, ca_file=trusted and folder / f"{trusted}.crt")
    assert warning.startswith(f"{KEPT}the certificate is not trusted (")
    assert warning.endswith(reason)


def test_a_private_authority(secured: Served, folder: Path, tmp_path: Path) -> None:
    """With ca_file and a token events reach an exporter of a private authority, also after the file was renewed."""
    authority = tmp_path / "authority.crt"
    authority.write_bytes((folder / "other.crt").read_bytes())
    url = f"https://127.0.0.1:{secured.port}"
    monitor = Monitor(url, "credit", "3", interval=0.01, ca_file=authority, token_file=secured.folder / "token")
    monitor.record(prediction="yes")
    assert not monitor.flush(0.3)
    authority.write_bytes((folder / "authority.crt").read_bytes())
    assert monitor.flush(30)
    assert (monitor.sent, monitor.dropped) == (1, 0)
    monitor.close()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read: No such file or directory"), ("neither key nor certificate\n", "expected certificates")],
)
def test_an_invalid_ca_file_is_refused_at_once(tmp_path: Path, content: str | None, reason: str) -> None:
    """A file without certificates is refused by the constructor."""
    path = tmp_path / "authority.crt"
    if content:
        path.write_text(content)
    with pytest.raises(ExporterError, match=f"ca_file: {path}: {reason}"):
        Monitor("https://exporter.example.com", "credit", ca_file=path)


def test_missing_and_wrong_credentials(
    secured: Served, folder: Path, warnings: Callable[[], list[str]], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """401 is told of with what gives a token, or that the one given is not right."""
    url, ca_file = f"https://127.0.0.1:{secured.port}", folder / "authority.crt"
    warning = _warned(url, warnings, ca_file=ca_file, interval=0.2)
    assert warning.startswith("3 events dropped: 401 ")
    assert warning.endswith(": set token_file or MODEL_EXPORTER_TOKEN, or a user and password in the URL")
    caplog.clear()
    (tmp_path / "token").write_text("mex_wrong")
    warning = _warned(url, warnings, ca_file=ca_file, token_file=tmp_path / "token")
    assert warning.endswith(": the exporter does not know the token, or the user and password")
    assert "mex_wrong" not in caplog.text


def test_other_servers_are_no_exporters(tmp_path: Path, warnings: Callable[[], list[str]], shared: Served) -> None:
    """A server that is something else, and a path that the exporter does not have, are told of."""
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
    warning = _warned(f"http://127.0.0.1:{other.server_port}", warnings)
    other.shutdown()
    other.server_close()
    assert warning.startswith(f"{KEPT}501 ")
    assert warning.endswith("is the URL an exporter's, with the right port and path?")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, {}, {"detail": "there is no such route"}), "404 there is no such route: is the URL an exporter's"),
        ((200, {}, b"<!doctype html>"), "200 <!doctype html>: is the URL an exporter's"),
        ((308, {"Location": "https://h/v1/x"}, b""), "308: use the URL that it redirects to, 'https://h/v1/x'"),
        ((413, {}, b"<h1>413 Request Entity Too Large</h1>"), "record smaller inputs, or raise the limit of the proxy"),
        ((403, {}, {"detail": "the token lacks a scope"}), "1 event dropped: 403 the token lacks a scope"),
        ((503, {}, {"detail": "the queue is full"}), f"{KEPT}503 the queue is full"),
        (
            (202, {}, {"accepted": 0, "rejected": [{"pointer": "/confidence", "detail": "expected 0 to 1"}]}),
            "1 event dropped: rejected by the exporter: /confidence: expected 0 to 1",
        ),
    ],
)
def test_refusals(exporter: Exporter, warnings: Callable[[], list[str]], answer: Any, reason: str) -> None:
    """A response that is not a success is told of with its detail and what to do."""
    exporter.answers = [answer]
    monitor = Monitor(exporter.url, "credit", "3", interval=0.01)
    monitor.record()
    assert monitor.flush()
    assert eventually(lambda: bool(warnings()))
    monitor.close()
    (warning,) = warnings()
    assert reason in warning


def test_one_warning_for_each_cause(
    exporter: Exporter, warnings: Callable[[], list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A cause is a warning once, later failures of it are for debugging; another cause is a warning of its own."""
    exporter.answers = [(503, {}, {"detail": "full"}), (503, {}, {"detail": "full"}), None, None]
    monitor = Monitor(exporter.url, "credit", "3", interval=0.01)
    monitor.record()
    assert monitor.flush(20)
    exporter.answers = [(503, {}, {"detail": "full"}), None]
    monitor.record()
    assert monitor.flush(20)
    monitor.close()
    assert monitor.sent == 2
    assert [warning.split(": ")[2] for warning in warnings()] == [
        "503 full",
        "no HTTP response (RemoteDisconnected('Remote end closed connection without response'))",
    ]
    assert len(caplog.records) >= 4


def test_lost_events_are_logged_once(exporter: Exporter, warnings: Callable[[], list[str]]) -> None:
    """More events than the buffer holds are a warning when the exporter is available, and debug output otherwise."""
    monitor = Monitor(exporter.url, "credit", capacity=100, interval=0.2)
    for _ in range(2):
        for _ in range(150):
            monitor.record()
        assert monitor.flush()
    monitor.close()
    (warning,) = warnings()
    assert warning.endswith("50 events dropped: more were recorded than could be sent")
    assert monitor.dropped == 100
