"""Count the messages that a person gets of an incident, with real servers in real time: 82 minutes.

Four exporters, a Prometheus that scrapes each 15 s, an Alertmanager with the shipped rules and routes, receivers and
the demo run at once; models send predictions, and their incidents happen beside each other. Prometheus and
Alertmanager restart before any incident, and during the errors of one model. Prints each mail, when each alert fired
first and last, and the table of ``docs/notifications.md``. ``--only`` chooses models of `MODELS`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import yaml

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from support.alertmanager import Received, alertmanager
from support.paths import ROOT
from support.programs import Program, prometheus
from support.servers import Served, ask, free_port

from demo.up import PROMETHEUS_FLAGS
from exporter.profiles.builder import build_file
from exporter.profiles.profile import save

TEAM, OWNERS = "ml-team@example.com", "model-owners@example.com"
Rows = dict[str, Any]


class Model(NamedTuple):
    """A model, its incident, and its traffic: requests a second and the share of errors, by the minute."""

    incident: str
    rate: tuple[tuple[float, float], ...] = ((999, 1),)
    errors: tuple[float, float, float] = (0, 0, 0)
    """From and to which minute, and the share."""
    version: tuple[float, float] = (0, 0)
    """Between which minutes half of the requests are answered by version 2, whose are the errors."""
    changed: tuple[tuple[float, float, Callable[[Rows], Rows]], ...] = ()
    alerts: Rows | None = None
    exporter: str = "main"


def fahrenheit(rows: Rows) -> Rows:
    """Return rows with the temperature in another unit."""
    return rows | {"temperature": 1.8 * rows["temperature"] + 32}


def swapped(rows: Rows) -> Rows:
    """Return rows with two columns exchanged, which have the same range."""
    return rows | {"left": rows["right"], "right": rows["left"]}


def drifted(rows: Rows) -> Rows:
    """Return rows of which one column is higher by a standard deviation."""
    return rows | {"score": rows["score"] + 1}


FEW = ((999, 3.3),)
ERRORS = "5% of errors for five minutes"
MODELS = {
    "loans": Model(
        "a swapped column, of a model that has drifted for long", changed=((0, 999, drifted), (27, 40, swapped))
    ),
    "weather": Model("a changed unit", changed=((12, 25, fahrenheit),)),
    "prices": Model("drift", changed=((0, 999, drifted),)),
    "fraud": Model(ERRORS, FEW, (10, 15, 0.05)),
    "ranking": Model("a bad release", FEW, (8, 20, 0.1), (8, 20)),
    "search": Model("callers that stop", ((10, 1), (30, 0), (1, 1))),
    "churn": Model(
        "an hourly batch, with `ModelTrafficMissing: 2h`",
        ((5, 0), (1, 20), (59, 0), (1, 20), (1, 0)),
        alerts={"ModelTrafficMissing": "2h"},
    ),
    "school": Model(
        "a model without traffic at night, with `ModelTrafficMissing: off`",
        ((10, 1), (1, 0)),
        alerts={"ModelTrafficMissing": "off"},
    ),
    "parking": Model(
        "an exporter that is unreachable for 10, 45 and 130 seconds during errors", FEW, (6, 50, 0.05), exporter="away"
    ),
    "routes": Model(
        "an exporter that is down for 20 minutes during errors, while others are up",
        FEW,
        (6, 45, 0.05),
        exporter="down",
    ),
    "clicks": Model("a Prometheus and an Alertmanager that restart during errors", FEW, (30, 55, 0.05)),
    "spam": Model("none, while all of these are away, down or restart", exporter="away"),
}
CAMERA = "a dark camera"
RESTARTS = {
    "away": ((15, 10), (20, 45), (25, 130)),
    "down": ((10, 1200),),
    "prometheus": ((3, 10), (38, 30)),
    "alertmanager": ((4, 10), (43, 30)),
}
"""When servers are away, and for how many seconds."""


def training(rng: np.random.Generator, rows: int) -> Rows:
    """Return rows as a model was trained on; live rows are drawn from the same distribution."""
    return {
        "score": rng.normal(size=rows),
        "left": 10 * rng.beta(2, 4, rows),
        "right": 10 * rng.beta(4, 2, rows),
        "temperature": rng.normal(20, 4, rows),
    }


def started(folder: Path, models: dict[str, Model]) -> Served:
    """Start an exporter with models."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    np.savez(folder / "rows.npz", **training(rng, 10_000), time=1.7e9 + np.arange(10_000))
    save(build_file(folder / "rows.npz", name="rows", time_column="time"), folder / "rows.json")
    listed = [{"name": name, "profile": "rows.json", "alerts": model.alerts or {}} for name, model in models.items()]
    (folder / "exporter.yml").write_text(yaml.safe_dump({"models": listed}))
    return Served(folder, forked=False).start()


