"""The log of a start: version, configuration, database, models, addresses, and who may send requests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.servers import CONFIG, Served, eventually, serving, write_config

from exporter.server import access
from exporter.server.serve import log_access
from exporter.version import version

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
