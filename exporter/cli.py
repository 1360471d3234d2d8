"""The command ``model-exporter``."""

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


class Command(NamedTuple):
    """A command in a module of its own, with ``add_arguments`` and ``run``, and the texts of its help."""

    module: str
    summary: str
    description: str
    example: str
    page: str


COMMANDS = {
    "serve": Command(
        "exporter.commands.serve",
        "receive predictions and feedback, and serve /metrics",
        "Receive predictions and feedback of models, and serve their metrics at /metrics.",
        "model-exporter serve --config.file=exporter.yml --web.listen-address=:9877",
        "docs/configuration.md#serve",
    ),
    "check-config": Command(
        "exporter.commands.check_config",
        "check a configuration and its profiles",
        "Check a configuration and the profiles that it names. The exit status is 1 if anything is wrong.",
        "model-exporter check-config exporter.yml",
        "docs/configuration.md#check-config",
    ),
    "profile": Command(
        "exporter.commands.profile",
        "create a training profile",
        "Create a training profile: the distributions of the training data, which drift is measured against.",
        "model-exporter profile training.parquet --prediction-column=predicted --label-column=paid -o loans.json",
        "docs/profiles.md",
    ),
    "proxy": Command(
        "exporter.commands.proxy",
        "record the requests to a model server",
        "Run a proxy in front of a model server that records its requests and responses as predictions.",
        "model-exporter proxy --upstream=http://127.0.0.1:8080 --exporter=http://127.0.0.1:9877",
        "docs/proxy.md",
    ),
    "ingest": Command(
        "exporter.commands.ingest",
        "measure the drift of a table that a batch job scored",
        "Measure the drift of a table that a batch job scored, or send its rows to an exporter.",
        "model-exporter ingest scores.parquet --profile=profiles/loans.json --prediction-column=prediction",
        "docs/batch.md",
    ),
    "label": Command(
        "exporter.commands.label",
        "send the true labels of predictions",
        "Send a table of true labels to an exporter, which joins them with the predictions by their identifiers.",
        "model-exporter label repaid.csv --id-column=loan --label-column=repaid",
        "docs/batch.md#labels",
    ),
    "consume": Command(
        "exporter.commands.consume",
        "send the messages of Kafka topics to an exporter",
        "Consume predictions, feedback and labels from the topics of a Kafka cluster, and send them to an exporter.",
        "model-exporter consume --bootstrap-servers=kafka:9092 --topic=loans --topic=repaid=labels",
        "docs/kafka.md",
    ),
    "suspects": Command(
        "exporter.commands.suspects",
        "find labels of a training file that may be wrong",
        "Find labels of a training file that may be wrong: with the probabilities of classes by a model that was not "
        "trained on the row, or by the labels of similar rows.",
        "model-exporter suspects training.parquet --label-column=paid --ignore=customer -o suspects.csv",
        "docs/dataset.md#labels-of-training-files",
    ),
    "token": Command(
        "exporter.commands.token",
        "create a bearer token",
        "Create a bearer token. Print its entry for the tokens file on standard output, and the token on standard "
        "error.",
        "model-exporter token loans-service --scope=ingest >> tokens.yml",
        "docs/configuration.md#tokens",
    ),
    "compare": Command(
        "exporter.commands.compare",
        "compare two versions of a model",
        "Compare two versions of a model, or two periods of one, with data from Prometheus: which one is better, and "
        "whether the difference may be due to chance.",
        "model-exporter compare --model=digits --before=1 --after=2",
        "docs/compare.md",
    ),
    "explain": Command(
        "exporter.commands.explain",
        "find the slices that hold the most corrections, errors or drift",
        "Find the combinations of at most two bins that hold the most of the corrections, errors, estimated loss or "
        "drift of a model.",
        "model-exporter explain --model=loans --of=corrections --since=6h",
        "docs/slices.md",
    ),
    "dataset": Command(
        "exporter.commands.dataset",
        "turn reviewed corrections into training data",
        "Turn reviewed corrections into training data: releases, exports, and annotations from Label Studio.",
        "model-exporter dataset release --model=digits --name=2026-11",
        "docs/dataset.md",
    ),
    "redact": Command(
        "exporter.commands.redact",
        "remove redacted inputs from the database",
        "Remove from the database what was stored before the configuration redacted it. Exporters may run meanwhile.",
        "model-exporter redact --config.file=exporter.yml --dry-run",
        "docs/configuration.md#redact",
    ),
    "archive": Command(
        "exporter.commands.archive",
        "write old predictions to Parquet files, by a timer",
        "Write predictions that are older than store.retention to the Parquet files of store.archive, and labels that "
        "came too late for them. Only then do exporters delete them. Exporters may run meanwhile.",
        "model-exporter archive --config.file=exporter.yml",
        "docs/configuration.md#the-archive",
    ),
    "backup": Command(
        "exporter.commands.backup",
        "back up the database, also while the exporter runs",
        "Copy the SQLite database to a new file, also while the exporter runs, and verify the copy: pages, indexes, "
        "releases.",
        "model-exporter backup --config.file=exporter.yml /var/backups/",
        "docs/operations.md#backup-and-restore",
    ),
    "restore": Command(
        "exporter.commands.restore",
        "put a backup in the place of the database",
        "Verify a backup, and put it in the place of the SQLite database of a stopped exporter. The previous files are "
        "renamed, not deleted.",
        "model-exporter restore --config.file=exporter.yml model-exporter-20261126T020000Z.db",
        "docs/operations.md#backup-and-restore",
    ),
}


class Program(NamedTuple):
    """A command line: its name, the texts of its help, and its commands by name."""

    name: str
    description: str
    example: str
    page: str
    commands: Mapping[str, Command]


PROGRAM = Program(
    "model-exporter",
    "Prometheus exporter for machine-learning models: monitoring of their inputs, predictions and corrections.",
    "model-exporter serve --config.file=exporter.yml",
    "docs/configuration.md#command-line",
    COMMANDS,
)


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
        extra = _EXTRAS.get(name, "server")
        print(f'{program.name}: {name} is not installed: in its checkout, pip install ".[{extra}]"', file=sys.stderr)
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
    set_help(parser, program.description, program.example, program.page)
    text = "print the version and exit"
    parser.add_argument("--version", action="version", version=f"{version()} ({revision()})", help=text)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in program.commands.items():
        subparser = subparsers.add_parser(name, help=command.summary)
        set_help(subparser, command.description, command.example, command.page)
        if name in commands:
            module = importlib.import_module(command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    if program is PROGRAM:
        _add_completion(subparsers.add_parser("completion", help="print the completion script of a shell"))
    return parser


def _add_completion(parser: argparse.ArgumentParser) -> None:
    set_help(
        parser,
        "Print a script that completes commands, options and file names in a shell.",
        'eval "$(model-exporter completion bash)"',
        "docs/configuration.md#completion",
    )
    parser.add_argument("shell", choices=("bash", "zsh"), help="shell that the script is for")
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> int:
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
