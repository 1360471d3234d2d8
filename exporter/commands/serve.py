"""Receive predictions and feedback of models, and serve their metrics at /metrics.

Example::

    model-exporter serve --config.file=exporter.yml --web.listen-address=:9877

See docs/commands.md#serve.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
from pathlib import Path

from exporter.commands.common import add_config_file, add_log_options, add_web_files, address, configure_logging

DEFAULT_ADDRESS = "127.0.0.1:9877"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    add_config_file(parser)
    text = "address to listen on (%(default)s); without a host, all addresses"
    parser.add_argument("--web.listen-address", type=address, default=DEFAULT_ADDRESS, metavar="HOST:PORT", help=text)
    parser.add_argument("--web.unix-socket", metavar="FILE", help="Unix socket to listen on as well")
    add_web_files(parser)
    text = "serve /metrics and probes without authentication"
    parser.add_argument("--web.open-metrics", action="store_true", help=text)
    add_log_options(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal stops the process, which then ends at once."""
    gc.disable()  # what is allocated at the start stays, the imported modules included: there is nothing to collect
    from exporter.server import access
    from exporter.server.application import Exporter
    from exporter.server.serve import log_state, log_version, serve

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # before there is anything to reload
    configure_logging(options.log_level, options.log_format)
    host, port = options.web_listen_address
    config_file = options.config_file or Path("exporter.yml")
    log_version(config_file)
    web = access.load(options.web_config_file, options.web_tokens_file, options.web_open_metrics)
    exporter = Exporter(config_file)
    log_state(exporter)
    exporter.reloader.others.append(lambda: web.reload(options.web_config_file, options.web_tokens_file))
    try:
        serve(exporter, host or "0.0.0.0", port, web, options.web_unix_socket)  # noqa: S104 (what :9877 means)
    finally:
        exporter.close()
    logging.shutdown()
    os._exit(0)  # Python would wait for threads, such as one that reads an archive which does not answer
