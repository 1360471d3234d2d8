"""Create a bearer token.

Print its entry for the tokens file on standard output, and the token on standard error.

Example::

    model-exporter token loans-service --scope=ingest >> tokens.yml

See docs/configuration.md#tokens.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys

from exporter.server.access import SCOPES, check_tokens, digest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("name", metavar="NAME", help="name of the program that will use the token")
    text = "what the token permits; repeatable"
    parser.add_argument("--scope", dest="scopes", action="append", required=True, choices=SCOPES, help=text)


def run(options: argparse.Namespace) -> int:
    """Create a token: print its entry for the tokens file on standard output, the token itself on standard error."""
    token = f"mex_{secrets.token_urlsafe(32)}"
    entry = {"name": options.name, "sha256": digest(token).hex(), "scopes": list(dict.fromkeys(options.scopes))}
    check_tokens([entry], "token")
    for key, value in entry.items():
        print("- " if key == "name" else "  ", key, ": ", json.dumps(value, ensure_ascii=False), sep="")
    sys.stdout.flush()
    print(f"The token, shown this once: {token}", file=sys.stderr)
    return 0
