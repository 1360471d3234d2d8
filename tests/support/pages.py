"""The HTML of a page, parsed."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from support.servers import Answer


class Page(HTMLParser):
    """A page's text, its tags and the names of its table rows, in order."""

    VOID = frozenset({"img", "input", "link", "meta"})

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.status = answer.status
        self.source = answer.text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open, f"left open: {self.open}"
        self.text = " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def rows(self) -> list[str]:
        """Names of the features, in the order of the table."""
        links = [attrs.get("href") or "" for tag, attrs in self.tags if tag == "a"]
        return [match[1] for href in links if (match := re.search(r"feature=([^&#]*)#chosen", href))]
