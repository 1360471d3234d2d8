"""Commands for the server: serve, check-config, token."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import secrets
import signal
import sys
from pathlib import Path

from exporter.commands.common import add_config_file, add_log_options, add_web_files, address, configure_logging
from exporter.errors import printable
from exporter.server import access

DEFAULT_ADDRESS = "127.0.0.1:9877"


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add_config_file(parser)
    text = "address to listen on (%(default)s); without a host, all addresses"
    parser.add_argument("--web.listen-address", type=address, default=DEFAULT_ADDRESS, metavar="HOST:PORT", help=text)
    parser.add_argument("--web.unix-socket", metavar="FILE", help="Unix socket to listen on as well")
    add_web_files(parser)
    text = "serve /metrics and probes without authentication"
    parser.add_argument("--web.open-metrics", action="store_true", help=text)
    add_log_options(parser)


def serve(options: argparse.Namespace) -> int:
    """Receive predictions and feedback, and serve metrics at /metrics.

    Example::

        model-exporter serve --config.file=exporter.yml --web.listen-address=:9877

    See docs/commands.md#serve.
    """
    gc.disable()  # what is allocated at the start stays, the imported modules included: there is nothing to collect
    from exporter.server import serve as server
    from exporter.server.application import Exporter

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # before there is anything to reload
    configure_logging(options.log_level, options.log_format)
    host, port = options.web_listen_address
    config_file = options.config_file or Path("exporter.yml")
    server.log_version(config_file)
    web = access.load(options.web_config_file, options.web_tokens_file, options.web_open_metrics)
    exporter = Exporter(config_file)
    server.log_state(exporter)
    exporter.reloader.others.append(lambda: web.reload(options.web_config_file, options.web_tokens_file))
    try:
        server.serve(exporter, host or "0.0.0.0", port, web, options.web_unix_socket)  # noqa: S104 (what :9877 means)
    finally:
        exporter.close()
    logging.shutdown()
    os._exit(0)  # Python would wait for threads, such as one that reads an archive which does not answer


def check_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("config", nargs="?", metavar="FILE", help="configuration (exporter.yml)")
    add_config_file(parser)
    add_web_files(parser)


def check_config(options: argparse.Namespace) -> int:
    """Check a configuration and the profiles that it names.

    The exit status is 1 if anything is wrong.

    Example::

        model-exporter check-config exporter.yml

    See docs/commands.md#check-config.
    """
    from exporter.server.model_files import load_valid  # loads numpy

    path = options.config or options.config_file or Path("exporter.yml")
    loaded = load_valid(path)
    access.load(options.web_config_file, options.web_tokens_file)
    for model in loaded.config.models:
        binner = loaded.monitors.nearest_binner(model.name)
        inputs = f"{len(binner.names)} features in {len(binner.targets)} profiled targets" if binner else "no profile"
        inputs += f" ({len(model.profiles)} versions have their own)" if model.profiles else ""
        print(f"{model.name}: {inputs}, windows {', '.join(model.windows)}")
    valid = loaded.valid.values()
    for fault in loaded.faults:
        print(f"model-exporter: {printable(str(fault))}", file=sys.stderr)
    print(f"{path} is valid" + (f"; in models_folder, {sum(valid)} of {len(valid)} files are" if valid else ""))
    return 1 if loaded.faults else 0


def token_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("name", metavar="NAME", help="name of the program that will use the token")
    text = "what the token permits; repeatable"
    parser.add_argument("--scope", dest="scopes", action="append", required=True, choices=access.SCOPES, help=text)


def token(options: argparse.Namespace) -> int:
    """Create a bearer token.

    Print its entry for the tokens file on standard output, and the token on standard error.

    Example::

        model-exporter token loans-service --scope=ingest >> tokens.yml

    See docs/configuration.md#tokens.
    """
    token = f"mex_{secrets.token_urlsafe(32)}"
    entry = {"name": options.name, "sha256": access.digest(token).hex(), "scopes": list(dict.fromkeys(options.scopes))}
    access.check_tokens([entry], "token")
    for key, value in entry.items():
        print("- " if key == "name" else "  ", key, ": ", json.dumps(value, ensure_ascii=False), sep="")
    sys.stdout.flush()
    print(f"The token, shown this once: {token}", file=sys.stderr)
    return 0
