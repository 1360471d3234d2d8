"""Plots of the drift study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from drift_beside import Beside
from drift_running import Running
from drift_windows import score_bands

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "drift",  # makes the file depend on the data only
        "font.size": 9,
        "legend.fontsize": 7,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
)
from matplotlib import pyplot as plt  # noqa: E402

MONITORS = ("model-exporter", "Evidently KL", "Evidently PSI", "NannyML JS", "boxkite")
COLOURS = dict(zip(MONITORS, ("#0072b2", "#d55e00", "#e69f00", "#009e73", "#999999"), strict=True))


def draw(running: Running, beside: Beside, folder: Path) -> None:
    """Write all plots to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in (
        ("noise-floor", _noise()),
        ("false-alarms", _false(beside)),
        ("power", _power(beside)),
        ("delays", _delays(running)),
    ):
        for axes in figure.axes:
            axes.minorticks_off()
        figure.savefig(folder / f"drift-{name}.svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight")
        plt.close(figure)


def _noise() -> Any:
    """Plot scores without drift and with a shift against the noise floor and the threshold."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    sizes, bands, floor = score_bands()
    for label, colour in (("no drift", "#999999"), ("mean + 0.5 sd", "#e69f00"), ("mean + 1 sd", "#0072b2")):
        low, middle, high = bands[label].T
        axes.fill_between(sizes, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(sizes, middle, color=colour, label=f"{label}: median, 1 to 99%")
    axes.plot(sizes, floor, color="black", linestyle="--", label="noise floor")
    axes.axhline(0.3, color="#d55e00", linewidth=1, label="threshold 0.3")
    axes.set(xscale="log", ylim=(0, 1), xlabel="values in the window", ylabel="KL divergence, nats")
    axes.legend(loc="upper right")
    return figure


def _false(beside: Beside) -> Any:
    cases = ("normal", "zero-heavy", "AR(1) 0.9")
    figure, all_axes = plt.subplots(1, len(cases), figsize=(9, 3), sharey=True)
    for axes, case in zip(all_axes, cases, strict=True):
        for monitor in MONITORS:
            shares = [max(100 * beside.false[monitor, case, n], 0.02) for n in beside.sizes]
            axes.plot(beside.sizes, shares, marker=".", color=COLOURS[monitor], label=monitor)
        axes.axhline(0.1, color="black", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", yscale="log", ylim=(0.015, 130), title=f"no drift, {case}", xlabel="values a window")
    all_axes[0].set_ylabel("windows that alarm, %")
    all_axes[0].legend()
    return figure


def _power(beside: Beside) -> Any:
    changes = ("mean + 0.5 sd", "mean + 1 sd", "new category, 10%", "missing, 20%")
    figure, all_axes = plt.subplots(1, len(changes), figsize=(10, 2.8), sharey=True)
    for axes, change in zip(all_axes, changes, strict=True):
        for monitor in MONITORS:
            shares = [100 * beside.power[monitor, change, n] for n in beside.change_sizes]
            axes.plot(beside.change_sizes, shares, marker=".", color=COLOURS[monitor], label=monitor)
        axes.set(xscale="log", ylim=(-3, 103), title=change, xlabel="values a window")
    all_axes[0].set_ylabel("windows that alarm, %")
    all_axes[-1].legend()
    return figure


def _delays(running: Running) -> Any:
    figure, axes = plt.subplots(figsize=(6.4, 3.2))
    colours = iter(("#0072b2", "#56b4e9", "#d55e00", "#e69f00"))
    for change, rate in (("stuck sensor", 20), ("mean + 1 sd", 100), ("mean + 1 sd", 20), ("mean + 1 sd", 5)):
        share = np.linspace(0, 100, 101)
        minutes = np.quantile(running.minutes[change, rate], share / 100, method="inverted_cdf")
        axes.step(minutes, share, where="post", color=next(colours), label=f"{change}, {rate} values in 5 minutes")
    axes.set(xlim=(0, 60), xlabel="minutes since the change", ylabel="alerts that fire, %")
    axes.legend(loc="lower right")
    return figure
