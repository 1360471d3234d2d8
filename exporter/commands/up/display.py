"""Snapshots on standard output: one screen on a terminal, else a line for each change."""

from __future__ import annotations

import os
import re
import sys
import time
from contextlib import AbstractContextManager, suppress

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.table import Table
from rich.text import Text

from exporter.commands.up.status import Alert, Snapshot

_VALUES_SECONDS = 60.0
"""Seconds between two lines with the values of a layer."""
_PENDING_SECONDS = 60.0
"""A warning that has been pending for less gets no line: most of them resolve."""
DEMO_HEIGHT = 4
"""Lines of the screen for what the demo last wrote."""
_SYSTEM = {
    "model_version:requests:rate1m": "{:.1f} requests/s",
    "model_version:request_error_ratio:rate1m": "{:.1%} errors",
    "model_version:request_duration_seconds:p95_rate5m": "p95 {:.3f} s",
    "model_system_cpu_utilization_ratio": "CPU {:.0%}",
    "model_system_memory_utilization_ratio": "memory {:.0%}",
}
_DATA = {"model_prediction_kl_divergence": "prediction KL {:.2f}"}
_BUSINESS = {
    "model_attempts_total": "{:.0f} attempts",
    "model_version:confident_ratio:rate1h": "{:.1%} confident",
    "model_corrections_total": "{:.0f} corrected",
    "model_version:correction_ratio:rate1h": "{:.2%} of confident",
}
_SUMMED = frozenset(("model_version:requests:rate1m", "model_attempts_total", "model_corrections_total"))
METRICS = (
    *_SYSTEM,
    *_DATA,
    *_BUSINESS,
    "model_feature_kl_divergence",
    "model_feature_kl_divergence_noise",
    "model_feature_mean_shift",
)
"""The metrics of a snapshot."""


class ScreenDisplay(AbstractContextManager["ScreenDisplay"]):
    """A screen that is drawn again for each snapshot."""

    def __init__(self, urls: dict[str, str], console: Console) -> None:
        self._urls = urls
        self._console = console
        self._events: list[str] = []
        # Without a thread of its own, because children are forked meanwhile.
        self._live = Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> ScreenDisplay:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # the terminal may be gone
            self._live.stop()

    def show_event(self, text: str) -> None:
        """Show the first line of what happened to a program."""
        self._events.append(f"{clock(time.time())} {text.splitlines()[0]}")

    def show(self, snapshot: Snapshot) -> None:
        """Draw the screen."""
        with suppress(OSError):
            self._live.update(render(snapshot, self._urls, self._events, self._console.height), refresh=True)


class LineDisplay(AbstractContextManager["LineDisplay"]):
    """Lines about what changed since the snapshot before."""

    def __init__(self) -> None:
        self._before = Snapshot()
        self._alerts: dict[tuple[str, str], Alert] = {}
        self._values_at = 0.0

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def show_event(self, text: str) -> None:
        """Print what happened to a program."""
        print_line(text)

    def show(self, snapshot: Snapshot) -> None:
        """Print the changes."""
        for line in self.changes(snapshot):
            print_line(f"{clock(snapshot.at)} {line}")

    def changes(self, snapshot: Snapshot) -> list[str]:
        """Return a line for each change."""
        before, self._before = self._before, snapshot
        lines = [f"{name} does not respond" for name in snapshot.unreachable if name not in before.unreachable]
        lines += [f"{name} responds again" for name in before.unreachable if name not in snapshot.unreachable]
        lines += [f"demo: {_without_time(line)}" for line in snapshot.demo if line not in before.demo]
        if "Prometheus" in snapshot.unreachable:
            snapshot.targets = before.targets
            return lines
        for target, health in snapshot.targets.items():
            if health not in {before.targets.get(target), "unknown"}:
                lines.append(f"target {target} is {health}")
        lines += self._changed_alerts(snapshot)
        if snapshot.series and snapshot.at - self._values_at >= _VALUES_SECONDS:
            self._values_at = snapshot.at
            lines += [f"{layer}: {values}" for layer, values in layers(snapshot)]
        return lines

    def _changed_alerts(self, snapshot: Snapshot) -> list[str]:
        lines = []
        alerts = {(alert.name, alert.subject): alert for alert in snapshot.alerts if _has_line(alert, snapshot.at)}
        for key, alert in alerts.items():
            before = self._alerts.get(key)
            if before is None or before.state != alert.state or (alert.notified and not before.notified):
                lines.append(f"alert {alert_text(alert)}")
        lines += [f"alert over    {name} {subject}" for name, subject in self._alerts if (name, subject) not in alerts]
        self._alerts = alerts
        return lines


def _has_line(alert: Alert, now: float) -> bool:
    return alert.state == "firing" or alert.severity != "warning" or now - alert.since >= _PENDING_SECONDS


Display = ScreenDisplay | LineDisplay


def create_display(urls: dict[str, str]) -> Display:
    """Return a display for standard output; ``urls`` are those of the programs, by name."""
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal and not console.no_color:
        return ScreenDisplay(urls, console)
    return LineDisplay()


