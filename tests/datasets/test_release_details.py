"""What a release says of its examples: labels, predictions, sources, slices, and the size of errors."""

from __future__ import annotations

import re
from typing import Any

from support.examples import put_examples, sample
from support.processes import run_command
from support.servers import CONFIG, Served, ask, write_config


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


def test_examples_are_counted_by_label_prediction_source_and_slice(served: Served) -> None:
    """A bin that holds significantly more of the examples than of the training data is a slice, with its labels."""
    french = [{"inputs": {"age": 20 + n, "country": "FR"}, "label": "no" if n % 3 else "maybe"} for n in range(45)]
    others = [sample(inputs={"age": 30 + n, "country": "NL"}) for n in range(10)]
    put_examples(served, [*french, *others, {"version": "4", "prediction": 0.5}])
    lineage = make(served)
    assert lineage["labels"] == {"maybe": 15, "no": 31, "yes": 10}
    assert lineage["predictions"] == {"0.5": 1, "yes": 55}
    assert lineage["outcomes"] == {"maybe": {"yes": 15}, "no": {"0.5": 1, "yes": 30}, "yes": {"yes": 10}}
    assert lineage["sources"] == {"sample": 10, "user": 46}
    assert lineage["versions"] == {"3": 55, "4": 1}
    assert lineage["without_inputs"] == 1
    slices = {next(iter(one["where"].values())): one for one in lineage["slices"]}
    french_slice = slices["02 FR"]
    assert (french_slice["where"], french_slice["input"]) == ({"country": "02 FR"}, "country")
    assert (french_slice["examples"], french_slice["labels"]) == (45, {"maybe": 15, "no": 30})
    assert french_slice["share"] == 45 / 55
    assert 0.08 < french_slice["training_share"] < 0.12
    assert "00 NL" not in slices  # fewer than in the training data
    assert "label_quantiles" not in lineage
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
    expected = r"slice: country is 02 FR: 100 % of the examples, [\d.]+ % of the training data: no 40"
    assert any(re.fullmatch(expected, line) for line in lines)


def test_a_regression_has_quantiles_of_labels_and_errors(served: Served) -> None:
    """Predictions that are numbers have errors, with their sign: the prediction minus the label."""
    model = CONFIG["models"][1]["name"]
    rows = [{"prediction": 10.5, "label": 10.5 + n} for n in range(101)]
    put_examples(served, [{"model": model, **row} for row in [*rows, {"prediction": 1.5, "label": "text"}]])
    lineage = make(served, model)
    expected = {"min": -100.0, "p5": -95.0, "p25": -75.0, "p50": -50.0, "p75": -25.0, "p95": -5.0, "max": 0.0}
    assert lineage["error_quantiles"].keys() == expected.keys()
    assert all(abs(lineage["error_quantiles"][name] - value) <= 1 for name, value in expected.items())
    assert abs(lineage["label_quantiles"]["p50"] - 60.5) <= 1
    assert (lineage["slices"], lineage["without_inputs"]) == (None, 102)
    printed = command(served, "release", f"--model={model}").splitlines()
    assert [line.partition(":")[0] for line in printed[1:-1]] == [
        "sources", "versions", "labels", "errors", "without inputs",
    ]  # fmt: skip
    assert printed[3].startswith("labels: min 10.5, p5 15.5, ")


def test_slices_of_an_input_that_is_redacted_later_are_not_shown(served: Served) -> None:
    """The names of bins are values of the input."""
    put_examples(served, [{"inputs": {"country": "FR", "age": 200}} for _ in range(40)])
    before = make(served)["slices"]
    assert "country" in {one["input"] for one in before}
    credit = {**CONFIG["models"][0], "redact": ["name", "country"], "segment_by": None, "segments": []}
    write_config(served.folder, {**CONFIG, "models": [credit, CONFIG["models"][1]]})
    assert ask(f"{served.url}/-/reload", method="POST").status == 200
    (release,) = served.get("/v1/dataset/releases").json["releases"]
    assert release["lineage"]["slices"] == [one for one in before if one["input"] != "country"]
    path = f"/v1/dataset/releases/{release['id']}"
    assert served.get(path, Accept="application/json").json == release
