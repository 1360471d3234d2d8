"""Print the size of the project; exit with 1 where a limit of limits.toml is passed.

Lines are lines of code, without docstrings, comments and blank lines.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from exporter import cli, config  # noqa: E402 (of this checkout)

FOLDERS = ("exporter", "tests", "demo", "grafana", "benchmarks")
_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def code_lines(text: str) -> tuple[int, int]:
    """Return the lines of code of a module, and how many of them are imports."""
    nodes = list(ast.walk(ast.parse(text)))
    docstrings, imports, lines = set[int](), set[int](), set[int]()
    for node in nodes:
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            docstrings.update(_lines(node.body[0]))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(_lines(node))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings), len(imports)


def folder_sizes(folder: str) -> dict[str, float]:
    """Return lines of code, modules, and the share of lines that are imports in percent."""
    sizes = [code_lines(path.read_text(encoding="utf-8")) for path in sorted((ROOT / folder).rglob("*.py"))]
    code, imports = sum(size[0] for size in sizes), sum(size[1] for size in sizes)
    return {"lines": code, "modules": len(sizes), "imports_percent": round(100 * imports / code, 1) if code else 0.0}


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _options(subparser)
        elif action.help != argparse.SUPPRESS:
            yield from (name for name in action.option_strings if name.startswith("--"))


def _keys(kind: Any) -> int:
    """Return the number of keys below a struct of the configuration."""
    return sum(1 + sum(map(_keys, _structs(msgspec.inspect.type_info(f.type)))) for f in msgspec.structs.fields(kind))


def _structs(info: Any) -> list[Any]:
    parts = [getattr(info, name) for name in ("item_type", "value_type") if hasattr(info, name)]
    found = [
        part.cls for part in (info, *parts, *getattr(info, "types", ())) if isinstance(part, msgspec.inspect.StructType)
    ]
    return found[:1]


def _panels(node: dict[str, Any]) -> int:
    return sum(_panels(panel) + (panel["type"] != "row") for panel in node.get("panels", ()))


_NOT_PROSE = re.compile(
    r"<!-- (commands|metrics|routes|limits|rules|alerts)\b.*?<!-- /\1 -->"
    r"|<!-- begin: generated.*?<!-- end: generated -->"
    r"|^( *)```.*?^\2```",
    re.DOTALL | re.MULTILINE,
)


def _words(paths: Iterable[Path]) -> int:
    """Return the words of documents, without the bars of tables, code, and tables that are generated."""
    return sum(len(re.findall(r"\S*\w\S*", _NOT_PROSE.sub("", path.read_text("utf-8")))) for path in paths)


def counts() -> dict[str, float]:
    """Return everything else that is counted."""
    rules = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "prometheus/rules").glob("*.yml"))
    threads = (
        (ROOT / "docs/architecture.md").read_text(encoding="utf-8").partition("\n| thread |")[2].partition("\n\n")[0]
    )
    contributors = {ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"}
    documents = set((ROOT / "docs").glob("*.md")) | set(ROOT.glob("*.md"))
    documents -= {ROOT / "CHANGELOG.md", ROOT / "docs" / "changelog.md"}
    studies = set((ROOT / "docs/studies").glob("*.md"))
    return {
        "thread_kinds": len(re.findall(r"^\| (?!thread |-)", threads, re.M)),
        "alerts": len(set(re.findall(r"^ *(?:- )?alert: *(\S+)", rules, re.M))),
        "recording_rules": len(set(re.findall(r"^ *(?:- )?record: *(\S+)", rules, re.M))),
        "panels": sum(_panels(json.loads(path.read_text())) for path in (ROOT / "grafana/dashboards").glob("*.json")),
        "flags": len(set(_options(cli.build_parser(cli.COMMANDS))) - {"--help"}),
        "configuration_keys": _keys(config.Config),
        "words": _words(documents - contributors),
        "words_for_contributors": _words(contributors),
        "words_of_runbooks": _words((ROOT / "docs/runbooks").glob("*.md")),
        "words_of_studies": _words(studies),
        "words_of_changelog": _words([ROOT / "CHANGELOG.md"]),
    }


def main() -> int:
    """Print each number beside its limit; return the exit status."""
    limits = tomllib.loads((ROOT / ".ci/limits.toml").read_text(encoding="utf-8"))
    sizes = {folder: folder_sizes(folder) for folder in FOLDERS} | {"counts": counts()}
    passed = []
    for group, values in sizes.items():
        print(group)
        for name, value in values.items():
            limit = limits.get(group, {}).get(name)
            over = limit is not None and value > limit
            shown = "" if limit is None else f"  of at most {limit:,}" + ("  <-- too many" if over else "")
            print(f"  {name.replace('_', ' '):<20}{value:>10,}{shown}")
            passed += [f"{group}.{name} is {value:,}, at most {limit:,}"] if over else []
    unknown = [
        f"{group}.{name}" for group, names in limits.items() for name in names if name not in sizes.get(group, {})
    ]
    if unknown:
        print(f".ci/limits.toml: nothing is counted as {', '.join(unknown)}", file=sys.stderr)
    if passed:
        print(f"Limits of .ci/limits.toml are passed: {'; '.join(passed)}", file=sys.stderr)
    return 1 if passed or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
