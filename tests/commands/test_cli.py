"""The command line: help of every command and option, completion, and what a server does not load."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.paths import ROOT
from support.processes import Run
from support.servers import write_config

from exporter.cli import COMMANDS as MODULES
from exporter.cli import build_parser

COMMANDS = set(MODULES)


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from parsers(subparser)


PARSERS = {parser.prog: parser for parser in parsers(build_parser(MODULES))}


@pytest.mark.parametrize("prog", PARSERS)
def test_every_command_and_option_is_described(prog: str) -> None:
    """Every command has a description, and every option a help text."""
    parser = PARSERS[prog]
    assert parser.description
    options = [action for action in parser._actions if not isinstance(action, argparse._SubParsersAction)]
    assert [action.dest for action in options if not action.help] == []


@pytest.mark.parametrize("prog", PARSERS)
def test_help_ends_with_an_example_and_a_page(prog: str) -> None:
    """The example is valid usage of the command, and the page has the section."""
    help_text = PARSERS[prog].format_help()
    match = re.search(
        r"\n\nexample:\n  (.*)\n\ndocumentation: (docs/[\w-]+\.md)(?:#([\w-]+))?, served by .*\n$", help_text
    )
    assert match, help_text
    example, page, anchor = match.groups()
    (usage,) = re.findall(r"model-exporter [^>)]+", example)
    assert usage.startswith(prog)
    arguments = shlex.split(usage)[1:]
    build_parser(arguments).parse_args(arguments)
    headings = re.findall(r"^#+ (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.M)
    assert anchor is None or anchor in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("serv", "did you mean serve?"),
        ("dataset exprt", "did you mean export?"),
        ("serve --config-file=exporter.yml", "did you mean --config.file?"),
        ("serve loans.yml", "did you mean --config.file=loans.yml?"),
        ("serve --web.listen-adress :1", "did you mean --web.listen-address?"),
        ("serve --log.level=warning", "did you mean warn?"),
    ],
)
def test_errors_name_what_was_probably_meant(line: str, hint: str, run: Run) -> None:
    """A command, option or value that is close to a valid one; all of an exit status of 2."""
    assert run(*line.split(), status=2).err.endswith(f"; {hint}\n")


@pytest.mark.parametrize(
    "line",
    [
        "compare --model=m --prometheus",
        "consume --topic=t --bootstrap-servers=127.0.0.1:1 --exporter",
        "dataset release --model=m --name=n --exporter",
        "explain --model=m --exporter",
        "ingest {}/rows.csv --model=m --exporter",
        "ingest {}/rows.csv --profile={}/credit.json --push",
        "label {}/rows.csv --id-column=a --label-column=b --exporter",
        "proxy --upstream=http://a --exporter",
        "proxy --upstream",
    ],
)
def test_a_url_that_is_not_valid_is_invalid_usage(tmp_path: Path, line: str, run: Run) -> None:
    """The exit status is 2, and the message names the option and no password."""
    write_config(tmp_path)
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    error = run(*line.replace("{}", str(tmp_path)).split(), "htp://me:s3cret@h", status=2).err
    assert f"model-exporter: {line.rsplit(maxsplit=1)[-1]}: " in error
    assert "s3cret" not in error


@pytest.mark.parametrize(
    "line",
    [
        "check-config {}/exporter.yaml",
        "serve --config.file={}/exporter.yaml",
        "profile {}/trainig.npz",
        "profile --describe {}/credt.json",
        "ingest {}/trainig.npz --profile={}/credit.json --prediction-column=predicted",
    ],
)
def test_errors_name_a_file_with_a_similar_name(tmp_path: Path, line: str, run: Run) -> None:
    """A missing file is an error that names the one of its folder that was probably meant."""
    write_config(tmp_path)
    (tmp_path / "training.npz").touch()
    meant = re.search(r"did you mean (\S+)\?\n$", run(*line.replace("{}", str(tmp_path)).split(), status=1).err)
    assert meant
    assert Path(meant[1]).is_file()


def test_what_a_file_holds_cannot_control_the_terminal(tmp_path: Path, run: Run) -> None:
    """Control characters of names and cells are escaped, in errors and in what a command prints."""
    path = tmp_path / "rows.csv"
    path.write_text("\x1b[31mage,b\n" + "1,x\n2,y\n" * 150)
    out = run("profile", path).out
    path.write_text("a,b\n1,2,\x1b[31m3\n")
    err = run("profile", path, status=1).err
    assert "\\u001b[31mage: numeric" in out
    assert "\\u001b[31m3" in err
    assert (out + err).replace("\n", "").isprintable()


def test_a_folder_is_not_a_missing_file(tmp_path: Path, run: Run) -> None:
    """A folder whose name ends like a file's is an error that says so."""
    (tmp_path / "rows.csv").mkdir()
    error = run("profile", tmp_path / "rows.csv", status=1).err
    assert error.endswith("rows.csv: cannot be read: it is a folder\n")


