"""The examples of silences in the runbooks, run by the real amtool."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import yaml
from support.alertmanager import Running, alertmanager
from support.paths import ROOT
from support.servers import ask, eventually

RUNBOOKS = ROOT / "docs" / "runbooks"
URL = "--alertmanager.url=http://127.0.0.1:9093"


def label_names() -> dict[str, set[str]]:
    """The labels of each alert that the tests of the rules expect."""
    names: dict[str, set[str]] = {}
    for path in (ROOT / "prometheus" / "tests").glob("*.yml"):
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in test.get("alert_rule_test", []):
                for expected in case["exp_alerts"] or []:
                    names.setdefault(case["alertname"], {"alertname"}).update(expected["exp_labels"])
    return names


def examples() -> dict[str, list[str]]:
    """The arguments of ``amtool`` in each runbook's example."""
    commands = {}
    for path in RUNBOOKS.glob("*.md"):
        for block in re.findall(r"```sh\n(amtool silence add .*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            assert path.stem not in commands
            commands[path.stem] = shlex.split(block.replace("\\\n", " "))
    return commands


def matchers(command: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in command[3:] if not word.startswith("-"))


def test_every_example_silences_its_alert(tmp_path: Path) -> None:
    """Runbooks of alerts that are sent have an example that works, on labels of their alert, and silences no other."""
    commands, labels = examples(), label_names()
    silent = re.compile("Watchdog|Model(Feature[DM]|Prediction)")
    assert commands.keys() == {path.stem for path in RUNBOOKS.glob("*.md") if not silent.match(path.stem)}
    alerts = []
    for name, command in commands.items():
        chosen = matchers(command)
        assert chosen["alertname"] == name
        assert chosen.keys() <= labels[name], name
        alerts.append({"labels": dict.fromkeys(labels[name], "x") | chosen | {"severity": "warning"}})
        # Another model or exporter; without either, the silence is of all of them.
        if other := chosen.keys() & {"model", "instance", "reason"}:
            alerts.append({"labels": alerts[-1]["labels"] | dict.fromkeys(other, "another")})
    with alertmanager(tmp_path) as server:
        server.post(*alerts)
        for command in commands.values():
            assert URL in command
            words = [f"--alertmanager.url={server.url}" if word == URL else word for word in command]
            result = subprocess.run(words, capture_output=True, text=True, check=False)
            assert result.returncode == 0, (command, result.stderr)
        eventually(lambda: silenced(server) == dict.fromkeys(commands, 1))


def silenced(server: Running) -> dict[str, int]:
    """The number of silenced alerts by name."""
    counts: dict[str, int] = {}
    found: list[Any] = ask(f"{server.url}/api/v2/alerts?inhibited=true&silenced=true").json
    for alert in found:
        if alert["status"]["silencedBy"]:
            counts[alert["labels"]["alertname"]] = counts.get(alert["labels"]["alertname"], 0) + 1
    return counts


def test_the_commands_of_the_documentation_work(tmp_path: Path) -> None:
    """The test alert of docs/notifications.md reaches Alertmanager, and planned work of its model is silenced."""
    text = (ROOT / "docs" / "notifications.md").read_text(encoding="utf-8")
    (test,) = re.findall(r"```sh\n(amtool alert add .*?)```", text, re.DOTALL)
    (silence,) = re.findall(r"`(amtool silence add [^`]*--comment[^`]*)`", text, re.DOTALL)
    with alertmanager(tmp_path) as server:
        for command in (test, silence):
            assert URL in command
            script = " ".join(command.replace(URL, f"--alertmanager.url={server.url}").splitlines()).replace("\\", "")
            subprocess.run(["bash", "-ec", script], check=True, capture_output=True)
        eventually(lambda: silenced(server) == {"ModelLatencyHigh": 1})
