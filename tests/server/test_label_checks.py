"""Labels of accepted corrections checked in the background, over both databases; and what reviewers decide then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from support.corrections import EVIL, accept_suspects, queue, start
from support.pages import Page
from support.processes import Run
from support.review_rows import START, put
from support.servers import Served, ask

from exporter.config import ModelConfig, StoreConfig
from exporter.datasets.release import EmptyError, make_release
from exporter.monitoring.registry import MonitorRegistry
from exporter.server.tasks import label_checks as task
from exporter.server.tasks.label_checks import LabelCheck
from exporter.storage import Decision, Filter, Store, _review
from exporter.storage._database import feedback, label_checks

MODELS = {
    "digits": ModelConfig("digits", redact=frozenset({"name"})),
    "loans": ModelConfig("loans"),
    "prices": ModelConfig("prices", task="regression"),
}


class Checked:
    """A store whose labels are checked whenever `check` is called."""

    def __init__(self, url: str) -> None:
        self.store = Store(StoreConfig(url=url), lambda _: None)
        self.monitors = MonitorRegistry(MODELS, {})
        self.checks = {model: LabelCheck(self.store, model) for model in MODELS}

    def check(self, model: str = "digits") -> set[int]:
        """Check labels if there is a reason to, and return the suspects."""
        self.checks[model].check(self.monitors, lambda: False)
        return self.ids(model)

    def ids(self, model: str = "digits") -> set[int]:
        with self.store.review.training_set(model) as found:
            return found.suspects

    def times(self) -> list[float]:
        with self.store.reading() as connection:
            return list(connection.execute(sa.select(label_checks.c.time)).scalars())

    def page(self, **chosen: Any) -> list[dict[str, Any]]:
        return self.store.review.page(Filter(**chosen), 1000, None, "suspect").corrections

    def decide(self, *ids: int, status: str = "accepted", label: str | None = None) -> None:
        with self.store.reading() as connection:
            of_ids = sa.select(feedback.c.id, feedback.c.revision).where(feedback.c.id.in_(ids))
            batch = [(id_, Decision(status, label, revision, "ann")) for id_, revision in connection.execute(of_ids)]
        self.store.review.decide(batch, {}, 0)

    def add(self, labels: list[str], corners: list[int], **fields: Any) -> list[int]:
        """Add corrections whose inputs are close to a corner, and accept them; return their identifiers."""
        with self.store.reading() as connection:
            last = connection.execute(sa.select(sa.func.max(feedback.c.id))).scalar() or 0
        rng = np.random.default_rng(last)
        points = np.eye(4)[corners] + rng.normal(0, 0.05, (len(corners), 4))
        rows = [
            {"inputs": json.dumps({"at": point}), "label": label, "prediction_id": f"p-{last + number}"} | fields
            for number, (point, label) in enumerate(zip(points.tolist(), labels, strict=True), 1)
        ]
        put(self.store, rows)
        ids = list(range(last + 1, last + 1 + len(rows)))
        if fields.get("verdict") != "accepted":
            self.decide(*ids)
        return ids


@pytest.fixture
def checked(database: str) -> Iterator[Checked]:
    """An empty store."""
    checked = Checked(database)
    yield checked
    checked.store.close()


def two_corners(checked: Checked, **fields: Any) -> int:
    """Add thirty corrections in each of two corners, and one more with the label of the other corner; return that."""
    checked.add(['"7"'] * 30 + ['"1"'] * 30, [0] * 30 + [1] * 30, **fields)
    return checked.add(['"7"'], [1], **fields)[0]


def test_a_suspect_is_listed_with_the_reason(checked: Checked) -> None:
    """One label in sixty-one is unlike those of similar inputs; the reason has their number and their label."""
    wrong = two_corners(checked)
    assert checked.ids() == set(), "before the first check"
    assert checked.check() == {wrong}
    (document,) = checked.page(suspect=True)
    assert len(checked.page(suspect=False)) == 60
    assert next(row["id"] for row in checked.page()) == str(wrong), "the order has suspects first"
    assert document["id"] == str(wrong)
    assert document["suspect"] == {
        "likely": "1",
        "compared": 15,
        "with_likely": 15,
        "with_label": 0,
        "reason": "labelled 7; 15 of the 15 most similar are labelled 1, none 7",
    }


def test_a_kept_label_is_not_a_suspect_again(checked: Checked) -> None:
    """A reviewer who keeps the label settles it, also for later checks; the decision is in the history."""
    wrong = two_corners(checked)
    checked.check()
    checked.decide(wrong)
    assert checked.ids() == set()
    assert checked.check() == set()
    other = checked.add(['"7"'], [1])[0]
    assert checked.check() == {other}


def test_a_changed_label_is_checked_like_any_other(checked: Checked) -> None:
    """The likely label is no suspect, and yet another one is."""
    wrong = two_corners(checked)
    checked.check()
    checked.decide(wrong, label='"1"')
    assert checked.check() == set()
    checked.decide(wrong, label='"7"')
    assert checked.check() == {wrong}
    checked.decide(wrong, status="rejected")
    assert checked.ids() == set()


def test_confirmed_predictions_are_compared_with(checked: Checked) -> None:
    """A correction is a suspect among predictions that users confirmed, and those never are suspects themselves."""
    checked.add([None] * 40, [1] * 40, verdict="accepted", prediction="1")  # type: ignore[list-item]
    checked.add([None] * 40, [0] * 40, verdict="accepted", prediction='"7"')  # type: ignore[list-item]
    checked.add([None], [0], verdict="accepted", prediction='"1"')  # type: ignore[list-item]
    wrong = checked.add(["7.0"], [1])[0]
    assert checked.check() == {wrong}
    (document,) = checked.page(suspect=True)
    assert document["suspect"]["reason"] == "labelled 7; 20 of the 20 most similar are labelled 1, none 7"


def test_samples_are_checked_as_corrections_are(checked: Checked) -> None:
    """An accepted sample has its prediction as the label, and may be a suspect."""
    two_corners(checked)
    (sample,) = checked.add(['"7"'], [1], verdict="sampled", prediction='"7"')
    assert sample in checked.check()


def test_labels_are_checked_again_only_after_a_decision(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions on another model are no reason, and new feedback alone is one after an hour."""
    two_corners(checked)
    checked.check()
    (first,) = checked.times()
    checked.add(['"7"'] * 30, [0] * 30, model="loans")
    checked.check()
    checked.add([None], [0], verdict="accepted")  # type: ignore[list-item]
    checked.check()
    assert checked.times() == [first]
    monkeypatch.setattr(_review, "CONFIRMED_SECONDS", -1.0)
    checked.check()
    (second,) = checked.times()
    assert second > first
    checked.check()
    assert checked.times() == [second], "without new feedback"
    checked.decide(1, status="rejected")
    checked.check()
    assert checked.times() != [second]


