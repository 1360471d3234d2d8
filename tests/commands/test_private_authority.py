"""Commands against servers whose certificate a private authority issued."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.certificates import certificate, listens, serve_tls, signed_by
from support.processes import Run
from support.servers import Served, eventually, free_port, write_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates of an authority and of a server."""
    folder = tmp_path_factory.mktemp("certificates")
    certificate(folder, "authority")
    certificate(folder, "server", *signed_by(folder, "authority"))
    return folder


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Served]:
    here = tmp_path_factory.mktemp("exporter")
    write_config(here)
    (here / "scores.csv").write_text("age,income,country\n41,2000,NL\n")
    with serve_tls(here, folder) as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[int]:
    """The port of a Prometheus with TLS."""
    here = tmp_path_factory.mktemp("prometheus")
    (here / "prometheus.yml").write_text("{}\n")
    (here / "web.yml").write_text(
        f"tls_server_config: {{cert_file: {folder / 'server.crt'}, key_file: {folder / 'server.key'}}}"
    )
    port = free_port()
    flags = ["config.file=prometheus.yml", "web.config.file=web.yml", "storage.tsdb.path=tsdb"]
    command = ["prometheus", *(f"--{flag.replace('=', f'={here}/')}" for flag in flags)]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    with (here / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        eventually(lambda: listens(port), 60)
        yield port
        process.terminate()


def test_the_demo_trusts_a_private_authority(exporter: Served, folder: Path, tmp_path: Path) -> None:
    """The demo, its users and its model service send to an exporter with --ca-file; without it, the demo refuses."""
    url = f"https://127.0.0.1:{exporter.port}"
    command = [sys.executable, "-m", "demo", "run", f"--directory={tmp_path}", f"--exporter={url}"]
    command += [f"--listen-address=127.0.0.1:{free_port()}", "--rate=50", "--phases=healthy=2s"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1 and "set --ca-file to the authority's certificate" in refused.stderr
    trusting = [*command, f"--ca-file={folder / 'authority.crt'}"]
    with subprocess.Popen(trusting, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            # The exporter does not know the demo's model, but it knows who sends.
            eventually(lambda: "unknown_model" in exporter.log.read_text(), 30)
        finally:
            process.terminate()


@pytest.mark.parametrize("command", ["dataset", "ingest"])
def test_the_exporters_certificate(
    exporter: Served, folder: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Without --ca-file the error names it; with it, or with its variable, the command works. http:// is told of."""
    url = f"https://127.0.0.1:{exporter.port}"

    def errors(url: str, *more: str, status: int = 1) -> str:
        if command == "dataset":
            arguments = ["dataset", "export", f"--output={tmp_path / 'corrections.jsonl'}"]
        else:
            state = f"--state={tmp_path / url.partition(':')[0]}"
            arguments = ["ingest", f"{exporter.folder}/scores.csv", "--give-up=1s", state]
        return run(*arguments, "--model=credit", f"--exporter={url}", *more, status=status).err

    error = errors(url)
    assert "the certificate is not trusted (" in error
    assert "if a private authority issued it, set --ca-file to the authority's certificate" in error
    assert f"the port expects TLS: use {url}" in errors(exporter.url)
    missing = "model-exporter: --ca-file: /none: cannot be read: No such file or directory\n"
    assert errors(url, "--ca-file=/none") == missing
    errors(url, f"--ca-file={folder / 'authority.crt'}", status=0)
    monkeypatch.setenv("MODEL_EXPORTER_CA_FILE", str(folder / "authority.crt"))
    errors(url, status=0)


def test_https_to_a_plain_port(shared: Served, run: Run) -> None:
    """The URL that works is named."""
    error = run("explain", f"--exporter=https://127.0.0.1:{shared.port}", status=1).err
    assert f"the port does not speak TLS: use http://127.0.0.1:{shared.port}" in error


def test_prometheus_certificate(prometheus: int, folder: Path, run: Run) -> None:
    """`compare` asks a Prometheus with TLS."""
    url = f"--prometheus=https://127.0.0.1:{prometheus}"
    assert "set --ca-file to the authority's certificate" in run("compare", url, status=1).err
    error = run("compare", url, f"--ca-file={folder / 'authority.crt'}", status=1).err
    assert error == "model-exporter: Prometheus has no model: is the exporter scraped?\n"
