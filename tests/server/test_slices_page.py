"""The page of slices, its panels on other pages, and the corrections of a slice in the review queue."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import numpy as np
import pytest
from support.flights import COUNT, correct, is_planted, running
from support.flights import events as flight_events
from support.pages import Page
from support.servers import Served, eventually, serving, write_config

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save

HOSTILE = 'a,b:"c" & <b>{d}</b>'
"""A category with everything that addresses, JSON and HTML write differently."""


@pytest.fixture(scope="module")
def shops(shared_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter whose users corrected all predictions of one hostile category, and a few others."""
    folder = tmp_path_factory.mktemp("shops")
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {"shop": rng.choice([HOSTILE, "north", "south"], 2000), "amount": rng.normal(50, 9, 2000)}
    np.savez(
        folder / "training.npz", **columns, answer=rng.choice(["yes", "no"], 2000), secret=rng.choice(["x", "y"], 2000)
    )
    save(build_file(folder / "training.npz", name="shops", prediction_column="answer"), folder / "shops.json")
    models = [{"name": "shops", "profile": "shops.json", "segment_by": "shop", "redact": ["secret"]}, {"name": "bare"}]
    np.savez(folder / "other.npz", shop=columns["shop"], amount=columns["amount"] + 100)
    save(build_file(folder / "other.npz", name="other"), folder / "other.json")
    models.append({"name": "retrained", "profile": "shops.json", "profiles": {"2": "other.json"}})
    write_config(folder, {"store": {"url": shared_database}, "models": models})
    with serving(folder) as server:
        assert server.post("/v1/predictions", events()).status == 202
        correct(
            server, [event for event in events() if event["inputs"]["shop"] == HOSTILE or event["id"].endswith("00")], 9
        )
        eventually(lambda: slices(server))
        yield server


def events() -> list[dict[str, Any]]:
    """Return predictions; one in eight is of the hostile category."""
    common = {"model": "shops", "version": "1", "prediction": "yes", "confidence": 0.95}
    return [
        {
            **common,
            "id": f"s-{number}",
            "inputs": {"shop": (HOSTILE if number % 8 == 0 else "north"), "amount": 30 + number % 40, "secret": "x"},
        }
        for number in range(800)
    ]


def is_corrected(event: dict[str, Any]) -> bool:
    """Whether a user corrected an event."""
    return event["inputs"]["shop"] == HOSTILE or event["id"].endswith("00")


def slices(server: Served) -> list[dict[str, Any]]:
    """Return the slices of the corrections."""
    found: list[dict[str, Any]] = server.get("/v1/slices?model=shops").json["slices"]
    return found


def corrections(server: Served, **parameters: str) -> Any:
    """Return the answer of the queue."""
    return server.get(f"/v1/corrections?{urlencode(parameters)}")


def test_a_slice_selects_its_corrections(shops: Served) -> None:
    """The bins that a slice names select the corrections in it, whatever characters are in their names."""
    (found,) = slices(shops)
    where = json.dumps(found["where"])
    answer = corrections(shops, model="shops", where=where, limit="1000").json
    assert {one["inputs"]["shop"] for one in answer["corrections"]} == {HOSTILE}
    assert (len(answer["corrections"]), answer["truncated"]) == (found["held"], False) == (100, False)
    assert "truncated" not in corrections(shops, model="shops").json


def test_a_slice_combines_with_other_filters_and_pages(shops: Served) -> None:
    """Pages of a slice are complete, and further filters narrow it."""
    where = json.dumps(slices(shops)[0]["where"])
    seen: list[str] = []
    address = f"/v1/corrections?{urlencode({'model': 'shops', 'where': where, 'limit': '30'})}"
    while address:
        answer = shops.get(address).json
        seen += [one["prediction_id"] for one in answer["corrections"]]
        address = answer["next"] and answer["next"].removeprefix(shops.url)
    assert sorted(seen) == sorted(f"s-{number}" for number in range(0, 800, 8))
    assert len(corrections(shops, model="shops", where=where, q="s-16").json["corrections"]) == 3  # 16, 160 and 168
    assert corrections(shops, model="shops", where=where, status="accepted").json["corrections"] == []
    assert corrections(shops, model="shops", where=where, version="2").json["corrections"] == []


