"""What docs/security.md says of pages, paths and SQL, on every route that there is."""

from __future__ import annotations

import ast
import re
import socket
from collections.abc import Mapping
from contextlib import closing
from email.message import Message
from pathlib import Path

import pytest
from support.paths import ROOT
from support.servers import Served, ask, serving, write_config

from exporter.server.application import Exporter
from exporter.server.flask_app import create_app

PACKAGE = ROOT / "exporter"
VALUES = {"filename": "style.css", "model": "credit", "version": "3", "key": "none", "name": "ModelExporterDown"}
ELSEWHERE = re.compile(
    r"""(?:src|srcset|action|formaction|poster|data)\s*=\s*["']?\s*(?:https?:)?//"""
    r"""|<(?:link|base)[^>]*//|url\(\s*["']?\s*(?:https?:)?//|\bimport\b[^;]*["'](?:https?:)?//|@import"""
    r"""|<meta[^>]*refresh[^>]*//"""
)
INLINE = re.compile(r"""<script(?![^>]*\bsrc=)|<style|\sstyle\s*=|\son[a-z]+\s*=\s*["']|javascript:""", re.IGNORECASE)


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Method and address of every route of the application, and of some that are none."""
    with closing(Exporter(write_config(tmp_path_factory.mktemp("rules")))) as exporter:
        rules = list(create_app(exporter).url_map.iter_rules())
    requests = [("GET", "/nowhere"), ("DELETE", "/"), ("GET", "/static/nothing.js"), ("GET", "/drift?model=nobody")]
    for rule in rules:
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda match: VALUES.get(match[1], "1"), rule.rule)
        requests += [(method, path) for method in sorted(rule.methods or ()) if method in {"GET", "POST", "PATCH"}]
    return requests


def test_every_answer_has_the_security_headers(shared: Served, addresses: list[tuple[str, str]]) -> None:
    """On every route and status: scripts and styles from the same origin, none inline, no frames, no sniffing."""
    assert len(addresses) > 30
    for method, path in addresses:
        answer = ask(shared.url + path, None if method == "GET" else b"{}", method)
        assert answer.status < 500 or path == "/-/reload", path
        _check_security_headers(answer.headers, f"{method} {path}")
    accepted = shared.post("/v1/predictions", {"model": "credit"})
    assert accepted.status == 202
    _check_security_headers(accepted.headers, "an accepted prediction")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"not HTTP at all\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000, 431),
        (b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n\r\n", 400),
        (b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nOrigin: http://evil\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 403),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"HEAD /review HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        (b"GET /review?model= HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 302),
    ],
)  # fmt: skip
def test_every_refusal_has_the_security_headers(shared: Served, sent: bytes, status: int) -> None:
    """Neither the parser, which answers before the application, nor a redirect goes without them."""
    with socket.create_connection(("127.0.0.1", shared.port), 10) as client:
        client.sendall(sent)
        head = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")[0].decode()
    line, *fields = head.split("\r\n")
    assert int(line.split()[1]) == status, head
    headers = Message()
    for field in fields:
        headers[field.partition(": ")[0]] = field.partition(": ")[2]
    _check_security_headers(headers, line)


def test_a_401_has_the_security_headers(tmp_path: Path) -> None:
    """The same holds for clients without a password or token."""
    write_config(tmp_path)
    (tmp_path / "tokens.yml").write_text(f"- {{name: one, sha256: '{'a' * 64}', scopes: [read]}}\n", encoding="utf-8")
    with serving(tmp_path, f"--web.tokens.file={tmp_path / 'tokens.yml'}") as served:
        for path in ("/review", "/metrics", "/static/style.css", "/v1/predictions"):
            answer = served.get(path)
            assert answer.status == 401
            _check_security_headers(answer.headers, path)


def _check_security_headers(headers: Mapping[str, str], where: str) -> None:
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'", where
    assert {value for name, value in policy.items() if value != "'none'"} == {"'self'"}, where
    for name, value in {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}.items():
        assert headers[name] == value, where
        assert headers.get_all(name) == [value], where  # type: ignore[attr-defined]


def test_redirects_do_not_name_a_host(shared: Served) -> None:
    """They are relative: one that a proxy or an attacker's Host header leads elsewhere would take its reader along."""
    for target in ("/runbooks", "//runbooks", "/v1//corrections", "/review?model=", "/drift/"):
        with socket.create_connection(("127.0.0.1", shared.port), 10) as client:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert b"localhost" not in answer.partition(b"\r\n\r\n")[0], answer[:300]
        assert (b" 302 " in answer[:20]) == (target == "/review?model="), target


def test_no_page_asks_another_host_for_anything(shared: Served, addresses: list[tuple[str, str]]) -> None:
    """Neither a page nor its files name another origin except in links, and nothing is inline."""
    shared.post("/v1/predictions", {"id": "s-1", "model": "credit", "prediction": "yes", "inputs": {"photo": [[0, 9]]}})
    shared.post("/v1/feedback", {"prediction_id": "s-1", "verdict": "corrected", "label": "no"})
    pages = 0
    for method, path in addresses:
        answer = shared.get(path) if method == "GET" else None
        if answer and answer.headers["Content-Type"].startswith("text/html"):
            pages += 1
            assert not ELSEWHERE.search(answer.text), path
            assert not INLINE.search(answer.text), path
    assert pages >= 5
    for file in (PACKAGE / "server" / "static").iterdir():
        if file.suffix in {".js", ".css"}:
            text = file.read_text()
            assert not ELSEWHERE.search(text), file
            assert not re.search(
                r"""(?:fetch|open|EventSource|WebSocket|sendBeacon)\(\s*["'`](?:https?:|wss?:)?//""", text
            )
    assert ELSEWHERE.search('<img src="//evil.example/x">')
    assert ELSEWHERE.search("a { background: url(https://evil.example/x) }")
    assert INLINE.search('<p onclick="x()">')
    assert INLINE.search("<script>")


@pytest.mark.parametrize(
    "target",
    [
        "/runbooks/..%2f..%2f..%2fpyproject",
        "/runbooks/../../pyproject.toml",
        "/runbooks/%2e%2e%2fapi",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/cli.py",
        "/static//etc/passwd",
        "/static/%00style.css",
        "/v1/corrections/1/inputs/..%2f..%2fphoto.png",
        "/v1/dataset/releases/..%2f..%2fexporter.yml",
        "/v1/dataset/releases/%2fetc%2fpasswd?format=jsonl",
    ],
)
def test_no_path_of_a_request_leads_out_of_a_folder(shared: Served, target: str) -> None:
    """Names in a path are looked up, never opened as files."""
    with socket.create_connection(("127.0.0.1", shared.port), 10) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 "), answer[:200]
    assert not any(text in answer for text in (b"root:", b"import ", b"models:", b"[project]"))


def test_sql_is_made_of_constants_and_parameters() -> None:
    """No statement is built from strings, except from names that are constants in the code."""
    allowed = {
        ("storage/_postgresql.py", "SELECT txid_current(), {set_timeout}, {function}({_WRITER_LOCK})"),
        ("storage/_postgresql.py", "SELECT {', '.join(settings)}"),
        ("storage/_postgresql.py", "VACUUM {table}"),
        ("storage/_sqlite.py", "PRAGMA {name}"),
        ("storage/_sqlite.py", "PRAGMA {pragma}"),
    }
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            statement = node.args[0]
            if name in {"text", "exec_driver_sql", "execute", "executemany"} and isinstance(
                statement, ast.JoinedStr | ast.BinOp
            ):
                found.add((str(file.relative_to(PACKAGE)), ast.unparse(statement)[2:-1]))
    assert found == allowed
