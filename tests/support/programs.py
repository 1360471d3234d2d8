"""Prometheus and Alertmanager as processes, and their rules with shorter times."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.servers import Served, ask, eventually, free_port

ALERTMANAGER = shutil.which("prometheus-alertmanager") or "alertmanager"


def require(program: str, *least: int) -> None:
    """Skip the test where a program is missing or older than a version."""
    command = [program, "--version"]
    output = shutil.which(program) and subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+(?:\.\d+)+", output or "")
    if found is None or tuple(map(int, found[0].split("."))) < least:
        needed = ".".join(map(str, least))
        pytest.skip(f"needs {program} {needed} or newer, found {found[0] if found else 'none'}")


class Program:
    """A server that can be killed and started again."""

    def __init__(self, folder: Path, name: str, command: list[str], url: str) -> None:
        self._log, self._command, self.url = folder / f"{name}.log", command, url
        self._child: subprocess.Popen[bytes]

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(self._command, stdout=log, stderr=log)
        eventually(lambda: self._child.poll() is not None or answers(f"{self.url}/-/ready"), 30)
        assert self._child.poll() is None, self._log.read_text()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._child.kill()
        self._child.wait(20)

    def stop(self) -> None:
        """End it."""
        self._child.terminate()
        self._child.wait(20)


@contextmanager
def running(folder: Path, name: str, command: list[str], url: str) -> Iterator[Program]:
    """A server until the block ends, ready at its start."""
    program = Program(folder, name, command, url)
    try:
        program.start()
        yield program
    finally:
        program.stop()


def scraping(*exporters: Served) -> dict[str, Any]:
    """Configuration of a Prometheus that scrapes exporters each second, and evaluates the rules in its folder."""
    targets = [f"127.0.0.1:{exporter.port}" for exporter in exporters]
    return {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules/*.yml"],
        "scrape_configs": [{"job_name": "model-exporter", "static_configs": [{"targets": targets}]}],
    }


@contextmanager
def prometheus(folder: Path, config: dict[str, Any], *flags: str) -> Iterator[Program]:
    """A Prometheus until the block ends."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address={(address := f'127.0.0.1:{free_port()}')}", *flags]
    with running(folder, "prometheus", command, f"http://{address}") as program:
        yield program


@contextmanager
def alertmanager(folder: Path, config: dict[str, Any], *flags: str) -> Iterator[Program]:
    """An Alertmanager until the block ends."""
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    command = [ALERTMANAGER, f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'am'}"]
    command += [f"--web.listen-address={(address := f'127.0.0.1:{free_port()}')}", "--cluster.listen-address=", *flags]
    with running(folder, "alertmanager", command, f"http://{address}") as program:
        yield program


def answers(url: str) -> bool:
    try:
        return ask(url).status == 200
    except OSError:
        return False


def quickened_rules(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.glob("*.yml"):
        document = yaml.safe_load(file.read_text())
        for group in document["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                if "for" in rule:
                    rule["for"] = "1s"
                if "keep_firing_for" in rule:
                    rule["keep_firing_for"] = "20s"
        (target / file.name).write_text(yaml.safe_dump(document))


def quickened_routes(route: dict[str, Any]) -> None:
    route |= {"group_wait": "200ms", "group_interval": "1s"}
    for child in route.get("routes", []):
        quickened_routes(child)
