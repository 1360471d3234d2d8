"""A snapshot for people: one screen that is drawn again, or lines where something changed."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import time
from typing import TextIO

from exporter.commands.up.status import Alert, Snapshot

# Colours that can be read on a dark and on a light ground; each word says the same without them.
_BOLD, _RED, _GREEN, _MAGENTA, _OFF = "\x1b[1m", "\x1b[1;31m", "\x1b[32m", "\x1b[35m", "\x1b[0m"
_LINES_EVERY = 60.0
"""Seconds between two reports of the values where there is no screen."""
_TOLD_SECONDS = 60.0
"""A warning that has been pending for less is not worth a line: most of them pass."""


def is_screen(stream: TextIO) -> bool:
    """Whether a stream can be drawn upon."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"


def clock(at: float) -> str:
    """Local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def layers(now: Snapshot) -> list[tuple[str, str]]:
    """The three layers, with their values in a line or two each."""
    kl, shift = now.worst("model_feature_kl_divergence"), now.worst("model_feature_mean_shift")
    noise = None
    if kl:
        floors = now.series.get("model_feature_kl_divergence_noise", [])
        noise = next((floor.value for floor in floors if floor.labels == kl.labels), None)
    system = (
        _value(now.total("model_version:requests:rate1m"), "{:.1f} requests/s"),
        _value(_worst(now, "model_version:request_error_ratio:rate1m"), "{:.1%} errors"),
        _value(_worst(now, "model_version:request_duration_seconds:p95_rate5m"), "p95 {:.3f} s"),
        _value(_worst(now, "model_system_cpu_utilization_ratio"), "CPU {:.0%}"),
        _value(_worst(now, "model_system_memory_utilization_ratio"), "memory {:.0%}"),
    )
    divergence = "worst KL -"
    if kl:
        floor = "" if noise is None else f" (noise {noise:.2f})"
        divergence = f"worst KL {kl.value:.2f}{floor} {_place(kl.labels)}"
    shifted = (
        f"mean shift {shift.value:+.1f} sd {_place(shift.labels)}" if shift else "mean shift -",
        _value(_worst(now, "model_prediction_kl_divergence"), "prediction KL {:.2f}"),
    )
    business = (
        _value(now.total("model_attempts_total"), "{:.0f} attempts"),
        _value(_worst(now, "model_version:confident_ratio:rate1h"), "{:.1%} confident"),
        _value(now.total("model_corrections_total"), "{:.0f} corrected"),
        _value(_worst(now, "model_version:correction_ratio:rate1h"), "{:.2%} of confident"),
    )
    return [
        ("system", ", ".join(system)),
        ("data", divergence),
        ("data", ", ".join(shifted)),
        ("business", ", ".join(business)),
    ]


def _told(line: str) -> str:
    """A line of the demo without its time of day."""
    return re.sub(r"^\d\d:\d\d:\d\d ", "", line)


def _worst(now: Snapshot, name: str) -> float | None:
    sample = now.worst(name)
    return sample.value if sample else None


def _place(labels: dict[str, str]) -> str:
    return " ".join(labels[name] for name in ("feature", "window") if name in labels)


def _value(value: float | None, text: str) -> str:
    return re.sub(r"\{.*\}", "-", text) if value is None else text.format(value)


def _is_told(alert: Alert, now: float) -> bool:
    return alert.state == "firing" or alert.severity != "warning" or now - alert.since >= _TOLD_SECONDS


def alert_text(alert: Alert) -> str:
    """One alert in a line."""
    reached = f" -> {', '.join(alert.notified)}" if alert.notified else ""
    return f"{alert.state:7} {alert.name} {alert.about}, since {clock(alert.since)}{reached}"


def draw(now: Snapshot, urls: dict[str, str], events: list[str], size: tuple[int, int]) -> str:
    """The whole screen as text of at most ``size`` (columns, lines).

    Parameters
    ----------
    now
        What is shown.
    urls
        Of the programs, by name.
    events
        What happened to the programs, the newest last.
    size
        Of the terminal.
    """
    columns, height = size
    told = now.story[-2:]
    lines: list[tuple[str, str]] = [(_BOLD, f"model-exporter up{clock(now.at):>{max(1, columns - 17)}}")]
    lines += [("", f"  {name:13} {url}") for name, url in urls.items()]
    ups = [target for target, health in now.targets.items() if health == "up"]
    downs = [target for target, health in now.targets.items() if health != "up"]
    text = f"targets  {len(ups)} up" + (f", {len(downs)} down or new: {', '.join(downs)}" if downs else "")
    lines.append((_RED if downs else _GREEN if ups else "", text))
    lines += [("", f"{layer:8} {values}") for layer, values in layers(now)]
    lines += [("", f"{name} does not answer") for name in now.silent]
    foot = [("", f"! {event}") for event in events[-2:]]
    received = now.total("model_exporter_notifications_total")
    sent = f"; {received:.0f} alerts reached the home page's inbox" if received else ""
    foot.append(("", f"Ctrl-C stops everything{sent}"))
    firing = sum(alert.state == "firing" for alert in now.alerts)
    title = f"alerts   {firing} firing, {len(now.alerts) - firing} pending" if now.alerts else "alerts   none"
    lines.append((_BOLD, title))
    room = max(1, height - 1 - len(lines) - len(foot) - len(told))
    shown = now.alerts if len(now.alerts) <= room else now.alerts[: room - 1]
    lines += [(_RED if alert.state == "firing" else _MAGENTA, f"  {alert_text(alert)}") for alert in shown]
    if len(shown) < len(now.alerts):
        lines.append(("", f"  and {len(now.alerts) - len(shown)} more"))
    spare = height - 1 - len(lines) - len(foot)
    story = [row for line in told for row in textwrap.wrap(_told(line), max(20, columns - 9))]
    if len(story) > spare:
        story = [_told(line) for line in told]
    lines += [("", f"{'demo' if number == 0 else '':8} {line}") for number, line in enumerate(story)]
    lines = lines[: max(0, height - 1 - len(foot))] + foot
    cut = ((style, text if len(text) <= columns else text[: columns - 1] + "…") for style, text in lines)
    body = "\n".join(f"{style}{text}{_OFF if style else ''}\x1b[K" for style, text in cut)
    return f"\x1b[H{body}\n\x1b[J"


class Display:
    """Shows snapshots on standard output, as a screen or as lines.

    Parameters
    ----------
    urls
        Of the programs, by name.
    """

    def __init__(self, urls: dict[str, str]) -> None:
        self._urls = urls
        self._screen = is_screen(sys.stdout)
        self._events: list[str] = []
        self._alerts: dict[tuple[str, str], Alert] = {}
        self._targets: dict[str, str] = {}
        self._story: list[str] = []
        self._silent: list[str] = []
        self._reported = 0.0
        if self._screen:
            say("\x1b[2J", end="")

    def event(self, text: str) -> None:
        """Something happened to a program."""
        self._events.append(f"{clock(time.time())} {text.splitlines()[0]}")
        if not self._screen:
            say(text)

    def show(self, now: Snapshot) -> None:
        """Show a snapshot."""
        if self._screen:
            size = shutil.get_terminal_size()
            say(draw(now, self._urls, self._events, (size.columns, size.lines)), end="")
        else:
            for line in self.changes(now):
                say(f"{clock(now.at)} {line}")

    def changes(self, now: Snapshot) -> list[str]:
        """Lines about what is different from the snapshot before."""
        lines = [f"{name} does not answer" for name in now.silent if name not in self._silent]
        lines += [f"{name} answers again" for name in self._silent if name not in now.silent]
        self._silent = now.silent
        lines += [f"demo: {_told(line)}" for line in now.story if line not in self._story]
        self._story = now.story
        if "Prometheus" in now.silent:
            return lines
        for target, health in now.targets.items():
            if self._targets.get(target) != health and health != "unknown":
                lines.append(f"target {target} is {health}")
        self._targets = now.targets
        alerts = {(alert.name, alert.about): alert for alert in now.alerts if _is_told(alert, now.at)}
        for key, alert in alerts.items():
            before = self._alerts.get(key)
            if before is None or before.state != alert.state or (alert.notified and not before.notified):
                lines.append(f"alert {alert_text(alert)}")
        lines += [f"alert over    {name} {about}" for name, about in self._alerts if (name, about) not in alerts]
        self._alerts = alerts
        if now.series and now.at - self._reported >= _LINES_EVERY:
            self._reported = now.at
            lines += [f"{layer}: {values}" for layer, values in layers(now)]
        return lines


def say(text: str, end: str = "\n") -> None:
    """Print; a terminal or pipe that is gone must not keep the stack from stopping."""
    try:
        print(text, end=end, flush=True)
    except (OSError, ValueError):
        # Python would flush again at its end, and complain.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
