"""Reviewers with names: an exporter that knows them by their tokens."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from support.corrections import correct, mistake
from support.servers import CONFIG, Answer, Served, ask, write_config

NAMES = ("anna", "ben", "cleo")


def token(name: str) -> dict[str, str]:
    """The header of the token of a reviewer, which is the name backwards."""
    return {"Authorization": f"Bearer {name[::-1]}"}


def reviewed_by_names(folder: Path, database: str, corrections: int) -> Served:
    """Start an exporter with corrections, and the users whose names are `NAMES`; ``service`` may not review."""
    folder.mkdir(exist_ok=True)
    write_config(folder, {**CONFIG, "store": {"url": database, "replica": folder.name}})
    server = with_names(folder)
    if corrections:
        correct(server, [mistake(f"m-{number}") for number in range(corrections)])
    return server


def with_names(folder: Path, *more: str) -> Served:
    """Start an exporter of the configuration in a folder, whose service has ``more`` scopes than it needs."""
    scopes = {name: ["read", "review"] for name in NAMES} | {"service": ["ingest", "feedback", "read", *more]}
    tokens = [
        {"name": name, "sha256": hashlib.sha256(name[::-1].encode()).hexdigest(), "scopes": allowed}
        for name, allowed in scopes.items()
    ]
    (folder / "tokens.yml").write_text(yaml.safe_dump(tokens))
    server = Served(folder, f"--web.tokens.file={folder / 'tokens.yml'}").start()
    server.headers = token("service")
    return server


def pending(server: Served, query: str = "") -> list[str]:
    """Return the identifiers of pending corrections."""
    return [one["id"] for one in server.get(f"/v1/corrections?status=pending&{query}").json["corrections"]]


def decide(server: Served, name: str, correction_id: str, status: str, revision: int = 1, **body: Any) -> Answer:
    """Decide a correction as a reviewer."""
    document = {"status": status, "revision": revision, **body}
    return ask(f"{server.url}/v1/corrections/{correction_id}", document, "PATCH", **token(name))


def in_parallel(*calls: Any) -> list[Any]:
    """Call functions at the same moment, each in a thread; return their results."""
    barrier = threading.Barrier(len(calls))

    def started(call: Any) -> Any:
        barrier.wait(60)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(started, calls))
