"""The commands ``dataset release`` and ``dataset list``: make releases, and list them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from exporter.commands.common import set_help
from exporter.commands.dataset.requests import TIMEOUT, send
from exporter.commands.exporter_client import add_exporter_options, exporter_client


def add_release(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dataset release``."""
    set_help(
        parser,
        "Create a release of the accepted corrections of a model. Its content never changes.",
        "model-exporter dataset release --model=digits --name=2026-11",
        "docs/dataset.md#releases",
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="model whose corrections are released")
    parser.add_argument("--name", metavar="NAME", help="name of the release; default: derived from the content")
    text = "omit the corrections of users who sent far more than others"
    parser.add_argument("--hold-back", action="store_true", help=text)
    parser.set_defaults(step=_release)
    add_exporter_options(parser)


def add_list(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dataset list``."""
    set_help(
        parser,
        "List the releases, the newest first.",
        "model-exporter dataset list --model=digits",
        "docs/dataset.md#releases",
    )
    parser.add_argument("--model", metavar="NAME", help="only releases of this model")
    parser.set_defaults(step=_list)
    add_exporter_options(parser)


def _release(options: argparse.Namespace) -> int:
    body = {"model": options.model} | ({"name": options.name} if options.name else {})
    if options.hold_back:
        body["hold_back"] = True
    with exporter_client(options, TIMEOUT) as client:
        _print_release(send(client, "POST", "/v1/dataset/releases", body))
    return 0


def _list(options: argparse.Namespace) -> int:
    path = "/v1/dataset/releases" + (f"?{urlencode({'model': options.model})}" if options.model else "")
    with exporter_client(options, TIMEOUT) as client:
        while path:
            page = send(client, "GET", path)
            for release in page["releases"]:
                _print_release(release)
            query = urlsplit(page["next"] or "").query
            path = f"/v1/dataset/releases?{query}" if query else ""
    return 0


def _print_release(release: Mapping[str, Any]) -> None:
    print(f"{release['id']}  {release['created'][:19]}Z  {release['examples']:>8} examples  {release['name']}")
