"""Prometheus exporter for machine-learning models: monitoring of their inputs, predictions and corrections.

Example::

    model-exporter serve --config.file=exporter.yml

See docs/commands.md.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from exporter.commands.common import Parser, set_help
from exporter.errors import ExporterError, UsageError, printable
from exporter.version import revision, version


def disable_slow_avx512(cpu_info: Path = Path("/proc/cpuinfo")) -> None:
    """Keep numpy from sorting with AVX-512 on AMD's Zen 4, unless the environment sets what numpy uses.

    There numpy's AVX2 sort is five times as fast, because its AVX-512 sort stores compressed vectors, which Zen 4 does
    in microcode. Logarithms take four times as long without AVX-512, so this is for a process that sorts.

    Parameters
    ----------
    cpu_info
        Linux' description of the processor; without such a file nothing is done.
    """
    try:
        lines = cpu_info.read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return
    info = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    zen4 = info.get("vendor_id") == "AuthenticAMD" and info.get("cpu family") == "25"
    if zen4 and "avx512f" in info.get("flags", "").split():
        os.environ.setdefault("NPY_DISABLE_CPU_FEATURES", "X86_V4")


_EXTRAS = {
    "adbc_driver_manager": "sql",
    "adbc_driver_postgresql": "sql",
    "adbc_driver_sqlite": "sql",
    "aiohttp": "proxy",
    "confluent_kafka": "kafka",
    "duckdb": "sql",
    "joblib": "demo",
    "pyarrow": "tables",
    "sklearn": "demo",
}
"""Which extra of the package installs a module; ``server`` all others."""


COMMANDS = {
    "serve": ("commands.serve", "receive predictions and feedback, and serve /metrics"),
    "check-config": ("commands.serve", "check a configuration and its profiles"),
    "profile": ("commands.profile", "create a training profile"),
    "proxy": ("commands.proxy", "record the requests to a model server"),
    "ingest": ("commands.batch", "measure the drift of a table that a batch job scored"),
    "label": ("commands.batch", "send the true labels of predictions"),
    "consume": ("commands.consume", "send the messages of Kafka topics to an exporter"),
    "suspects": ("commands.analysis", "find labels of a training file that may be wrong"),
    "token": ("commands.serve", "create a bearer token"),
    "compare": ("commands.analysis", "compare two versions of a model"),
    "explain": ("commands.analysis", "find the slices that contain the most corrections, errors or drift"),
    "dataset": ("commands.dataset", "turn reviewed corrections into training data"),
    "redact": ("commands.database", "remove redacted inputs from the database"),
    "forget": ("commands.database", "remove a person or a prediction from the database"),
    "archive": ("commands.database", "write old predictions to Parquet files; run it from a timer"),
    "backup": ("commands.database", "back up the database, also while the exporter runs"),
    "restore": ("commands.database", "replace the database with a backup"),
    "completion": ("cli", "print the completion script of a shell"),
}


class Program(NamedTuple):
    """A command line.

    Attributes
    ----------
    name, help
        Its name, and the text of its help; see `set_help`.
    package
        Where the modules of the commands are. ``check-config`` is the function ``check_config``, whose docstring is its
        help; ``check_config_arguments`` adds its arguments to a parser.
    commands
        The module and the summary of each command, by its name.
    """

    name: str
    help: str | None
    package: str
    commands: Mapping[str, tuple[str, str]]


PROGRAM = Program("model-exporter", __doc__, "exporter", COMMANDS)


def main(arguments: Sequence[str] | None = None, program: Program = PROGRAM) -> int:
    """Run a command; return the exit status: 0 done, 1 failed, 2 invalid usage."""
    # Small matrices: more threads would wait for each other in busy loops, and take three times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = sys.argv[1:] if arguments is None else arguments
    if "profile" in given:
        disable_slow_avx512()
    if logging.lastResort:  # what prints the warnings of commands that do not configure logging
        logging.lastResort.setFormatter(logging.Formatter(f"{program.name}: warning: %(message)s"))
    try:
        options = build_parser(given, program).parse_args(given)
        status: int = options.run(options)
    except ModuleNotFoundError as error:
        name = (error.name or "exporter").partition(".")[0]
        if name == "exporter":
            raise
        package = f'"prometheus-model-exporter[{_EXTRAS.get(name, "server")}]"'
        print(f"{program.name}: {name} is not installed: pip install {package}", file=sys.stderr)
        return 1
    except ExporterError as error:
        print(f"{program.name}: {printable(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    return status


def build_parser(commands: Collection[str], program: Program = PROGRAM) -> argparse.ArgumentParser:
    """Return the parser of the command line, with the options of these commands.

    The module of a command is only imported when it is among them: it may need what a server does not have.
    """
    parser = Parser(prog=program.name)
    set_help(parser, program.help)
    text = "print the version and exit"
    parser.add_argument("--version", action="version", version=f"{version()} ({revision()})", help=text)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module_name, summary) in program.commands.items():
        subparser = subparsers.add_parser(name, help=summary)
        if name in commands:
            module, function = importlib.import_module(f"{program.package}.{module_name}"), name.replace("-", "_")
            run = getattr(module, function)
            set_help(subparser, run.__doc__)
            getattr(module, f"{function}_arguments")(subparser)
            subparser.set_defaults(run=run)
    return parser


def completion_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="shell that the script is for")


def completion(options: argparse.Namespace) -> int:
    """Print a script that completes commands, options and file names in a shell.

    Example::

        eval "$(model-exporter completion bash)"

    See docs/commands.md.
    """
    import shtab

    parser = build_parser(COMMANDS)
    _complete_file_names(parser, shtab.FILE)
    print(shtab.complete(parser, options.shell))
    return 0


def _complete_file_names(parser: argparse.ArgumentParser, completion: Mapping[str, object]) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _complete_file_names(subparser, completion)
        elif action.type is Path or action.metavar == "FILE":
            action.complete = completion  # type: ignore[attr-defined]  # where shtab looks for it


if __name__ == "__main__":
    sys.exit(main())
