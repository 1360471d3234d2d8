"""The documents of this version: a page for each, the runbooks by layer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any

from flask import Response, abort, render_template

from exporter.server.alerts import LAYERS, Alert
from exporter.server.application import Exporter
from exporter.validation import closest, preview

DOCUMENTS = Path(__file__).parents[1] / "docs"
RUNBOOKS = DOCUMENTS / "runbooks"
_ADDRESSES = ("http://127.0.0.1:9877", "http://127.0.0.1:3000")
"""The addresses of the exporter and of Grafana in runbooks, and in the links and code of all documents."""
_IMAGES = {"png": "image/png", "svg": "image/svg+xml"}
_HEAD = re.compile(r"# \w+\n\n(?P<meaning>.*?)\s+Severity: (?P<severity>\w+)[^.]*\. Layer: (?P<layer>\w+)\.\n", re.S)


def contents(exporter: Exporter) -> str:
    """``GET /docs/``: the contents of the documents."""
    return _render(exporter, "index")


def page(exporter: Exporter, name: str) -> Any:
    """``GET /docs/<name>``: a document, or an image in one."""
    if (kind := re.fullmatch(r"images/[a-z-]+\.(png|svg)", name)) and (image := DOCUMENTS / name).is_file():
        return Response(image.read_bytes(), content_type=_IMAGES[kind[1]])
    if not re.fullmatch(r"[a-z/-]{1,100}", name) or not (DOCUMENTS / f"{name}.md").is_file():
        similar = closest(name, _names())
        hint = f"did you mean {similar}?" if similar else "/docs/ lists all"
        abort(404, f"there is no document {preview(name)}; {hint}")
    return _render(exporter, name)


def runbooks(_exporter: Exporter) -> str:
    """``GET /runbooks/``: the runbooks of all alerts."""
    return render_template("runbooks.html", layers=LAYERS, runbooks=runbooks_by_name())


def runbook(exporter: Exporter, name: str) -> str:
    """``GET /runbooks/<name>``: the runbook of an alert."""
    if name not in runbooks_by_name():
        similar = closest(name, runbooks_by_name())
        hint = f"did you mean {similar}?" if similar else "/runbooks/ lists all"
        abort(404, f"there is no runbook for an alert {preview(name)}; {hint}")
    return _render(exporter, f"runbooks/{name}")


def _names() -> Iterator[str]:
    for path in DOCUMENTS.rglob("*.md"):
        if path.parent != RUNBOOKS:
            yield path.relative_to(DOCUMENTS).with_suffix("").as_posix()


def _render(exporter: Exporter, name: str) -> str:
    text, title = (DOCUMENTS / f"{name}.md").read_text(encoding="utf-8"), name
    addresses = list(zip(_ADDRESSES, exporter.link_addresses(), strict=True))
    if is_runbook := name.startswith("runbooks/"):
        title = name.removeprefix("runbooks/")
        for default, address in addresses:
            text = text.replace(default, address)
    elif head := re.match("# (.*)", text):
        title = head[1]
    html = _html(text, name, addresses)
    return render_template("document.html", name=title, text=_link_alerts(html, title) if is_runbook else html)


def runbook_url(alert: Alert) -> str | None:
    """Return the address of an alert's runbook: the page here, else the one that the alert names, if any.

    >>> runbook_url(Alert("firing", {"alertname": "ModelFeatureDrift"}))
    '/runbooks/ModelFeatureDrift'
    >>> own = {"runbook_url": "https://wiki.example/own"}
    >>> runbook_url(Alert("firing", {"alertname": "Own"}, own)), runbook_url(Alert("firing", {"alertname": "Own"}))
    ('https://wiki.example/own', None)
    """
    if alert.name in runbooks_by_name():
        return f"/runbooks/{alert.name}"
    url = alert.annotations.get("runbook_url", "")
    return url if re.match(r"https?://", url) else None


@cache
def runbooks_by_name() -> dict[str, tuple[str, str, str]]:
    """Return the layer, the severity and, in a sentence of HTML, the meaning of each alert: its runbook begins so."""
    found = {}
    for path in sorted(RUNBOOKS.glob("*.md")):
        if head := _HEAD.match(path.read_text(encoding="utf-8")):
            meaning = _html(head["meaning"]).removeprefix("<p>").removesuffix("</p>\n")
            found[path.stem] = head["layer"], head["severity"], meaning
    return found


def _html(markdown: str, name: str = "index", addresses: list[tuple[str, str]] | None = None) -> str:
    """Return a document as HTML, with its links as they are served."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt().enable("table")
    tokens = parser.parse(markdown)
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "heading_open" and after:
            token.attrSet("id", _anchor(after.content))
        for part in (token, *(token.children or ())):
            for default, address in addresses or ():
                if part.type in {"fence", "code_block"}:
                    part.content = part.content.replace(default, address)
                elif part.type == "link_open":
                    part.attrSet("href", str(part.attrGet("href")).replace(default, address))
            for attribute in ("href", "src"):
                if target := part.attrGet(attribute):
                    part.attrSet(attribute, _served(str(target), name))
    html = str(parser.renderer.render(tokens, parser.options, {}))
    # A link out of the documents is one into the checkout, which is not served.
    html = re.sub('<a href="">(.*?)</a>', r"\1", html, flags=re.S)
    # Code and tables scroll on phones, and what scrolls must be reachable by keyboard.
    html = html.replace("<table>", '<div class="wide" tabindex="0"><table>').replace("</table>", "</table></div>")
    html = html.replace("<th></th>", "<td></td>")
    return html.replace("<pre>", '<pre tabindex="0">').replace(' style="text-align:right"', ' class="number"')


def _anchor(heading: str) -> str:
    """Return what a link to a heading ends with.

    >>> _anchor("`GET /v1/slices`"), _anchor("Backup and restore")
    ('get-v1slices', 'backup-and-restore')
    """
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _served(link: str, name: str) -> str:
    """Return where the exporter serves what a document links to; empty for a file outside the documents.

    >>> _served("drift.md#the-score", "index"), _served("../slices.md", "runbooks/ModelDrift")
    ('/docs/drift#the-score', '/docs/slices')
    >>> _served("runbooks/ModelDrift.md", "drift"), _served("runbooks/", "index"), _served("../LICENSE", "index")
    ('/runbooks/ModelDrift', '/runbooks/', '')
    >>> _served("../CHANGELOG.md", "index")
    '/docs/changelog'
    """
    if re.match(r"[a-z]+:|#|/", link):
        return link
    path, mark, anchor = link.partition("#")
    target = normpath(join(dirname(name), path)).removesuffix(".md").replace("../CHANGELOG", "changelog")
    if target.startswith(".."):
        return ""
    if target == "runbooks":
        return "/runbooks/"
    target = "" if target == "index" else target
    return f"{'/' if target.startswith('runbooks/') else '/docs/'}{target}{mark}{anchor}"


def _link_alerts(html: str, name: str) -> str:
    """Link the names of other alerts in a runbook to their runbooks, except in code."""
    others = "|".join(runbooks_by_name().keys() - {name})
    parts = re.split(r"(<code.*?</code>|<[^>]*>)", html, flags=re.S)
    parts[::2] = [re.sub(rf"\b({others})\b", r'<a href="/runbooks/\1">\1</a>', part) for part in parts[::2]]
    return "".join(parts)


GLOBALS = {"runbook_url": runbook_url}
"""Functions of the templates of all pages."""
