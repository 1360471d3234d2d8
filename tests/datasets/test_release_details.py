"""What a release says of its examples: labels, predictions and sources."""

from __future__ import annotations

from typing import Any

from support.examples import put_examples, sample
from support.processes import run_command
from support.servers import Served


def make(served: Served, model: str = "credit") -> Any:
    """Make a release; return its lineage."""
    answer = served.post("/v1/dataset/releases", {"model": model})
    assert answer.status == 201, answer.text
    return answer.json["lineage"]


def command(served: Served, *arguments: str) -> str:
    """Return what a subcommand of dataset prints."""
    result = run_command("dataset", *arguments, f"--exporter={served.url}")
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_examples_are_counted_by_label_prediction_and_source(served: Served) -> None:
    """Each example counts once under its label, its prediction, its source and its version."""
    corrected = [{"inputs": {"age": 20 + n, "country": "FR"}, "label": "no" if n % 3 else "maybe"} for n in range(45)]
    others = [sample(inputs={"age": 30 + n, "country": "NL"}) for n in range(10)]
    put_examples(served, [*corrected, *others, {"version": "4", "prediction": 0.5}])
    lineage = make(served)
    assert lineage["labels"] == {"maybe": 15, "no": 31, "yes": 10}
    assert lineage["predictions"] == {"0.5": 1, "yes": 55}
    assert lineage["outcomes"] == {"maybe": {"yes": 15}, "no": {"0.5": 1, "yes": 30}, "yes": {"yes": 10}}
    assert lineage["sources"] == {"sample": 10, "user": 46}
    assert lineage["versions"] == {"3": 55, "4": 1}
    assert lineage["without_inputs"] == 1
    (listed,) = served.get("/v1/dataset/releases").json["releases"]
    assert listed["lineage"] == lineage


def test_the_command_prints_what_a_release_holds(served: Served) -> None:
    """The most frequent names come first, and a label cannot control the terminal."""
    rows: list[dict[str, Any]] = [{"inputs": {"country": "FR"}, "label": "no"} for _ in range(40)]
    put_examples(served, [*rows, {"label": "\x1b[31mred"}, *({"label": f"l{n}"} for n in range(12))])
    head, *lines = command(served, "release", "--model=credit", "--name=autumn").splitlines()
    assert head.endswith("      53 examples  autumn")
    assert lines[0].startswith("labels: no 40, ")
    assert lines[0].endswith(", 4 more")
    assert "\x1b" not in "".join(lines)
    assert lines[1:4] == ["predictions: yes 53", "sources: user 53", "versions: 3 53"]
    assert lines[4] == "without inputs: 13"
