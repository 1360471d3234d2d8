"""The version, and the commit that a program was built from."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.paths import ROOT

from exporter import version


@pytest.fixture(autouse=True)
def _not_cached() -> None:
    version.revision.cache_clear()


def test_the_revision_is_the_commit_of_the_checkout() -> None:
    """In a checkout, also in a further work tree of it, the revision is what git names as HEAD."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert version.revision() == head.strip()


def test_a_package_has_the_revision_that_it_was_built_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a checkout, the file REVISION has the commit; without one, the revision is unknown."""
    monkeypatch.setattr(version, "_PACKAGE", tmp_path / "exporter")
    assert version.revision() == "unknown"
    (tmp_path / "exporter").mkdir()
    (tmp_path / "exporter" / "REVISION").write_text("1a2b3c4d\n")
    version.revision.cache_clear()
    assert version.revision() == "1a2b3c4d"


def test_a_clone_can_be_installed(tmp_path: Path) -> None:
    """A package that pip builds from a clone has the documents, templates and scripts that the exporter serves."""
    clone = tmp_path / "clone"
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, clone]
    for command in (["git", "clone", "--quiet", "--depth=1", f"file://{ROOT}", clone], pip):
        subprocess.run(command, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    served = ("docs/index.md", "docs/runbooks/Watchdog.md", "templates/base.html", "static/style.css")
    assert {"exporter/py.typed", *(f"exporter/server/{name}" for name in served)} <= {*names}


def test_packed_branches_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch whose commit git has packed has the same revision."""
    monkeypatch.setattr(version, "_PACKAGE", tmp_path / "exporter")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (tmp_path / ".git" / "packed-refs").write_text("# pack-refs\n1a2b3c4d5e refs/heads/main\n")
    assert version.revision() == "1a2b3c4d5e"
