"""Secrets that are planted everywhere come out nowhere."""

from __future__ import annotations

import base64
import hashlib
import signal
import socket
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml
from support.servers import CONFIG, Served, eventually, write_config

from exporter.cli import main
from exporter.server.routes import ROUTES

PASSWORD, TOKEN, WRONG, URL = "hunter2-password", "mex_planted-token", "wrong-planted-secret", "planted-database-word"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
ALICE = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
NOBODY = base64.b64encode(f"alice:{WRONG}".encode()).decode()
SECRETS = (PASSWORD, TOKEN, WRONG, URL, HASH, DIGEST, ALICE, NOBODY, base64.b64encode(WRONG.encode()).decode())


def leaked(text: str) -> list[str]:
    """The planted secrets in a text."""
    return [secret for secret in SECRETS if secret in text]


def test_no_secret_is_in_a_log_a_metric_a_page_or_an_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Valid and invalid passwords and tokens, on every route and in broken requests, are in no output."""
    write_config(tmp_path)
    web, tokens = tmp_path / "web.yml", tmp_path / "tokens.yml"
    web.write_text(yaml.safe_dump({"basic_auth_users": {"alice": HASH}}))
    tokens.write_text(yaml.safe_dump([{"name": "all", "sha256": DIGEST, "scopes": ["read", "ingest"]}]))
    server = Served(tmp_path, f"--web.config.file={web}", f"--web.tokens.file={tokens}", "--log.level=debug").start()
    outputs = []
    with server:
        credentials = (
            f"Basic {ALICE}",
            f"Bearer {TOKEN}",
            f"Basic {NOBODY}",
            f"Bearer {WRONG}",
            f"Digest {WRONG}",
            WRONG,
        )
        for header in credentials:
            for route in ROUTES:
                method, path = route.split()
                path = (
                    path.replace("<int:correction_id>", "1")
                    .replace("<key>", "x")
                    .replace("<name>", "ModelFeatureDrift")
                )
                if "reload" not in path:
                    answer = getattr(server, "get" if method == "GET" else "post")(
                        path, *([] if method == "GET" else [b"{"]), Authorization=header
                    )
                    outputs.append(f"{answer.headers}{answer.body!r}")
        broken = (
            b"POST /v1/predictions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 9\r\n\r\n{",
            b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\nContent-Length: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\x00\r\n\r\n",
        )
        for head in broken:
            with socket.create_connection(("127.0.0.1", server.port), 10) as client:
                client.sendall(head % WRONG.encode())
                client.shutdown(socket.SHUT_WR)
                outputs.append(repr(client.recv(10_000)))
        mistakes: list[tuple[Path, Any]] = [
            (web, {"basic_auth_users": {"alice": PASSWORD}}),
            (web, {"basic_auth_users": {"alice": [PASSWORD]}}),
            (web, {"basic_auth_users": [PASSWORD]}),
            (tokens, [{"name": "all", "sha256": TOKEN, "scopes": ["read"]}]),
            (tokens, [TOKEN]),
            (tokens, TOKEN),
            (web, PASSWORD),
            (tokens, [{"name": "all", "token": DIGEST, "scopes": ["read"]}]),
            (tmp_path / "exporter.yml", {**CONFIG, "store": {"url": f"postgresql://u:{URL}@127.0.0.1:1/x"}}),
            (tmp_path / "exporter.yml", {**CONFIG, "store": {"url": f"postgresql:/u:{URL}@127.0.0.1:1/x"}}),
            (tmp_path / "exporter.yml", {**CONFIG, "store": {"url": f"mysql://u:{URL}@127.0.0.1/x"}}),
        ]
        for path, document in mistakes:
            good = path.read_text()
            path.write_text(yaml.safe_dump(document))
            count = server.log.read_text().count('"reload: ')
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda count=count: server.log.read_text().count('"reload: ') > count)
            outputs.append(server.post("/-/reload", b"", Authorization=f"Basic {ALICE}").text)
            flags = [f"--web.config.file={web}", f"--web.tokens.file={tokens}"]
            fine = URL in str(document) and "postgresql://" in str(document)  # it is right; a reload refuses the change
            assert main(["check-config", str(tmp_path / "exporter.yml"), *flags]) == (0 if fine else 1)
            outputs += capfd.readouterr()
            path.write_text(good)
    assert len(outputs) > 100
    assert leaked("".join(outputs)) == []
    assert leaked(server.log.read_text()) == []
    assert leaked(f"a {WRONG}") == [WRONG]