def events(rng: np.random.Generator, name: str, model: Model, minute: float) -> list[Rows]:
    """Return what a model sends in a second."""
    rate, before = model.rate[-1][1], 0.0
    for minutes, phase in model.rate:
        before += minutes
        if minute < before:
            rate = phase
            break
    rows = training(rng, number := int(rng.poisson(rate)))
    for begin, end, change in model.changed:
        rows = change(rows) if begin <= minute < end else rows
    begin, end, share = model.errors
    sent = []
    for index in range(number):
        second = model.version[0] <= minute < model.version[1] and rng.random() < 0.5
        event: Rows = {"model": name, "version": "2" if second else "1", "code": 200, "duration_seconds": 0.02}
        if begin <= minute < end and rng.random() < share and (second or not any(model.version)):
            sent.append(event | {"code": 500})
        else:
            inputs = {column: float(values[index]) for column, values in rows.items()}
            sent.append(event | {"prediction": "yes", "inputs": inputs})
    return sent


def restart(server: Served | Program, seconds: float) -> None:
    """End a server, and start it again after a while."""
    server.stop()
    time.sleep(seconds)
    server.start()


def play(servers: dict[str, Served | Program], models: dict[str, Model], began: float, minutes: float) -> None:
    """Send what models send, and let servers be away, until it is over. What nobody accepts is lost."""
    rng = np.random.default_rng(2)
    due = sorted((minute, name, seconds) for name, times in RESTARTS.items() for minute, seconds in times)
    due = [one for one in due if one[1] in servers]
    while (minute := (time.monotonic() - began) / 60) < minutes:
        while due and due[0][0] <= minute:
            _, name, seconds = due.pop(0)
            print(f"{minute:5.1f} {name} is away for {seconds} s", flush=True)
            threading.Thread(target=restart, args=(servers[name], seconds), daemon=True).start()
        for exporter in {model.exporter for model in models.values()}:
            sent = [
                event
                for name, model in models.items()
                if model.exporter == exporter
                for event in events(rng, name, model, minute)
            ]
            server = servers[exporter]
            with contextlib.suppress(OSError):
                if sent:
                    ask(f"{server.url}/v1/predictions", sent)
        time.sleep(max(began + 60 * minute + 1 - time.monotonic(), 0))


def announced(received: Received, began: float, minutes: float) -> None:
    """Print each mail as it arrives."""
    told = 0
    while (time.monotonic() - began) / 60 < minutes:
        for (to, mail), at in zip(received.mails[told:], received.mailed_at[told:], strict=False):
            told += 1
            print(f"{(at - began) / 60:5.1f} to {to}: {mail['Subject']}", flush=True)
        time.sleep(2)


def counted(received: Received, began: float, pattern: str, begin: float) -> str:
    """Return the cells of an incident: announcements and ends for each person, and when the team was told of it."""
    mails = [
        (to, str(mail["Subject"]), (at - began) / 60)
        for (to, mail), at in zip(received.mails, received.mailed_at, strict=True)
        if re.search(pattern, str(mail["Subject"]))
    ]
    pages = [page for page in received.at("/pager") if re.search(pattern, json.dumps(page["groupLabels"]))]

    def cell(ends: list[bool]) -> str:
        return f"{ends.count(False)} + {ends.count(True)}" if ends else "0"

    team = [(subject, at) for to, subject, at in mails if to == TEAM]
    first = next((f"{at - begin:.1f}" for _, at in team if at > begin), "")
    cells = [
        cell(["[resolved" in subject for subject, _ in team]),
        cell([page["status"] == "resolved" for page in pages]),
        cell(["[resolved" in subject for to, subject, _ in mails if to == OWNERS]),
    ]
    return " | ".join([*cells, first])


