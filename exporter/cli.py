"""The command ``model-exporter``."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from exporter.commands.cpu import sort_fast
from exporter.errors import ExporterError
from exporter.server.sockets import address

DEFAULT_ADDRESS = "127.0.0.1:9877"
_COMMANDS = {
    "profile": ("exporter.commands.profile", "freeze the training data's distributions into a profile"),
    "proxy": ("exporter.commands.proxy.command", "stand in front of a model server, and record what passes"),
    "ingest": ("exporter.commands.ingest.command", "the rows of a batch job: their drift, or to an exporter"),
    "token": ("exporter.commands.token", "make a bearer token, and its entry for the tokens file"),
    "compare": (
        "exporter.commands.compare.command",
        "two versions of a model, from Prometheus: is the new one better?",
    ),
    "dataset": ("exporter.commands.dataset", "training data out of reviewed corrections"),
    "up": ("exporter.commands.up.command", "the whole stack on this machine"),
    "demo": ("exporter.commands.demo.command", "a real model service, its traffic and its incidents"),
}
"""Modules with ``add_arguments`` and ``run``, and what the command does."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0 done, 1 failed, 2 wrong usage."""
    # Small matrices: further threads would wait for each other in busy loops, three times the work of a profile.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = sys.argv[1:] if arguments is None else arguments
    if "profile" in given:
        sort_fast()
    try:
        options = _parser(given).parse_args(given)
        status: int = options.run(options)
    except ModuleNotFoundError as error:
        name = (error.name or "exporter").partition(".")[0]
        if name == "exporter":
            raise
        extra = {"httptools": "proxy", "joblib": "demo", "sklearn": "demo"}.get(name, "server")
        print(f'model-exporter: {name} is not installed: in its checkout, pip install ".[{extra}]"', file=sys.stderr)
        return 1
    except ExporterError as error:
        print(f"model-exporter: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    return status


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="model-exporter", description="Monitoring of deployed models for Prometheus.")
    parser.add_argument("--version", action="version", version=version("model-exporter"))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="take predictions and feedback, and serve /metrics")
    _config_argument(serve)
    serve.add_argument(
        "--web.listen-address", dest="address", type=address, default=DEFAULT_ADDRESS, metavar="HOST:PORT"
    )
    serve.add_argument("--web.unix-socket", dest="socket", type=Path, metavar="FILE", help="listen there, too")
    serve.add_argument("--web.config.file", dest="web", type=Path, metavar="FILE", help="TLS and users")
    serve.add_argument("--web.tokens.file", dest="tokens", type=Path, metavar="FILE", help="bearer tokens")
    serve.add_argument("--web.open-metrics", dest="open", action="store_true", help="/metrics and probes for everybody")
    serve.add_argument("--log.level", dest="level", default="info", choices=("debug", "info", "warn", "error"))
    serve.add_argument("--log.format", dest="format", default="logfmt", choices=("logfmt", "json"))
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check-config", help="say whether a configuration and its profiles are right")
    check.add_argument("config", nargs="?", type=Path, metavar="FILE")
    _config_argument(check)
    check.add_argument("--web.config.file", dest="web", type=Path, metavar="FILE")
    check.add_argument("--web.tokens.file", dest="tokens", type=Path, metavar="FILE")
    check.set_defaults(run=_check_config)

    for name, (module, words) in _COMMANDS.items():
        command = commands.add_parser(name, help=words)
        if name in arguments:  # imported only where asked for: these bring what a server does not need
            found = importlib.import_module(module)
            found.add_arguments(command)
            command.set_defaults(run=found.run)
    return parser


def _config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config.file", dest="config_file", type=Path, metavar="FILE", help="default: exporter.yml")


def _serve(options: argparse.Namespace) -> int:
    gc.disable()  # what is made until the exporter serves stays: there is nothing to collect
    from exporter.commands import logs
    from exporter.server import web_config
    from exporter.server.application import Exporter
    from exporter.server.serve import serve

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload asked for before there is anything to reload
    logs.configure(options.level, options.format)
    host, port = options.address
    web = web_config.load(options.web, options.tokens, options.open)
    exporter = Exporter(options.config_file or Path("exporter.yml"))
    exporter.reloaders.append(lambda: web.reload(options.web, options.tokens))
    try:
        serve(exporter, host or "0.0.0.0", port, web, options.socket)  # noqa: S104 (as :9877 means everywhere)
    finally:
        exporter.close()
    return 0


def _check_config(options: argparse.Namespace) -> int:
    from exporter.monitoring.loading import load_monitors
    from exporter.server import web_config

    path = options.config or options.config_file or Path("exporter.yml")
    config, monitors = load_monitors(path)
    web_config.load(options.web, options.tokens)
    for model in config.models:
        binner = monitors.nearest_binner(model.name)
        inputs = f"{len(binner.names)} features in {len(binner.targets)} profiled targets" if binner else "no profile"
        inputs += f" ({len(model.profiles)} versions have their own)" if model.profiles else ""
        print(f"{model.name}: {inputs}, windows {', '.join(model.windows)}")
    print(f"{path} is right.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