def test_a_new_exporter_goes_on_from_the_stored_check(checked: Checked) -> None:
    """After a restart, labels are not checked without a reason."""
    wrong = two_corners(checked)
    checked.check()
    times = checked.times()
    checked.checks["digits"] = LabelCheck(checked.store, "digits")
    assert checked.check() == {wrong}
    assert checked.times() == times


def test_numbers_are_not_checked(checked: Checked) -> None:
    """A regression has no suspects, and neither have numbers with a decimal point where the task is not known."""
    two = ["7.5"] * 30 + ["1.5"] * 30 + ["7.5"], [0] * 30 + [1] * 31
    for model in ("prices", "loans"):
        checked.add(*two, model=model, prediction="1.5")
        assert checked.check(model) == set()


def test_inputs_of_any_kind_are_survived(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, unreadable and too long inputs are not compared, and a label that is no scalar is not either."""
    monkeypatch.setattr(task, "CHARACTERS", 2000)
    wrong = two_corners(checked)
    odd = [None, "", "{", "[]", '{"at":null}', '{"at":"x"}', json.dumps({"at": [1.0] * 3000}), '{"name":"Ada"}'] * 4
    put(checked.store, [
        {"inputs": text, "label": '"7"', "created": START + number, "prediction_id": f"odd-{number}"}
        for number, text in enumerate(odd)
    ])  # fmt: skip
    checked.decide(*range(62, 62 + len(odd)))
    checked.add(["[1]", "null", '"' + "x" * 5000 + '"', "{"], [1] * 4)
    assert wrong in checked.check()
    assert checked.ids() <= {wrong, 62 + len(odd) + 2}


def test_what_would_take_too_long_is_not_compared(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs beyond the time for them are left out of a check."""
    two_corners(checked)
    monkeypatch.setattr(task, "ENCODING_SECONDS", -1.0)
    assert checked.check() == set()
    assert checked.times()


def release(checked: Checked, name: str, **options: bool) -> tuple[int, dict[str, Any], str]:
    """Make a release; return its number of examples, what its lineage says of suspects, and its hash."""
    row = make_release(checked.store, "digits", name, None, frozenset(), **options).row
    return row["examples"], json.loads(row["lineage"])["suspects"], row["sha256"]


def test_a_release_tells_its_suspects_and_may_leave_them_out(checked: Checked) -> None:
    """Its lineage has their number; without them it has the same content as if they were not accepted."""
    two_corners(checked)
    assert release(checked, "unchecked")[1] == {"found": 0, "excluded": False, "checked": None}
    (wrong,) = checked.check()
    examples, told, _ = release(checked, "with", exclude_suspects=True)
    assert (examples, told["found"], told["excluded"]) == (60, 1, True)
    assert told["checked"].endswith("Z")
    checked.decide(wrong, status="rejected")
    checked.check()
    row = make_release(checked.store, "digits", None, None, frozenset()).row
    assert row["name"] == "with", "the content is the same"


def test_a_release_of_nothing_but_suspects_is_refused(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message tells why nothing is left."""
    two_corners(checked)
    (wrong,) = checked.check()
    checked.decide(*(set(range(1, 62)) - {wrong}), status="rejected")
    with pytest.raises(EmptyError, match="no correction of digits is accepted, except suspects"):
        make_release(checked.store, "digits", None, None, frozenset(), exclude_suspects=True)


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
    assert printed.startswith("clean: Rows: correction 62; ")
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
