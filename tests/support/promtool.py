"""Tests of rules in promtool, each with the rules that it needs: promtool applies all that it is given at each step."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.paths import ROOT

RULES = ROOT / "prometheus" / "rules"
Group = dict[str, Any]


def promtool(*arguments: object) -> str:
    """Output of promtool, which must succeed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.fail("promtool is not on the PATH; on Debian and Ubuntu it comes with: apt-get install prometheus")
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def groups_of(*files: Path) -> list[Group]:
    """Groups of rules in files; default: in all of the project."""
    paths = files or sorted(RULES.glob("*.yml"))
    return [group for path in paths for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]


def series_of(series: dict[str, str]) -> list[dict[str, str]]:
    """Input series in the form of a test, from values by their names."""
    return [{"series": name, "values": values} for name, values in series.items()]


def expected(expr: str, at: str, samples: dict[str, float]) -> dict[str, Any]:
    """What an expression returns at a time, in the form of a test: values by their labels."""
    found = [{"labels": labels, "value": value} for labels, value in samples.items()]
    return {"expr": expr, "eval_time": at, "exp_samples": found}


def _used(names: Iterable[str], text: str) -> set[str]:
    return {name for name in names if re.search(rf"(?<![\w:]){name}(?![\w:])", text)}


def needed(groups: list[Group], test: str) -> list[Group]:
    """Return the rules that a test names and those that they build on, in the same groups."""
    texts: dict[str, str] = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        name = rule.get("record") or rule["alert"]
        texts[name] = texts.get(name, "") + json.dumps([rule["expr"], rule.get("annotations")])
    kept: set[str] = set()
    found = _used(texts, test)
    if re.search(r"ALERTS(?!{[^}]*alertname=)", test):  # whichever
        found |= {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    while found:
        kept |= found
        found = set().union(*(_used(texts, texts[name]) for name in found)) - kept
    return [
        group | {"rules": [rule for rule in group["rules"] if (rule.get("record") or rule["alert"]) in kept]}
        for group in groups
    ]


def check_rules(folder: Path, tests: Iterable[dict[str, Any]], groups: list[Group], evaluation: str = "1m") -> None:
    """Run tests of rules in promtool, which are evaluated in the order of the groups."""
    written = []
    for number, test in enumerate(tests):
        rules, path = folder / f"{number}.rules.yml", folder / f"{number}.yml"
        rules.write_text(json.dumps({"groups": needed(groups, json.dumps(test))}))
        document = {"rule_files": [rules.name], "evaluation_interval": evaluation, "tests": [test]}
        path.write_text(json.dumps(document | {"group_eval_order": [group["name"] for group in groups]}))
        written.append(path)
    promtool("test", "rules", *written)


def check_file(path: Path, folder: Path, groups: list[Group] | None = None) -> None:
    """Run the tests of a file of the project, with its rules or with others in their place."""
    text = re.sub(r"(?<=values: )0x\d+(?=[}\n])", r"'\g<0>'", path.read_text(encoding="utf-8"))  # for YAML a number
    document = yaml.safe_load(text)
    own = groups_of(*((path.parent / name).resolve() for name in document["rule_files"]))
    names = {group["name"] for group in own}
    tested = own if groups is None else [group for group in groups if group["name"] in names]
    check_rules(folder, document["tests"], tested, document["evaluation_interval"])
