"""The commands ``dataset release`` and ``dataset list``: make releases, and list them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from exporter.commands.common import set_help
from exporter.commands.dataset.requests import TIMEOUT, send
from exporter.commands.dataset.summary import summary
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
    text = "omit accepted corrections whose label may be wrong, until a reviewer has decided them again"
    parser.add_argument("--exclude-suspects", action="store_true", help=text)
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
    if options.exclude_suspects:
        body["exclude_suspects"] = True
    with exporter_client(options, TIMEOUT) as client:
        release = send(client, "POST", "/v1/dataset/releases", body)
    _print_release(release)
    for line in summary(release["lineage"]):
        print(line)
    _print_suspects(release, client.url)
    return 0


def _list(options: argparse.Namespace) -> int:
    path = "/v1/dataset/releases" + (f"?{urlencode({'model': options.model})}" if options.model else "")
    found = False
    with exporter_client(options, TIMEOUT) as client:
        while path:
            page = send(client, "GET", path)
            for release in page["releases"]:
                found = True
                _print_release(release)
            query = urlsplit(page["next"] or "").query
            path = f"/v1/dataset/releases?{query}" if query else ""
    if not found:
        of_model = f" of model {options.model}" if options.model else ""
        print(f"model-exporter: there is no release{of_model} yet", file=sys.stderr)
    return 0


def _print_release(release: Mapping[str, Any]) -> None:
    print(f"{release['id']}  {release['created'][:19]}Z  {release['examples']:>8} examples  {release['name']}")


def _print_suspects(release: Mapping[str, Any], url: str) -> None:
    """Tell how many labels may be wrong; a release of an older exporter does not know."""
    suspects = release["lineage"].get("suspects")
    if suspects is None:
        return
    if suspects["checked"] is None:
        print("its labels were not checked yet")
    elif suspects["found"]:
        what = "left out" if suspects["excluded"] else "in it"
        of_model = {
            "model": release["model"],
            "status": "accepted",
            "suspect": "true",
            "order": "suspect",
            "source": "all",
        }
        print(f"suspect labels: {suspects['found']} {what}; review them at {url}/review?{urlencode(of_model)}")