def test_numbers_and_outputs_have_bins_too(shops: Served) -> None:
    """A bin of numbers selects the values between its edges; the prediction is a feature like others."""
    corrected = [event["inputs"]["amount"] for event in events() if is_corrected(event)]
    series = shops.samples("model_feature_reference_probability")
    names = [key.split('bin="')[1].split('"')[0] for key in series if 'feature="amount"' in key]
    low, high = (float(edge) for edge in names[7].partition(" ")[2].strip("[)").split(", "))
    found = corrections(shops, model="shops", where=json.dumps({"amount": names[7]})).json["corrections"]
    assert len(found) == sum(low <= amount < high for amount in corrected) > 0
    for bin_number in (0, 1):
        for name in ("yes", "no"):
            where = json.dumps({"(prediction)": f"0{bin_number} {name}"})
            answer = corrections(shops, model="shops", where=where, limit="1000")
            if answer.status == 200:  # the more frequent one in training comes first
                assert len(answer.json["corrections"]) == (len(corrected) if name == "yes" else 0)


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"where": '{"shop": "01 north"}'}, 'where: model: is required, one of "shops", "bare" or "retrained"'),
        ({"model": "bare", "where": '{"shop": "01 north"}'}, 'where: "bare" has no profile'),
        (
            {"model": "shops", "where": "shop:north"},
            "where: expected a JSON object of features and bins such as {",
        ),
        ({"model": "shops", "where": "{}"}, "where: expected a JSON object"),
        ({"model": "shops", "where": '{"shop": 3}'}, "where: expected a JSON object"),
        (
            {"model": "shops", "where": '{"shops": "01 north"}'},
            'where: the profile has no feature "shops"; did you mean "shop"?',
        ),
        ({"model": "shops", "where": '{"shop": "north"}'}, 'where: "shop" has no bin "north"; did you mean "0'),
        ({"model": "shops", "where": '{"secret": "00 x"}'}, 'where: the profile has no feature "secret"; valid values'),
    ],
)
def test_what_is_wrong_with_a_slice_is_named(shops: Served, parameters: dict[str, str], detail: str) -> None:
    """A slice that does not exist gets a 400 that says what would be right, on the page as well."""
    answer = corrections(shops, **parameters)
    assert answer.status == 400
    assert detail in answer.json["detail"]
    page = shops.get(f"/review?{urlencode(parameters)}")
    assert page.status == 400
    assert escape(detail, quote=False) in page.text.replace("&#34;", '"')


def test_the_page_links_each_slice_to_its_cards(shops: Served) -> None:
    """A slice is a sentence, in which names are escaped, with a link to its cards in the review queue."""
    page = Page(shops.get("/slices?model=shops"))
    assert f"96% of the corrections are where shop is {HOSTILE}, 12% of the traffic." in page.text
    assert "<b>{d}" not in page.source
    assert "segment_by: shop" not in page.text  # it is watched already
    assert [one["segment_by"] for one in shops.get("/v1/slices?model=shops").json["slices"]] == [None]
    (link,) = [str(attrs["href"]) for tag, attrs in page.tags if tag == "a" and "where=" in str(attrs.get("href"))]
    assert dict(parse_qsl(urlsplit(link).query))["since"] == "1d"
    cards = Page(shops.get(f"{link}&order=newest"))
    assert cards.status == 200
    assert f"shop is {HOSTILE} ×" in cards.text
    assert cards.source.count('<article class="card"') == 50
    assert 'data-count="pending">100<' in cards.source


