"""The study of comparisons that are looked at again and again, in its quick form."""

from __future__ import annotations

import re
from types import ModuleType

import numpy as np
import pytest
from support.paths import ROOT

from exporter.comparison.report import WORDS

PAGE = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks" / "studies"))
        import sequential_study  # type: ignore[import-not-found]

        return sequential_study


def test_a_verdict_takes_few_more_requests_than_one_look(study: ModuleType) -> None:
    """On average at most 1.5 times as many as the test for one look with a power of 80 %; of equal ones, none comes."""
    case = study.CASES[1]
    rng = np.random.default_rng(3)
    fixed = study.fixed_requests(rng, case, 0.8, 100)
    seen = [study.sequential_requests(rng, case, fixed // 20) for _ in range(20)]
    assert 0.5 * fixed < np.mean(seen) < 1.5 * fixed
    equal = case._replace(after=case.before)
    with pytest.raises(StopIteration):
        study.sequential_requests(rng, equal, 1)


@pytest.mark.parametrize("split", ["half", "5 % for an hour, 20 % for a day, then half"])
def test_equal_versions_have_no_verdict(study: ModuleType, split: str) -> None:
    """Looked at every minute for three hours, whatever the share of the new version."""
    looks = study.equal_versions(np.random.default_rng(4), split, 180)
    assert not looks.sequential
    assert looks.decision in WORDS


def test_the_page_has_the_tables_and_their_promise(study: ModuleType) -> None:
    """Each table has the columns of the study; equal versions are rarely called different, and verdicts come early."""
    tables = dict(re.findall(r"<!-- study: ([\w-]+) -->\n\n(.*?)\n\n<!-- end -->", PAGE, re.S))
    looks, requests = ([line.split(" | ") for line in tables[name].splitlines()[2:]] for name in study.TABLES)
    assert [row[0].removeprefix("| ") for row in looks] == [*study.SPLITS]
    assert all(float(row[2].removesuffix(" %")) <= 5 for row in looks)
    assert [row[1] for row in requests] == [case.change for case in study.CASES]
    assert [row[0] for row in requests if float(row[6]) > 1.5] == ["| worst drift"]