def begins(model: Model) -> float:
    """Return the minute in which a model's incident begins; the last of two."""
    stops = [model.rate[0][0]] if len(model.rate) > 1 else []
    return max([model.errors[0], *(one[0] for one in model.changed), *stops])


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=82)
    parser.add_argument("--only", nargs="+", choices=[*MODELS, "digits"], default=[*MODELS, "digits"])
    options = parser.parse_args()
    models = {name: model for name, model in MODELS.items() if name in options.only}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers: dict[str, Served | Program] = {}
        exporters: dict[str, Served] = {}
        for exporter in dict.fromkeys(model.exporter for model in models.values()):
            exporters[exporter] = stack.enter_context(
                started(folder / exporter, {name: one for name, one in models.items() if one.exporter == exporter})
            )
        if "digits" in options.only:
            demo = [sys.executable, "-m", "demo", "run", f"--directory={folder / 'demo'}"]
            subprocess.run([*demo, "--prepare"], check=True)
            exporters["demo"] = stack.enter_context(Served(folder / "demo", forked=False).start())
        alerting = stack.enter_context(alertmanager(folder, speed=1))
        servers |= exporters | {"alertmanager": alerting.program}
        targets = {"model-exporter": [one.url for one in exporters.values()], "alertmanager": [alerting.url]}
        config = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "15s", "evaluation_interval": "15s"}
        shutil.copytree(ROOT / "prometheus" / "rules", folder / "rules")
        (folder / "targets").mkdir()
        for name, urls in targets.items():
            listed = [{"targets": [url.removeprefix("http://") for url in urls]}]
            (folder / "targets" / f"{name}.yml").write_text(yaml.safe_dump(listed))
        scraper = stack.enter_context(prometheus(folder, config, *PROMETHEUS_FLAGS))
        own = scraper.url.removeprefix("http://")
        (folder / "targets" / "prometheus.yml").write_text(yaml.safe_dump([{"targets": [own]}]))
        servers["prometheus"] = scraper
        began = time.monotonic()
        if "demo" in exporters:
            demo += [f"--exporter={exporters['demo'].url}", f"--listen-address=127.0.0.1:{free_port()}", "--rate=5"]
            child = subprocess.Popen(
                [*demo, "--phases=healthy=6m,dark=6m,healthy=2h", f"--prometheus={scraper.url}"],
                stdout=subprocess.DEVNULL,
            )
            stack.callback(child.wait)
            stack.callback(child.terminate)
        received, arguments = alerting.received, (began, options.minutes)
        threading.Thread(target=announced, args=(received, *arguments), daemon=True).start()
        play(servers, models, *arguments)
        for edge in ("min", "max"):
            fired = f'{edge}_over_time(timestamp(ALERTS{{alertstate="firing",alertname!="Watchdog"}})[3h:15s])'
            for one in ask(f"{scraper.url}/api/v1/query?query={quote(fired)}").json["data"]["result"]:
                minute = (float(one["value"][1]) - time.time() + time.monotonic() - began) / 60
                print(f"{minute:5.1f} {edge}", *(one["metric"].get(key) for key in ("alertname", "model", "instance")))
        print("\n| incident | team | pager | stakeholders | minutes until the team knows |\n|---|---|---|---|---|")
        for name, model in models.items():
            own = f"|exporter {exporters['down'].url.removeprefix('http://')}" if model.exporter == "down" else ""
            print(f"| {model.incident} | {counted(received, began, name + own, begins(model))} |")
        print(f"| {CAMERA} | {counted(received, began, 'digits', 6)} |")


if __name__ == "__main__":
    main()
