"""The tables that studies in ``benchmarks/`` write into the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support.paths import ROOT

PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "<!-- study: " in path.read_text(encoding="utf-8")]
LIVE = "live_dependence_study", ("live-dependence",)
MANY = "many_features_study", ("many-false-alarms", "many-power")
OBJECTIVES = "objectives_study", ("false-alarms", "delays")


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of ``benchmarks/``."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "studies"))
    return __import__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_table_is_written_between_its_marks(benchmarks, page: Path, tmp_path: Path) -> None:
    """Each table of a page that is written again leaves the page as it is; a new one replaces it alone."""
    text = page.read_text(encoding="utf-8")
    tables = dict(re.findall(r"<!-- study: (.*?) -->\n\n(.*?)\n\n<!-- end -->", text, re.S))
    assert len(tables) == text.count("<!-- study: ") == text.count("<!-- end -->")
    copy = tmp_path / page.name
    copy.write_text(text, encoding="utf-8")
    benchmarks("study_tables").write(copy, tables)
    assert copy.read_text(encoding="utf-8") == text
    name, table = next(iter(tables.items()))
    benchmarks("study_tables").write(copy, {name: r"| \1 |"})
    assert copy.read_text(encoding="utf-8") == text.replace(f"-->\n\n{table}\n", "-->\n\n| \\1 |\n")


def test_a_table_without_marks_is_an_error(benchmarks, tmp_path: Path) -> None:
    """A study does not lose its figures silently."""
    page = tmp_path / "page.md"
    page.write_text("<!-- study: a -->\n\nx\n\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="expected the marks of the table b once, found them 0 times"):
        benchmarks("study_tables").write(page, {"b": "y"})


@pytest.mark.parametrize(("study", "names"), [LIVE, MANY, OBJECTIVES])
def test_a_study_has_the_tables_of_its_page(benchmarks, study: str, names: tuple[str, ...]) -> None:
    """The page that a study writes has the marks of its tables."""
    module = benchmarks(study)
    text = getattr(module, "DOCS", getattr(module, "PAGE", None)).read_text(encoding="utf-8")
    assert [name for name in names if f"<!-- study: {name} -->\n\n| " not in text] == []


def test_every_study_can_be_imported() -> None:
    """What the studies use of the package exists; four need packages that the tests do not install."""
    studies = ROOT / "benchmarks" / "studies"
    names = {path.stem for path in studies.glob("*.py")} - {
        "drift_plots",
        "driftfdr_study",
        "quality_peers",
        "real_streams_study",
    }
    code = f"import {', '.join(sorted(names))}"
    subprocess.run([sys.executable, "-c", code], cwd=studies, env={"PYTHONPATH": f"{ROOT}:{studies}"}, check=True)
