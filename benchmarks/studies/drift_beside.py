"""False alarms and power of the drift alert beside those of other monitors, on the same windows."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
from drift_bins import Bins
from drift_peers import ORIGIN, PEERS, peer_scores
from drift_streams import CASES, CHANGES, Case, Change, seeded
from study_tables import number, percent, percents, table

from exporter.stats.divergence import Floats

OWN, LOW = "model-exporter", "threshold 0.1"


class Beside:
    """Measure every monitor on the same windows.

    Attributes
    ----------
    false
        The share of windows without drift that alarm, by monitor, stream and window size.
    power, even_power
        The share that alarm after a change, with the monitor's own threshold and with that which 1% of windows without
        drift exceed, by monitor, change and window size.
    """

    def __init__(self, quick: bool) -> None:
        self.sizes = [20, 50, 100] if quick else [20, 50, 100, 200, 1000, 10_000]
        self.change_sizes = [50, 100] if quick else [20, 50, 100, 200, 1000]
        self.trainings = 2 if quick else 20
        self.peer_windows = 20 if quick else 600
        self.windows = 100 if quick else 4000
        self.false: dict[tuple[str, str, int], float] = {}
        self.power: dict[tuple[str, str, int], float] = {}
        self.even_power: dict[tuple[str, str, int], float] = {}
        self._null: dict[tuple[str, str, int], Floats] = {}

    def measure(self) -> None:
        """Measure all streams and changes."""
        for name, case in CASES.items():
            for size in self.sizes:
                fired, quiet = self._measure(name, size, case, "null", lambda _, x: x)
                for monitor, share in fired.items():
                    self.false[monitor, name, size] = share
                for monitor, scores in quiet.items():
                    self._null[monitor, name, size] = scores
            print(f"beside: {name}", file=sys.stderr, flush=True)
        for change, (name, alter) in CHANGES.items():
            for size in self.change_sizes:
                fired, changed = self._measure(name, size, CASES[name], change, alter)
                for monitor, share in fired.items():
                    self.power[monitor, change, size] = share
                for monitor, scores in changed.items():
                    if (monitor, name, size) in self._null:
                        level = np.quantile(self._null[monitor, name, size], 0.99)
                        self.even_power[monitor, change, size] = float((scores > level).mean())
            print(f"beside: {change}", file=sys.stderr, flush=True)

    def _measure(
        self, name: str, size: int, case: Case, what: str, alter: Change
    ) -> tuple[dict[str, float], dict[str, Floats]]:
        """Return the share of windows that alarm, and the scores, by monitor."""
        rng = seeded("peers", name, size, what)
        wanted = min(self.windows, 4_000_000 // size)
        most = max(self.trainings, min(self.peer_windows, 1_000_000 // size))
        found: dict[str, list[Floats]] = {}
        fired: dict[str, list[npt.NDArray[np.bool_]]] = {}
        for _ in range(self.trainings):
            training = case.training(rng, max(10_000, 10 * size))
            bins = Bins(training, case)
            windows = alter(rng, case.draw(rng, wanted // self.trainings, size))
            counts = bins.counts(windows)
            found.setdefault(OWN, []).append(bins.score(counts))
            fired.setdefault(OWN, []).append(bins.alarms(counts))
            fired.setdefault(LOW, []).append(bins.alarms(counts, 0.1))
            for peer in PEERS:
                part = windows[: most // self.trainings]
                scores, threshold = peer_scores(peer, training, part, case.discrete)
                found.setdefault(peer.name, []).append(scores)
                fired.setdefault(peer.name, []).append(scores > threshold)
        shares = {monitor: float(np.concatenate(values).mean()) for monitor, values in fired.items()}
        return shares, {monitor: np.concatenate(values) for monitor, values in found.items()}

    def tables(self) -> dict[str, str]:
        """Return the tables of `measure`, and where a peer is better on both axes."""
        names = [OWN, *(peer.name for peer in PEERS)]
        found = {"peers": "; ".join(f"{name}: {origin}" for name, origin in ORIGIN.items()) + "."}
        chosen = [n for n in (20, 100, 1000, 10_000) if n in self.sizes]
        body = [
            [name, *(percents(self.false[monitor, name, n] for n in chosen) for monitor in names)] for name in CASES
        ]
        found["peers-false-alarms"] = table(["no drift", *names], body)
        body = []
        for change in CHANGES:
            cells = (percents((self.power[monitor, change, n] for n in self.change_sizes), 0) for monitor in names)
            body.append([change, *cells])
        found["power"] = table(["change", *names], body)
        body = [[c, *(percents([self.even_power[monitor, c, 100]], 0) for monitor in names)] for c in CHANGES]
        found["even-power"] = table(["change", *names], body)
        for title, own in (("better", OWN), ("better-at-0.1", LOW)):
            better = [self._better(change, own) for change in CHANGES]
            rows = [[c, *cells] for c, cells in zip(CHANGES, better, strict=True) if any(cell != "" for cell in cells)]
            found[title] = table(["change", *names[1:]], rows) if rows else "None in any case."
        return found

    def _better(self, change: str, own: str) -> list[str]:
        """Return for each peer the sizes at which it has no more false alarms and clearly more power."""
        name = CHANGES[change][0]
        found = []
        for peer in PEERS:
            where = []
            for size in self.change_sizes:
                if (own, name, size) not in self.false:
                    continue
                ours, theirs = self.power[own, change, size], self.power[peer.name, change, size]
                error = 2 * np.sqrt(max(theirs * (1 - theirs), 1e-4) / min(self.peer_windows, 1_000_000 // size))
                quiet = self.false[peer.name, name, size] <= self.false[own, name, size]
                if quiet and theirs > ours + error:
                    where.append(f"n = {number(size)}: {percent(ours, 0)} to {percent(theirs, 0)}")
            found.append("; ".join(where))
        return found
