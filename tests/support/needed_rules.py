"""Rules as far as a file of promtool's tests needs them: promtool applies all of a file at each step of each test."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

import yaml


def _used(names: Iterable[str], text: str) -> set[str]:
    return {name for name in names if re.search(rf"(?<![\w:]){name}(?![\w:])", text)}


def write_needed_rules(path: Path, tests: str, folder: Path) -> None:
    """Write to ``folder`` the rules of a file that ``tests`` name and those that they build on, in the same groups."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    texts: dict[str, str] = {}
    for rule in (rule for group in groups for rule in group["rules"]):
        name = rule.get("record") or rule["alert"]
        texts[name] = texts.get(name, "") + json.dumps([rule["expr"], rule.get("annotations")])
    needed: set[str] = set()
    found = _used(texts, tests)
    while found:
        needed |= found
        found = set().union(*(_used(texts, texts[name]) for name in found)) - needed
    for group in groups:
        group["rules"] = [rule for rule in group["rules"] if (rule.get("record") or rule["alert"]) in needed]
    (folder / path.name).write_text(yaml.safe_dump({"groups": groups}))