def render(snapshot: Snapshot, urls: dict[str, str], events: list[str], height: int) -> Layout:
    """Return the screen, on which alerts get the lines that nothing else needs.

    Parameters
    ----------
    snapshot
        The state of the stack.
    urls
        URLs of the programs, by name.
    events
        What happened to the programs, the newest last.
    height
        Lines of the terminal.
    """
    title = Table.grid(expand=True)
    title.add_column()
    title.add_column(justify="right")
    title.add_row("model-exporter up", clock(snapshot.at), style="bold")
    head: list[RenderableType] = [title, *[_line(f"  {name:13} {url}") for name, url in urls.items()]]
    head.append(_targets(snapshot))
    head += [_line(f"{layer:8} {values}") for layer, values in layers(snapshot)]
    head += [_line(f"{name} does not respond") for name in snapshot.unreachable]
    foot = [
        *[_line(f"! {event}") for event in events[-2:]],
        _line(f"Ctrl-C stops everything. Open {urls['exporter']}/"),
    ]
    demo = Table.grid(padding=(0, 1))
    demo.add_column(width=8)
    demo.add_row("demo", "\n".join(map(_without_time, snapshot.demo[-2:])))
    room = height - len(head) - len(foot)
    lines = max(0, min(DEMO_HEIGHT, room - 2)) if snapshot.demo else 0
    alerts = _alerts(snapshot, room - lines)
    sections = [Layout(Group(*head), size=len(head)), Layout(Group(*alerts))]
    sections += [Layout(demo, size=lines)] if lines else []
    screen = Layout()
    screen.split_column(*sections, Layout(Group(*foot), size=len(foot)))
    return screen


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _targets(snapshot: Snapshot) -> Text:
    down = [target for target, health in snapshot.targets.items() if health != "up"]
    text = f"targets  {len(snapshot.targets) - len(down)} up"
    if down:
        return _line(f"{text}, {len(down)} down or new: {', '.join(down)}", "bold red")
    return _line(text, "green" if snapshot.targets else "")


def _alerts(snapshot: Snapshot, room: int) -> list[Text]:
    """Return a title and a line for each alert, or for as many as there is room for."""
    alerts = snapshot.alerts
    firing = sum(alert.state == "firing" for alert in alerts)
    lines = [_line(f"  {alert_text(a)}", "bold red" if a.state == "firing" else "magenta") for a in alerts]
    if len(lines) > room - 1:
        lines[max(0, room - 2) :] = [_line(f"  and {len(lines) - max(0, room - 2)} more")]
    title = f"alerts   {firing} firing, {len(alerts) - firing} pending" if alerts else "alerts   none"
    return [_line(title, "bold"), *lines]


def alert_text(alert: Alert) -> str:
    """Return one alert as a line."""
    receivers = f" -> {', '.join(alert.notified)}" if alert.notified else ""
    return f"{alert.state:7} {alert.name} {alert.subject}, since {clock(alert.since)}{receivers}"


def layers(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Return the values of the three layers, in a line or two each."""
    shift = snapshot.largest("model_feature_mean_shift")
    shifted = f"mean shift {shift.value:+.1f} sd {_feature(shift.labels)}" if shift else "mean shift -"
    return [
        ("system", _values(snapshot, _SYSTEM)),
        ("data", _divergence(snapshot)),
        ("data", f"{shifted}, {_values(snapshot, _DATA)}"),
        ("business", _values(snapshot, _BUSINESS)),
    ]


def _values(snapshot: Snapshot, formats: dict[str, str]) -> str:
    """Format metrics: the sum of a counter or rate, the largest value of a ratio or quantile."""
    values = []
    for name, text in formats.items():
        sample = snapshot.largest(name)
        value = snapshot.total(name) if name in _SUMMED else sample.value if sample else None
        values.append(re.sub(r"\{.*\}", "-", text) if value is None else text.format(value))
    return ", ".join(values)


def _divergence(snapshot: Snapshot) -> str:
    """Return the largest divergence of a feature, with its noise floor."""
    kl = snapshot.largest("model_feature_kl_divergence")
    if kl is None:
        return "worst KL -"
    floors = snapshot.series.get("model_feature_kl_divergence_noise", [])
    noise = next((f" (noise {floor.value:.2f})" for floor in floors if floor.labels == kl.labels), "")
    return f"worst KL {kl.value:.2f}{noise} {_feature(kl.labels)}"


def _feature(labels: dict[str, str]) -> str:
    return " ".join(labels[name] for name in ("feature", "window") if name in labels)


def _without_time(line: str) -> str:
    """Return a line of the demo's log without the time of day."""
    return re.sub(r"^\d\d:\d\d:\d\d ", "", line)


def clock(at: float) -> str:
    """Return the local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def print_line(text: str) -> None:
    """Print a line; a terminal or pipe that is gone must not prevent the stack from stopping."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        # Python would flush again when it exits, and print an error.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