def test_review_and_drift_link_to_their_slices(shops: Served) -> None:
    """Without a script, the panels are links to the page of slices."""
    for path, query in (
        ("/review?model=shops", {"model": "shops"}),
        ("/review?model=shops&since=6h&version=1", {"model": "shops", "version": "1"}),
        ("/drift?model=shops", {"model": "shops", "version": "1", "of": "drift"}),
    ):
        page = Page(shops.get(path))
        link = [str(attrs["href"]) for tag, attrs in page.tags if str(attrs.get("href")).startswith("/slices?")][-1]
        assert query.items() <= dict(parse_qsl(urlsplit(link).query)).items()
        assert Page(shops.get(link)).status == 200
    for path in ("/review?model=bare", "/review", "/review?model=shops&source=sample", "/drift?model=bare"):
        assert "data-slices" not in shops.get(path).text


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("", 200, "Find the slices of shops"),
        ("model=bare", 404, "has no profile"),
        ("model=shop", 400, "did you mean"),
        ("model=shops&of=speed", 400, "of: expected corrections"),
        ("model=shops&since=soon", 400, "since: expected a time"),
        ("model=shops&of=errors", 200, "There are no predictions with a label and stored inputs of this time."),
        ("model=shops&of=estimated_loss", 404, "--label-column"),
        ("model=shops&of=drift", 200, "single bins are compared with the training data"),
        ("model=shops&since=2026-01-01T00:00:00Z&version=2", 200, "There are no confident predictions"),
        ("model=&of=", 200, "Slices of shops"),
        ("endpoint=review", 400, 'the parameter "endpoint" is not known'),
        ("model=shops&endpoint=review&_external=1&_scheme=javascript", 400, 'the parameter "endpoint" is not known'),
    ],
)
def test_the_page_says_why_there_are_no_slices(shops: Served, query: str, status: int, text: str) -> None:
    """Whatever is asked, there is a page that says what was found, or what is wrong."""
    answer = shops.get(f"/slices?{query}", Accept="text/html")
    assert (answer.status, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert text in Page(answer).text


def test_versions_with_other_bins_are_named_and_can_be_chosen(shops: Served) -> None:
    """Predictions of two profiles are not searched together: the page says which are left out, and links to them."""

    def predict(version: str) -> None:
        sent = [
            event | {"id": f"{version}-{event['id']}", "model": "retrained", "version": version} for event in events()
        ]
        assert shops.post("/v1/predictions", sent[:20]).status == 202

    predict("1")
    eventually(lambda: shops.get("/v1/slices?model=retrained").json["predictions"] == 20)
    assert shops.get("/v1/slices?model=retrained").json["remarks"] == []
    predict("2")
    asked = "/v1/slices?model=retrained"
    left_out = ['Without predictions of version "1", whose profile has other bins: choose a version to see them.']
    eventually(lambda: (a := shops.get(asked).json)["remarks"] == left_out and a["predictions"] == 20)
    assert (
        shops.post("/v1/predictions", {**events()[0], "id": "late", "model": "retrained", "version": "1"}).status == 202
    )
    shops.samples()  # by then it is counted
    assert shops.get(asked).json["remarks"] == left_out, "versions that serve at the same time took turns"
    page = Page(shops.get("/slices?model=retrained"))
    assert "Without predictions of version" in page.text
    (link,) = [
        str(attrs["href"]) for tag, attrs in page.tags if tag == "a" and "version=1" in (attrs.get("href") or "")
    ]
    assert shops.get("/v1/slices?model=retrained&version=1").json["remarks"] == []
    assert "Slices of retrained, version 1" in Page(shops.get(link)).text


def test_only_an_answer_is_shown_again(shops: Served) -> None:
    """A browser may show an answer again for half a minute, and never an error."""
    assert shops.get("/slices?model=shops").headers["Cache-Control"] == "private, max-age=30"
    assert shops.get("/slices?model=bare").headers["Cache-Control"] == "private, max-age=0"
    assert shops.get("/review").headers["Cache-Control"] == "no-store", "the button Back shows what is true then"


def test_the_quality_page_links_to_the_slices_of_the_errors(flights: Served) -> None:
    """Measured and estimated errors have a link each."""
    links = [str(attrs["href"]) for tag, attrs in Page(flights.get("/quality?model=flights")).tags if tag == "a"]
    found = [link for link in links if link.startswith("/slices?") and "of=" in link]
    assert [dict(parse_qsl(urlsplit(link).query))["of"] for link in found] == ["errors", "estimated_loss"]
    errors, expected = (Page(flights.get(link)) for link in found)
    assert "100% of the errors are where carrier is MQ and dest is ATL" in errors.text
    assert (expected.status, "contains significantly more than its share" in expected.text) == (200, True)


def test_an_alert_on_the_home_page_links_to_the_slices(shops: Served) -> None:
    """An alert that slices may explain has a link to them, and the others have none."""
    named = [
        ("ModelCorrectionRatioHigh", "business", 1),
        ("ModelFeatureDrift", "data", 1),
        ("ModelLatencyHigh", "system", 0),
    ]
    for name, layer, expected in named:
        labels = {"alertname": name, "model": "shops", "version": "1", "severity": "critical", "layer": layer}
        alert = {"labels": labels, "annotations": {"summary": name}, "startsAt": "2026-11-24T10:00:00Z"}
        for status in ("firing", "resolved"):
            document = {"status": status, "alerts": [alert | {"status": status, "endsAt": "2026-11-24T11:00:00Z"}]}
            assert shops.post("/v1/notifications", document).status == 200
            links = [str(attrs["href"]) for tag, attrs in Page(shops.get("/")).tags if tag == "a"]
            found = [link for link in links if link.startswith("/slices?")]
            assert len(found) == (expected if status == "firing" else 0)
            assert all(Page(shops.get(link)).status == 200 for link in found)


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter with more flights of a carrier than in training, whose users corrected those to one airport."""
    sent = flight_events(COUNT, confidence=0.95)
    for event in sent[::3]:
        event["inputs"]["carrier"] = "MQ"
    for event in sent[1::15]:
        event["inputs"]["carrier"] = "a new one"
    with running(tmp_path_factory.mktemp("flights"), sent, list(filter(is_planted, sent)), labelled=True) as server:
        eventually(lambda: server.get("/v1/slices?model=flights").json["total"])
        yield server


def test_slices_of_flights_suggest_what_to_watch(flights: Served) -> None:
    """A categorical slice names the input for segment_by; drift links to the drift of its features."""
    assert "To watch it: segment_by: carrier" in Page(flights.get("/slices?model=flights")).text
    page = Page(flights.get("/slices?model=flights&of=drift"))
    assert re.search(r"of the predictions are where carrier is MQ, [\d.]+% in the training data", page.text)
    assert re.search(r"carrier is other, 0% in the training data", page.text), "no flight in training had that one"
    assert "Drift of carrier" in page.text
    (link,) = {str(attrs["href"]) for tag, attrs in page.tags if "feature=" in str(attrs.get("href"))}
    assert Page(flights.get(link)).rows()
