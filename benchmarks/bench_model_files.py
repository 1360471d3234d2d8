"""Measure the files of ``models_folder``: how long they take at the start, to look at, and when one of them changes.

Usage: bench_model_files.py [FILES]

Each file has a model with a profile of 50 features. Times are those of the processor.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from timing import profile

from exporter.profiles.profile import save
from exporter.server.model_files import load_folder, load_valid

FEATURES = 50
_T = TypeVar("_T")


def timed(what: str, call: Callable[[], _T]) -> _T:
    """Print how long a call takes, and return its result."""
    begun = time.process_time()
    result = call()
    print(f"{what:40} {1000 * (time.process_time() - begun):10.1f} ms")
    return result


def main(files: int = 1000) -> None:
    """Print the times."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "models"
        folder.mkdir()
        save(profile(FEATURES), folder / "m0.json")
        for number in range(files):
            (folder / f"m{number}.json").write_bytes((folder / "m0.json").read_bytes())
            (folder / f"m{number}.yml").write_text(f"models: [{{name: m{number}, profile: m{number}.json}}]")
        (folder.parent / "exporter.yml").write_text("models_folder: models")
        loaded = timed(f"read {files} files and profiles", lambda: load_valid(folder.parent / "exporter.yml"))
        timed("look whether a file has changed", loaded.changed)
        (folder / "m0.yml").write_text("models: [{name: m0, profile: m0.json, windows: [1h]}]")
        after = timed("read one that has", lambda: load_folder(loaded))
        timed("take over the counts of all others", lambda: after.monitors.adopt(loaded.monitors))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
