"""Log the start: version, configuration, database, models, and who may send requests."""

from __future__ import annotations

import ipaddress
import logging
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from exporter.config import ModelConfig, StoreConfig
from exporter.monitoring.registry import MonitorRegistry
from exporter.server.application import Exporter
from exporter.server.web_config import WebConfig
from exporter.storage.archive_files import ArchiveFiles
from exporter.storage.engine import shown_url

log = logging.getLogger(__name__)

SHOWN_NAMES = 20
"""Users and tokens that are named; more are counted."""


def log_version(config_file: Path) -> None:
    """Log the version, and the configuration that is about to be read."""
    log.info(
        "starting model-exporter %s with Python %s as process %d, configuration %s",
        version("model-exporter"),
        platform.python_version(),
        os.getpid(),
        config_file.absolute(),
    )


def log_state(exporter: Exporter) -> None:
    """Log the database and the models, each with its profiles."""
    log.info("%s", _database(exporter.config.store, exporter.store.replica))
    for model in exporter.config.models:
        if exporter.pipeline.monitors.binners_of(model.name):
            log.info("model %r: %s", model.name, _profiles(model, exporter.pipeline.monitors))
        else:
            log.warning("model %r has no profile: its inputs are not monitored", model.name)
    if not exporter.config.models:
        log.warning("no model is configured yet: %s has no valid file", exporter.reloader.files.folder)
    restored = sum(1 for _ in exporter.pipeline.monitors)
    if restored:
        log.info("versions whose windows were restored from the database: %d", restored)


def log_access(web: WebConfig, host: str) -> None:
    """Log who may send requests; warn where that is anyone on the network.

    Parameters
    ----------
    web
        Users, tokens and TLS.
    host
        The IP address that the exporter listens on.
    """
    needs_certificate = web.tls is not None and web.tls.client_ca_file is not None
    if not web.guarded and not needs_certificate and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        log.warning(
            "anyone who can reach %s may read and write everything, because there are neither users nor tokens: set "
            "--web.config.file or --web.tokens.file, or listen on 127.0.0.1",
            "any address of this machine" if ipaddress.ip_address(host).is_unspecified else host,
        )
        return
    log.info("%s", _access(web, needs_certificate))


def _database(store: StoreConfig, replica: str) -> str:
    archived = f" and then archived in {ArchiveFiles(store.archive).shown}" if store.archive else ""
    parts = [
        f"database {shown_url(store.url)}",
        f"predictions are kept for {store.retention}{archived}",
        f"inputs {store.inputs}",
    ]
    if store.max_size:
        parts.append(f"at most {store.max_size}")
    if replica:
        parts.append(f"replica {replica!r}")
    return ", ".join(parts)


def _profiles(model: ModelConfig, monitors: MonitorRegistry) -> str:
    texts = []
    for name, path in ((None, model.profile), *model.profiles.items()):
        if path is not None and (binner := monitors.binner(model.name, name or "")):
            profile = binner.profile
            of_version = "" if name is None else f"version {name!r} "
            texts.append(f"{of_version}profile {path} ({len(profile.inputs)} inputs, {profile.rows} rows)")
    return f"{_listed(texts, '; ')}; windows {', '.join(model.windows)}"


def _access(web: WebConfig, needs_certificate: bool) -> str:
    parts = []
    if needs_certificate and web.tls:
        parts.append(f"a client needs a certificate from {web.tls.client_ca_file}")
    if web.users:
        parts.append(f"users may do everything: {_listed(sorted(web.users))}")
    if web.tokens is not None:
        tokens = sorted(f"{token.name} ({', '.join(sorted(token.scopes))})" for token in web.tokens.values())
        parts.append(f"tokens may do what their scopes allow: {_listed(tokens)}" if tokens else "no token is valid")
    if web.guarded and web.open_metrics:
        parts.append("anyone may read /metrics and the probes")
    if not web.guarded:
        parts.append("there are neither users nor tokens, so each client may read and write everything")
    return "; ".join(parts)


def _listed(names: Iterable[str], separator: str = ", ") -> str:
    every = list(names)
    more = [f"and {len(every) - SHOWN_NAMES} more"] * (len(every) > SHOWN_NAMES)
    return separator.join([*every[:SHOWN_NAMES], *more])
