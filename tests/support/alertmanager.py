"""A real Alertmanager on the project's configuration, with an HTTP server and a small mail server as receivers."""

from __future__ import annotations

import email
import email.policy
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import yaml

from demo.receivers import write
from support import programs
from support.fake_exporter import Exporter
from support.paths import ROOT
from support.programs import Program, require
from support.servers import ask

SOURCE = ROOT / "alertmanager" / "alertmanager.yml"
SECRETS = ("smtp_password", "slack_url", "webhook_url", "watchdog_url")


class Received:
    """What arrived, by the path it was posted to, and the mails with their recipients."""

    def __init__(self) -> None:
        self.web = Exporter(always=(200, {}, b"ok"))
        self.mails: list[tuple[str, EmailMessage]] = []
        self.mailed_at: list[float] = []  # by the monotonic clock
        self.smtp = 0  # a port

    @property
    def posts(self) -> list[tuple[str, Any]]:
        return [(request["path"], body) for request in list(self.web.requests) for body in request["events"]]

    def at(self, path: str) -> list[Any]:
        return [body for where, body in self.posts if where == path]

    def mailed(self, to: str) -> list[EmailMessage]:
        return [mail for recipient, mail in self.mails if recipient == to]


@contextmanager
def receiving() -> Iterator[Received]:
    received = Received()

    class Mail(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            to = ""
            self.wfile.write(b"220 sink\r\n")
            while line := self.rfile.readline():
                verb = line[:4].upper()
                if verb == b"RCPT":
                    to = line.decode().split("<")[1].split(">")[0]
                if verb == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = iter(self.rfile.readline, b".\r\n")
                    data = b"".join(line.removeprefix(b".") for line in lines)
                    mail = email.message_from_bytes(data, policy=email.policy.default)
                    assert isinstance(mail, EmailMessage)
                    received.mailed_at.append(time.monotonic())
                    received.mails.append((to, mail))
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                if verb == b"QUIT":
                    return

    class MailServer(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with MailServer(("127.0.0.1", 0), Mail) as mail:
        received.smtp = mail.server_address[1]
        thread = threading.Thread(target=mail.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield received
        finally:
            received.web.close()
            mail.shutdown()
            thread.join()


def copied(folder: Path, **secrets: str) -> Path:
    """The configuration in a folder of its own, with these secret files."""
    shutil.copytree(SOURCE.parent, folder, ignore=shutil.ignore_patterns(*SECRETS))
    for name, value in secrets.items():
        (folder / "secrets" / name).write_text(value)
    return folder / SOURCE.name


SPEED = 400
"""How much shorter waits are than in the configuration."""


def seconds(text: str) -> int:
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1]]


def quickened(route: dict[str, Any], speed: int) -> None:
    """The same waits in a shorter time; repetitions stay out of the test."""
    for key in {"group_wait", "group_interval"} & set(route):
        route[key] = f"{1000 * seconds(route[key]) // speed}ms"
    for child in route.get("routes", []):
        quickened(child, speed)


class Running:
    """An Alertmanager that runs, and what it sent."""

    def __init__(self, received: Received, program: Program) -> None:
        self.url = program.url
        self.received = received
        self.program = program

    def post(self, *alerts: dict[str, Any]) -> None:
        answer = ask(f"{self.url}/api/v2/alerts", list(alerts))
        assert answer.status == 200, answer.text

    def alerts(self) -> dict[str, str]:
        """State by alert name."""
        alerts = ask(f"{self.url}/api/v2/alerts").json
        return {alert["labels"]["alertname"]: alert["status"]["state"] for alert in alerts}


@contextmanager
def alertmanager(tmp_path: Path, speed: int = SPEED) -> Iterator[Running]:
    """A real Alertmanager on the adapted configuration, every receiver on and pointing at the test."""
    require("amtool", 0, 26)
    with receiving() as received:
        base_url = received.web.url
        source = copied(
            tmp_path / "alertmanager",
            slack_url=f"{base_url}/slack",
            webhook_url=f"{base_url}/pager",
            watchdog_url=f"{base_url}/watchdog",
        )
        target = tmp_path / "adapted.yml"
        off = write(source, target, inbox=f"{base_url}/v1/notifications", smarthost=f"127.0.0.1:{received.smtp}")
        assert off == []
        config = yaml.safe_load(target.read_text())
        quickened(config["route"], speed)
        with programs.alertmanager(tmp_path, config, "--web.external-url=http://127.0.0.1:9093") as program:
            yield Running(received, program)
    assert "level=error" not in (tmp_path / "alertmanager.log").read_text().lower()


def alert(name: str, severity: str, layer: str, summary: str = "", description: str = "", **labels: str) -> Any:
    model = labels.get("model", "")
    return {
        "labels": {"alertname": name, "severity": severity, "layer": layer, **labels},
        "annotations": {
            "summary": summary or f"{name} of {model}",
            "description": description,
            "runbook_url": f"http://127.0.0.1:9877/runbooks/{name}",
            "dashboard_url": f"http://127.0.0.1:3000/d/model-{layer}?var-model={model}&var-version=3",
        },
        "generatorURL": f"http://127.0.0.1:9090/graph?g0.expr={name.lower()}&g0.tab=1",
    }


def now() -> str:
    return datetime.now(UTC).isoformat()


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def amtool(*arguments: str | Path) -> str:
    require("amtool", 0, 26)
    result = subprocess.run(["amtool", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
