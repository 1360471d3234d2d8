"""Alertmanager's configuration without the receivers that cannot work on this machine.

Production, ``make up`` and containers use the same ``alertmanager.yml``. A receiver whose secret is missing would fail
with every notification, so it is left out, with a message.
"""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from exporter.config import load_yaml
from exporter.errors import ConfigError

_INBOX = "/v1/notifications"  # a webhook with this path is the exporter's inbox
# The name of an integration in messages, and the prefix of the global settings that it uses.
_KINDS = {"email_configs": ("E-mail", "smtp_"), "slack_configs": ("Slack", "slack_")}


def _files(node: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield every key ``…_file`` that names a file, at any depth."""
    for key, value in list(node.items()) if isinstance(node, dict) else []:
        if key.endswith("_file") and isinstance(value, str):
            yield node, key
        yield from _files(value)
    for value in node if isinstance(node, list) else []:
        yield from _files(value)


def _is_configured(kind: str, integration: dict[str, Any], shared: dict[str, Any], folder: Path) -> bool:
    """Return whether the files of an integration exist, and the mail server of an e-mail is set."""
    prefix = _KINDS.get(kind, ("", "http_"))[1]
    settings = [integration, {key: value for key, value in shared.items() if key.startswith(prefix)}]
    has_server = bool(integration.get("smarthost") or shared.get("smtp_smarthost"))
    return all((folder / node[key]).is_file() for node, key in _files(settings)) and (
        kind != "email_configs" or has_server
    )


def usable(
    config: dict[str, Any], folder: Path, *, inbox: str, smarthost: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration without unusable receivers, and the names of those, such as ``Slack to team``.

    Parameters
    ----------
    config
        A parsed ``alertmanager.yml``; it is not changed.
    folder
        The folder that its relative paths start from.
    inbox
        URL of the exporter's inbox.
    smarthost
        ``host:port`` of a mail catcher without TLS and password, instead of the file's mail server.
    """
    config = copy.deepcopy(config)
    shared = config["global"] = config.get("global") or {}
    if smarthost:
        mail = {key: value for key, value in shared.items() if not key.startswith("smtp_auth_")}
        shared = config["global"] = {**mail, "smtp_smarthost": smarthost, "smtp_require_tls": False}
    off: list[str] = []
    for receiver in config.get("receivers") or []:
        for kind in [key for key in receiver if key.endswith("_configs")]:
            for integration in receiver.pop(kind) or []:
                if str(integration.get("url", "")).endswith(_INBOX):
                    integration["url"] = inbox
                if _is_configured(kind, integration, shared, folder):
                    receiver.setdefault(kind, []).append(integration)
                else:
                    name = _KINDS.get(kind, (kind.removesuffix("_configs").capitalize(), ""))[0]
                    off.append(f"{name} to {receiver['name']}")
    return config, off


def _copy(secret: Path, folder: Path, owner: int) -> Path:
    """Copy a secret into a folder, readable by one user; return its new path."""
    copied = folder / secret.name
    copied.unlink(missing_ok=True)
    copied.touch(mode=0o600)
    shutil.copyfile(secret, copied)
    os.chown(copied, owner, -1)
    return copied


def describe(off: list[str]) -> str:
    """Say in a line which receivers of `usable` are left out.

    >>> describe(["E-mail to team", "Slack to team", "E-mail to stakeholders"])
    'Alerts reach the home page. Not configured: E-mail, Slack; see docs/notifications.md.'
    """
    kinds = dict.fromkeys(name.partition(" to ")[0] for name in off)
    return f"Alerts reach the home page. Not configured: {', '.join(kinds)}; see docs/notifications.md."


def write(
    source: Path, target: Path, *, inbox: str, smarthost: str | None = None, secrets_owner: int | None = None
) -> list[str]:
    """Write a copy that works here, with absolute paths; return the receivers that are left out.

    With ``secrets_owner``, each secret is copied beside the target, readable by this user alone.

    Raises
    ------
    ConfigError
        When ``source`` cannot be read or is not a mapping, or ``target`` cannot be written.
    """
    document = load_yaml(source)
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: expected keys such as route: and receivers:")
    folder = source.resolve().parent
    config, off = usable(document, folder, inbox=inbox, smarthost=smarthost)
    config["templates"] = [str(folder / pattern) for pattern in config.get("templates") or []]
    try:
        for node, key in _files(config):
            secret = folder / node[key]
            node[key] = str(secret if secrets_owner is None else _copy(secret, target.parent, secrets_owner))
        target.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename or target}: cannot be copied or written: {error.strerror}") from None
    return off


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m demo.receivers``; return its exit status, 1 for a failure, 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.receivers",
        description="Write Alertmanager's configuration without the receivers that cannot work here.",
    )
    parser.add_argument("source", type=Path, help="alertmanager.yml")
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("--inbox", required=True, metavar="URL", help="URL of the exporter's inbox")
    parser.add_argument("--smarthost", metavar="HOST:PORT", help="a mail catcher without TLS and password")
    parser.add_argument(
        "--secrets-owner", type=int, metavar="UID", help="copy the secrets to the target, for this user"
    )
    options = parser.parse_args(arguments)
    try:
        off = write(
            options.source,
            options.target,
            inbox=options.inbox,
            smarthost=options.smarthost,
            secrets_owner=options.secrets_owner,
        )
    except ConfigError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    if off:
        print(describe(off))
    return 0


if __name__ == "__main__":
    sys.exit(main())
