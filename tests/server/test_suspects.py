"""Suspect labels over HTTP: the list, the page, its forms without a script, and the release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.corrections import EVIL, accept_suspects, queue, start
from support.pages import Page
from support.processes import Run
from support.servers import Served, ask


@pytest.fixture(scope="module")
def suspected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter with three suspect labels."""
    server = start(tmp_path_factory.mktemp("suspected"))
    accept_suspects(server)
    yield server
    server.stop()


def suspects(server: Served) -> list[dict[str, Any]]:
    return queue(server, "suspect=true&order=suspect")


def page(server: Served) -> str:
    return server.get("/review?status=accepted&suspect=true&order=suspect&source=all").text


def test_suspects_are_listed_decided_and_left_out(suspected: Served, run: Run) -> None:
    """A kept label is no suspect any more, a changed one has its new label, and a release leaves out the third."""
    found = suspects(suspected)
    assert [one["label"] for one in found] == [EVIL] * 3
    assert found[0]["suspect"]["likely"] == "maybe"
    assert found[0]["suspect"]["reason"].startswith(f"labelled {EVIL}; ")
    shown = suspected.get(f"/v1/corrections/{found[0]['id']}").json
    assert shown["suspect"] == found[0]["suspect"]
    assert not any("suspect" in one for one in queue(suspected, "suspect=false"))
    assert "3 accepted labels may be wrong" in suspected.get("/review").text
    text = page(suspected)
    cards = Page(suspected.get("/review?status=accepted&suspect=true&view=table"))
    assert len([attrs for _, attrs in cards.tags if "data-suspect" in attrs]) == 3
    assert EVIL not in text, "it is escaped"
    for words in ("Keep &lt;b&gt;no&lt;/b&gt;", "Change to maybe", "most similar are labelled maybe"):
        assert text.count(words) == 3, words
    for body, label in (({"status": "accepted"}, EVIL), ({"status": "accepted", "label": "maybe"}, "maybe")):
        one = found.pop()
        answer = ask(f"{suspected.url}/v1/corrections/{one['id']}", body | {"revision": one["revision"]}, "PATCH")
        assert (answer.status, answer.json["label"], "suspect" in answer.json) == (200, label, False)
    assert [one["id"] for one in suspects(suspected)] == [found[0]["id"]]
    flags = ["--model=tickets", f"--exporter={suspected.url}"]
    address = f"{suspected.url}/review?model=tickets&status=accepted&suspect=true&order=suspect&source=all"
    assert f"suspect labels: 1 in it; review them at {address}" in run("dataset", "release", *flags).out
    printed = run("dataset", "release", *flags, "--exclude-suspects", "--name=clean").out
    assert "62 examples  clean\n" in printed
    assert f"suspect labels: 1 left out; review them at {address}" in printed
    told = suspected.get("/v1/dataset/releases/clean", Accept="application/json").json["lineage"]["suspects"]
    assert (told["found"], told["excluded"]) == (1, True)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/v1/corrections?suspect=maybe", None, 'suspect: expected true or false, got "maybe"'),
        ("/v1/dataset/releases", {"model": "tickets", "exclude_suspects": 1}, "exclude_suspects"),
    ],
)
def test_a_wrong_value_is_explained(suspected: Served, path: str, body: Any, words: str) -> None:
    """A value that is neither true nor false is refused, with what would be right."""
    answer = ask(suspected.url + path, body)
    assert answer.status == 400
    assert words in answer.text.replace("\\", "")
