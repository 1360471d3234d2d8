"""``model-exporter explain``: the slices of a running exporter as a table and as JSON."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from support.flights import events, is_planted, running
from support.processes import run_command
from support.servers import Served, eventually


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter whose users corrected one slice."""
    sent = events(2000, confidence=0.95)
    with running(tmp_path_factory.mktemp("flights"), sent, list(filter(is_planted, sent))) as server:
        eventually(lambda: server.get("/v1/slices?model=flights").json["total"])
        yield server


def explain(server: Served, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return run_command("explain", f"--exporter={server.url}", *options)


def test_the_table_ends_with_sentences(flights: Served) -> None:
    """It names the bins, and what segment_by would watch."""
    result = explain(flights, "--model=flights", "--since=1h")
    assert result.returncode == 0, result.stderr
    assert "03 MQ" in result.stdout
    assert " of 2,000 confident predictions" in result.stdout.splitlines()[1]
    assert "share   traffic" in result.stdout
    assert "100% of the corrections are where carrier is MQ and dest is ATL" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("segment_by: carrier")


def test_json_is_the_response(flights: Served) -> None:
    """The document is that of the route."""
    document: Any = json.loads(explain(flights, "--model=flights", "--format=json").stdout)
    expected = flights.get("/v1/slices?model=flights").json
    changing = {"since", "until"}
    assert {k: v for k, v in document.items() if k not in changing} == {
        k: v for k, v in expected.items() if k not in changing
    }


def test_nothing_and_errors_are_said(flights: Served) -> None:
    """Without slices there is a sentence; a wrong question has the exporter's answer, a wrong server a reason."""
    result = explain(flights, "--model=flights", "--of=estimated_loss")
    assert "No combination of at most two bins contains significantly more" in result.stdout
    result = explain(flights, "--model=bare")
    assert (result.returncode, '"bare" has no profile' in result.stderr) == (1, True)
    result = explain(flights, "--model=flights", "--since=60")
    expected = "--since: expected a duration such as 6h, or a time such as 2026-11-24T10:00:00Z, got '60'"
    assert (result.returncode, expected in result.stderr) == (2, True)
    result = explain(flights, "--model=flights", "--version=99")
    assert 'no predictions of version "99" with recorded bins of this time; there are some of "1"' in result.stdout


def test_drift_names_what_it_is_compared_with(flights: Served) -> None:
    """Without predictions of the time before, the column and the sentences name the training data."""
    planted = [event | {"id": f"2-{event['id']}", "version": "2"} for event in events(2000) if is_planted(event)]
    assert flights.post("/v1/predictions", planted).status == 202
    asked = "/v1/slices?model=flights&version=2&of=drift"
    eventually(lambda: flights.get(asked).json["total"] == len(planted))
    output = explain(flights, "--model=flights", "--version=2", "--of=drift").stdout
    assert re.search(r"^slice +share +training +ratio", output, re.M), output
    assert re.search(r"of the predictions are where carrier is MQ, .*% in the training data\.$", output, re.M), output
