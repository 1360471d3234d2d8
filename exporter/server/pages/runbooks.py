"""The runbooks: their list, by layer, and a page for each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flask import abort, render_template

from exporter.server.alerts import LAYERS, Alert
from exporter.server.application import Exporter
from exporter.validation import closest, preview

RUNBOOKS = Path(__file__).parents[1] / "runbooks"
_ADDRESSES = ("http://127.0.0.1:9877", "http://127.0.0.1:3000")
"""The addresses of the exporter and of Grafana in the text of runbooks."""
_HEAD = re.compile(r"# \w+\n\n(?P<meaning>.*?)\s+Severity: (?P<severity>\w+)\. Layer: (?P<layer>\w+)\.\n", re.S)


@dataclass(frozen=True)
class Entry:
    """A runbook in the list.

    Attributes
    ----------
    meaning
        What the alert means, in a sentence of HTML.
    """

    name: str
    meaning: str
    severity: str


def contents(_exporter: Exporter) -> str:
    """``GET /runbooks/``: the runbooks of all alerts."""
    return render_template("runbooks.html", layers=by_layer())


def page(exporter: Exporter, name: str) -> str:
    """``GET /runbooks/<name>``: the runbook of an alert."""
    if not re.fullmatch(r"[A-Za-z]{1,100}", name) or not (path := RUNBOOKS / f"{name}.md").is_file():
        similar = closest(name, (path.stem for path in RUNBOOKS.glob("*.md")))
        hint = f"did you mean {similar}?" if similar else "/runbooks/ lists all"
        abort(404, f"there is no runbook for an alert {preview(name)}; {hint}")
    text = path.read_text(encoding="utf-8")
    for default, address in zip(_ADDRESSES, exporter.link_addresses(), strict=True):
        text = text.replace(default, address)
    return render_template("runbook.html", name=name, text=_link_alerts(_html(text), name))


def runbook_url(alert: Alert) -> str | None:
    """Return the address of an alert's runbook: the page here, else the one that the alert names, if any.

    >>> runbook_url(Alert("firing", {"alertname": "ModelFeatureDrift"}))
    '/runbooks/ModelFeatureDrift'
    >>> own = {"runbook_url": "https://wiki.example/own"}
    >>> runbook_url(Alert("firing", {"alertname": "Own"}, own)), runbook_url(Alert("firing", {"alertname": "Own"}))
    ('https://wiki.example/own', None)
    """
    if any(alert.name == entry.name for entries in by_layer().values() for entry in entries):
        return f"/runbooks/{alert.name}"
    url = alert.annotations.get("runbook_url", "")
    return url if re.match(r"https?://", url) else None


@cache
def by_layer() -> dict[str, list[Entry]]:
    """Return the entries of all runbooks by layer; each runbook's first paragraph names its severity and layer."""
    layers: dict[str, list[Entry]] = {layer: [] for layer in LAYERS}
    for path in sorted(RUNBOOKS.glob("*.md")):
        if head := _HEAD.match(path.read_text(encoding="utf-8")):
            meaning = _html(head["meaning"]).removeprefix("<p>").removesuffix("</p>\n")
            layers.setdefault(head["layer"], []).append(Entry(path.stem, meaning, head["severity"]))
    return layers


def _html(markdown: str) -> str:
    from markdown_it import MarkdownIt

    # Code scrolls on phones, and what scrolls must be reachable by keyboard.
    return str(MarkdownIt().render(markdown)).replace("<pre>", '<pre tabindex="0">')


def _link_alerts(html: str, name: str) -> str:
    """Link the names of other alerts in a runbook to their runbooks, except in code."""
    others = "|".join(sorted({path.stem for path in RUNBOOKS.glob("*.md")} - {name}))
    parts = re.split(r"(<code.*?</code>|<[^>]*>)", html, flags=re.S)
    parts[::2] = [re.sub(rf"\b({others})\b", r'<a href="/runbooks/\1">\1</a>', part) for part in parts[::2]]
    return "".join(parts)


GLOBALS = {"runbook_url": runbook_url}
"""Functions of the templates of all pages."""
