"""Measure false alarms, power and delay of the drift alert, against other monitors on the same streams.

``python benchmarks/studies/drift_study.py`` takes some minutes, writes the plots to ``docs/images/`` and the
tables between the marks of ``docs/studies/drift.md``. ``--quick`` prints small tables in seconds. ``--parts`` runs
some parts only; ``--results`` names a file that keeps what they measured, for the parts that need it.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path

from drift_beside import Beside
from drift_goals import goals
from drift_real import real_streams
from drift_running import Running
from drift_windows import Windows
from study_tables import write

MEASURED = {
    "windows": ("false", "above", "power"),
    "running": ("paged", "minutes"),
    "beside": ("false", "power", "even_power"),
}
DOCS = Path(__file__).parents[2] / "docs"


class Study:
    """The parts of the study, and the tables that they made."""

    def __init__(self, quick: bool) -> None:
        self.quick = quick
        self.windows, self.running, self.beside = Windows(quick), Running(quick), Beside(quick)
        self.tables: dict[str, str] = {}
        self.parts: dict[str, Callable[[], dict[str, str]]] = {
            "windows": self._windows,
            "remedies": self.windows.remedies,
            "running": self._running,
            "correlated": self.running.correlated,
            "delays": self.running.delays,
            "dependent-delays": self.running.dependent_delays,
            "goals": lambda: {"goals": goals(self.windows, self.running)},
            "real": real_streams,
            "beside": self._beside,
            "plots": self._plots,
        }

    def _windows(self) -> dict[str, str]:
        self.windows.measure()
        return self.windows.tables()

    def _running(self) -> dict[str, str]:
        self.running.measure()
        return self.running.tables()

    def _beside(self) -> dict[str, str]:
        self.beside.measure()
        return self.beside.tables()

    def _plots(self) -> dict[str, str]:
        if not self.quick:
            from drift_plots import draw

            draw(self.running, self.beside, DOCS / "images")
        return {}

    def run(self, parts: list[str], results: Path | None) -> None:
        """Run some parts; what they measured is read from and written to a file of results."""
        if results and results.exists():
            self._load(results)
        for part in parts:
            start = time.perf_counter()
            self.tables |= self.parts[part]()
            if results:
                self._save(results)
            print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)

    def _save(self, results: Path) -> None:
        found = {of: {name: vars(getattr(self, of))[name] for name in names} for of, names in MEASURED.items()}
        results.write_bytes(pickle.dumps((found, self.tables)))

    def _load(self, results: Path) -> None:
        found, self.tables = pickle.loads(results.read_bytes())
        for of, names in found.items():
            vars(getattr(self, of)).update(names)


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, printed and not written")
    parser.add_argument("--parts", nargs="+", help="run these parts only")
    parser.add_argument("--results", type=Path, help="file of what was measured")
    arguments = parser.parse_args()
    study = Study(arguments.quick)
    study.run(arguments.parts or list(study.parts), arguments.results)
    for name, content in study.tables.items():
        print(f"\n<!-- study: {name} -->\n\n{content}")
    if not arguments.quick:
        write(DOCS / "studies" / "drift.md", study.tables)


if __name__ == "__main__":
    main()