def test_a_warning_of_a_command_says_that_it_is_one(tmp_path: Path) -> None:
    """A configuration with a warning is valid."""
    path = write_config(tmp_path)
    configuration = yaml.safe_load(path.read_text())
    configuration["models"][0]["redact"] = ["student_name"]
    path.write_text(yaml.safe_dump(configuration))
    command = [sys.executable, "-m", "exporter.cli", "check-config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == (
        f'model-exporter: warning: {path}: models[0].redact: "student_name" is not an input of the profile\n'
    )


def completions(script: str, *arguments: str) -> set[str]:
    """What bash offers for the last of the words."""
    line = " ".join(map(shlex.quote, arguments))
    code = (
        f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(arguments) - 1}; _shtab_model_exporter; echo ${{COMPREPLY[@]}}"
    )
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_bash_completes_commands_and_options(run: Run) -> None:
    """Commands, their options and the values of options are offered."""
    script = run("completion", "bash").out
    assert completions(script, "model-exporter", "") >= COMMANDS
    assert completions(script, "model-exporter", "in") == {"ingest"}
    assert "--fail-on-drift" in completions(script, "model-exporter", "ingest", "--f")
    commands = {"release", "export", "import"}
    assert completions(script, "model-exporter", "dataset", "") >= commands
    assert completions(script, "model-exporter", "compare", "--format", "") >= {"table", "json"}


def test_zsh_has_a_completion_script(run: Run, tmp_path: Path) -> None:
    """Each command is in it, with what it does; zsh can read it, where zsh is installed."""
    script = run("completion", "zsh").out
    assert script.startswith("#compdef model-exporter\n")
    for name in MODULES:
        assert f"{name}:'{PARSERS[f'model-exporter {name}'].description}'" in script.replace("'\\''", "'")
    (tmp_path / "_model-exporter").write_text(script)
    if zsh := shutil.which("zsh"):
        subprocess.run([zsh, "-n", tmp_path / "_model-exporter"], check=True)


def test_a_signal_at_any_moment_stops_a_command() -> None:
    """The handler takes no lock that the interrupted thread may hold, such as that of `threading.Event`."""
    script = (
        "import signal\n"
        "from exporter.commands.common import stopping\n"
        "for number in range(2000):\n"
        "    with stopping(signal.SIGALRM) as event:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 1e-6 * (1 + number % 200))\n"
        "        while not event.wait(1e-6):\n"
        "            assert not event.is_set() or event.wait()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_batch_with_a_profile_loads_no_database(tmp_path: Path) -> None:
    """SQLAlchemy takes 16 MiB, and time to load."""
    write_config(tmp_path)
    (tmp_path / "batch.csv").write_text("age,income\n41,30000.5\n")
    script = (
        "import sys; from exporter.cli import main\n"
        "main(['ingest', 'batch.csv', '--profile=credit.json'])\n"
        "print(sorted({'sqlalchemy', 'psycopg', 'flask'} & set(sys.modules)))\n"
    )
    assert loaded_by(script, tmp_path).endswith("\n[]\n")


def loaded_by(script: str, folder: Path) -> str:
    """Return the output of a Python script."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout
