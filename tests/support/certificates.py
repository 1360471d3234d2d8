"""Keys and certificates for the tests."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from pathlib import Path

from support.servers import Served, eventually


def openssl(*arguments: str | Path, at: str = "now") -> None:
    subprocess.run(["faketime", at, "openssl", *arguments], check=True, capture_output=True)


def certificate(folder: Path, name: str, *more: str | Path, names: str = "IP:127.0.0.1", at: str = "now") -> None:
    """``NAME.crt`` and ``NAME.key``, valid for two days from ``at``; ``more`` may name the authority that signs."""
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"]
    files = ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"]
    openssl("req", "-x509", *new, *subject, *files, *more, at=at)


def signed_by(folder: Path, authority: str) -> list[str | Path]:
    """What `certificate` takes for one that an authority signed."""
    keys = ["-CA", folder / f"{authority}.crt", "-CAkey", folder / f"{authority}.key"]
    return [*keys, "-addext", "basicConstraints=critical,CA:FALSE"]


def serve_tls(folder: Path, certificates: Path, *flags: str) -> Served:
    """Start an exporter with ``server.crt`` and ``server.key`` of a folder; its URL stays that of HTTP."""
    files = f"cert_file: {certificates / 'server.crt'}, key_file: {certificates / 'server.key'}"
    (folder / "web.yml").write_text(f"tls_server_config: {{{files}}}")
    server = Served(folder, f"--web.config.file={folder / 'web.yml'}", *flags)
    server.launch()
    eventually(lambda: listens(server.port), 60)
    return server


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False
