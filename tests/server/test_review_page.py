"""The review page as the server draws it: cards, filters, links, and decisions without a script."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

import pytest
from PIL import Image
from support.corrections import IMAGE, correct, mistake, queue, start
from support.pages import Page
from support.servers import Answer, Served, ask, serving, write_config

from exporter.profiles.profile import CategoricalFeature, NumericFeature
from exporter.server.pages.review import (
    MAX_LABELS,
    confusion_table,
    describe_category,
    describe_number,
    png,
)


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter with mistakes of several kinds, which no test decides."""
    server = start(tmp_path_factory.mktemp("reviewed"))
    odd = {"age": 17, "income": None, "country": "XX", "photo": "no image", "name": "Ada"}
    correct(server, [mistake("usual", confidence=0.97)])
    correct(server, [mistake("odd", inputs=odd, version="4")], label="maybe", comment="<script>alert(1)</script>")
    correct(server, [mistake("bare", inputs=None)])
    text = "It never came. " * 5000
    ticket = mistake("ticket", "tickets", "1", inputs={"text": text, "<b>": "bold"}, prediction="<i>bill</i>")
    correct(server, [ticket], label="</article><script>alert(2)</script>", user='"><img src=x>')
    correct(server, [mistake("long", "tickets", "1", inputs={"text": "short"})], label="x" * 100_000)
    yield server
    server.stop()


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter without any mistake yet."""
    with start(tmp_path_factory.mktemp("fresh")) as server:
        yield server


def review(server: Served, **query: Any) -> Page:
    return Page(server.get(f"/review?{urlencode(query, doseq=True)}"))


def ids(page: Page) -> list[str]:
    return [str(attrs["data-id"]) for _, attrs in page.tags if "data-id" in attrs]


def post(server: Served, path: str, **form: Any) -> Answer:
    """A form's answer, redirects not followed."""

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    opener = build_opener(Stay)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    request = Request(server.url + path, urlencode(form).encode(), headers)
    try:
        with opener.open(request, timeout=60) as answer:
            return Answer(answer.status, answer.read(), answer.headers)
    except OSError as error:
        return Answer(error.code, error.read(), error.headers)  # type: ignore[attr-defined]


def decide(server: Served, correction_id: Any, status: str, revision: int = 1, **form: Any) -> Answer:
    """A decision without a script."""
    fields = {"id": correction_id, "revision": revision, "status": status, "label_type": "string", "back": ""} | form
    return post(server, "/review/decide", **fields)


def followed(server: Served, path: str) -> list[Page]:
    """A page, and those that its links to the next lead to."""
    pages = [Page(server.get(path))]
    while following := re.search(r'id="next" rel="next" href="([^"]*)"', pages[-1].source):
        pages.append(Page(server.get(unescape(following[1]))))
    return pages


def test_a_card_says_what_the_model_saw_and_what_the_user_said(reviewed: Served) -> None:
    """Prediction, label, confidence, version, user, inputs; redacted ones are said to be."""
    page = review(reviewed, q="usual")
    (correction_id,) = ids(page)
    for words in (
        "Predicted yes",
        ", corrected to no",
        "confidence 97%",
        "version 3",
        "clerk",
        "age 40",
        "country NL",
    ):
        assert words in page.text.replace("\N{NO-BREAK SPACE}", " "), words
    (meta,) = re.findall(r'<p class="meta">(.*?)</p>', page.source, re.S)
    assert "NL" not in meta, "the segment is the input"
    assert "name: redacted, never shown." in page.text
    assert "Ada" not in page.source
    sources = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    assert re.fullmatch(rf"/v1/corrections/{correction_id}/inputs/photo\.png\?v=[0-9a-f]{{8}}", sources[0])
    assert "training values" not in page.text


def test_feedback_without_a_prediction_names_the_verdict_of_the_user(fresh: Served) -> None:
    """A verdict is not called like the decision of a reviewer."""
    for name, verdict in (("one", {"verdict": "accepted"}), ("two", {"verdict": "corrected", "label": "no"})):
        assert fresh.post("/v1/feedback", {"prediction_id": name, "model": "credit", **verdict}).status == 201
    page = review(fresh, joined="false")
    headings = [re.sub(r"<[^>]*>", "", text).split() for text in re.findall(r'<h2 id="c\d.*?</h2>', page.source, re.S)]
    assert [" ".join(words) for words in headings] == [
        "Predicted unknown confirmed by the user",
        "Predicted unknown →, corrected to no",
    ]
    assert "the prediction one was not logged" in page.text
    assert "<td" in review(fresh, joined="false", view="table").source


def test_what_training_hardly_saw_is_marked(reviewed: Served) -> None:
    """Outside the range, missing, never seen, no image: each in words, and the label is said to be new."""
    page = review(reviewed, q="odd")
    for words in (
        "segment other",
        "age 17 below all training values (18 to 89)",
        "income – missing; never missing in training",
        "country XX not in the training data",
        "photo no image not an image",
        "new label",
    ):
        assert words in page.text, words


def test_cards_go_by_their_versions_own_training(tmp_path: Path) -> None:
    """A version with a profile of its own is marked by that, another one by none; images are pictures for both."""
    write_config(tmp_path, {"models": [{"name": "credit", "profiles": {"3": "credit.json"}}]})
    with serving(tmp_path) as server:
        inputs = {"age": 17, "photo": [[0.5, 0.25]] * 2}
        correct(server, [mistake("own", inputs=inputs), mistake("other", inputs=inputs, version="4")], label="maybe")
        own, other = review(server, version="3"), review(server, version="4")
        assert "age 17 below all training values" in own.text
        assert "new label" in own.text
        assert "below all training values" not in other.text
        assert "new label" not in other.text
        for page in (own, other):
            (source,) = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
            assert server.get(source).status == 200


def test_what_users_wrote_is_text(reviewed: Served) -> None:
    """HTML and script in labels, predictions, comments, users and names of inputs are shown and not run."""
    page = review(reviewed)
    assert not [attrs for tag, attrs in page.tags if tag == "script" and attrs.get("type") != "module"]
    assert not [attrs for tag, attrs in page.tags if attrs.get("src") == "x"]
    for words in ("<script>alert(1)</script>", "</article><script>alert(2)</script>", '"><img src=x>', "<i>bill</i>"):
        assert words in page.text, words


def test_long_texts_are_bounded(reviewed: Served) -> None:
    """A text of 75,000 characters is cut and linked whole, a label of 100,000 is cut; the page stays small."""
    page = review(reviewed, model="tickets")
    assert "All 75,000 characters" in page.text
    assert "(100,000 characters)" in page.text
    assert len(page.source) < 100_000
    refused = reviewed.post("/v1/feedback", {"prediction_id": "usual", "verdict": "corrected", "label": "x" * 2**20})
    assert (refused.status, "100000" in refused.text) == (400, True)


def test_inputs_that_are_not_stored_are_said_to_be(reviewed: Served) -> None:
    """A correction without inputs says so."""
    assert "Its inputs are not stored." in review(reviewed, q="bare").text


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"model": "credit"}, {"usual", "odd", "bare"}),
        ({"model": "credit", "version": "4"}, {"odd"}),
        ({"label": "maybe"}, {"odd"}),
        ({"label": '"maybe"', "predicted": '"yes"'}, {"odd"}),
        ({"predicted": "<i>bill</i>"}, {"ticket"}),
        ({"segment": "NL"}, {"usual"}),
        ({"confidence_from": "0.95"}, {"usual"}),
        ({"q": "IT NEVER CAME"}, {"ticket"}),
        ({"status": "accepted"}, set()),
        ({"status": "all", "model": "", "version": ""}, {"usual", "odd", "bare", "ticket", "long"}),
        ({"since": "1h"}, {"usual", "odd", "bare", "ticket", "long"}),
        ({"until": "2020-01-01"}, set()),
        ({"from": f"{1000 * (time.time() - 86400):.0f}", "to": "now"}, {"usual", "odd", "bare", "ticket", "long"}),
        ({"from": "1000000000000", "to": "1100000000000"}, set()),
        ({"model": "credit", "var-version": "4"}, {"odd"}),
        ({"model": "credit", "var-version": ["3", "4"]}, {"usual", "odd", "bare"}),
        ({"model": "credit", "var-version": "$__all"}, {"usual", "odd", "bare"}),
        ({"source": "sample"}, set()),
    ],
)
def test_filters_stand_in_the_address(reviewed: Served, query: dict[str, Any], found: set[str]) -> None:
    """Each filter shows exactly its corrections; Grafana's choice is understood, empty fields do not filter."""
    page = review(reviewed, **query)
    prediction_ids = {one["id"]: one["prediction_id"] for one in queue(reviewed)}
    assert (page.status, {prediction_ids[correction_id] for correction_id in ids(page)}) == (200, found)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("model=credits", 'no model "credits" is configured; did you mean "credit"?'),
        ("status=done", "status: expected accepted, pending or rejected"),
        ("since=soon", "since: expected a time such as 2026-11-24T10:00:00Z"),
        ("until=999999999999999", "until: expected a time"),
        ("confidence_from=2", "confidence_from: expected a number from 0 to 1"),
        ("view=list", "view: expected cards or table"),
        ("order=oldest", "order: expected confident, error, newest, suspect or uncertain"),
        ("cursor=x", "cursor: expected the cursor in the URL next of the page before"),
        ("endpoint=x&version=&_external=1", 'the parameter "endpoint" is not known'),
        ("modell=credit", 'the parameter "modell" is not known; did you mean "model"?'),
        ("q=" + "x" * 300, "q: expected at most 256 characters"),
    ],
)
def test_a_wrong_filter_says_what_would_be_right(reviewed: Served, query: str, message: str) -> None:
    """The page itself says what is wrong with the address, with status 400."""
    page = Page(reviewed.get(f"/review?{query}"))
    assert page.status == 400
    assert message in page.text


def test_chips_take_filters_away(reviewed: Served) -> None:
    """Each filter has a chip that leads to the page without it."""
    page = review(reviewed, model="credit", version="4", view="table")
    links = {
        unescape(link) for link in re.findall(r'<li><a href="(/review[^"]*)"><span class="hidden">Remove', page.source)
    }
    assert links == {"/review?version=4&view=table", "/review?model=credit&view=table"}


def test_the_confusion_table_leads_to_its_cards(reviewed: Served) -> None:
    """A cell's link shows as many cards as the cell counts."""
    page = review(reviewed, model="credit")
    cells = re.findall(r'<a href="([^"]*)" aria-label="(\d+) predicted yes, corrected to (\w+)"', page.source)
    assert {(label, count) for _, count, label in cells} == {("no", "2"), ("maybe", "1")}
    for link, count, _ in cells:
        assert len(ids(Page(reviewed.get(unescape(link))))) == int(count)


def test_the_chart_leads_to_its_cards(reviewed: Served) -> None:
    """The bars' links together show every correction once."""
    page = review(reviewed)
    links = re.findall(r'<a href="([^"]*)" aria-label="([\d,]+) from [^"]*"><title>', page.source)
    assert links
    correction_ids = [correction_id for link, _ in links for correction_id in ids(Page(reviewed.get(unescape(link))))]
    assert sorted(correction_ids) == sorted(ids(page))
    assert sum(int(count) for _, count in links) == 5


@pytest.mark.parametrize("period", ["since=0001-01-01T00:00:00Z", "until=9999-12-31T23:59:59Z"])
def test_the_chart_of_all_time(reviewed: Served, period: str) -> None:
    """A period from the first second there is, or to the last, has bars that begin before it or end after it."""
    page = Page(reviewed.get(f"/review?{period}"))
    assert page.status == 200
    assert re.search(r'aria-label="5 from [^"]*"><title>', page.source)


def test_many_labels_are_capped() -> None:
    """Of 300 labels the table shows the most frequent and says how many are left out."""
    pairs = [(f"label {number}", f"label {(number + 1) % 300}", 300 - number) for number in range(300)]
    found = confusion_table(pairs)
    assert found
    assert len(found.rows) == len(found.columns) == MAX_LABELS
    assert "label 0" in found.rows.values()
    assert found.omitted == 300 - len(found.rows | found.columns)


def test_an_image_is_a_png_on_the_scale_of_training(reviewed: Served) -> None:
    """Pixels from 0 to 16 use the whole of black and white, and the answer may be kept."""
    (usual,) = queue(reviewed, "q=usual")
    answer = reviewed.get(f"/v1/corrections/{usual['id']}/inputs/photo.png?v=1")
    picture = Image.open(io.BytesIO(answer.body))
    assert (answer.status, answer.headers["Content-Type"], picture.size) == (200, "image/png", (8, 8))
    assert [picture.getpixel((x, 4)) for x in range(8)] == [round(value * 255 / 16) for value in IMAGE[4]]
    assert "private" in answer.headers["Cache-Control"]
    again = reviewed.get(f"/v1/corrections/{usual['id']}/inputs/photo.png?v=1", If_None_Match=answer.headers["ETag"])
    assert again.status == 304
    for path in (
        f"{usual['id']}/inputs/name.png",
        f"{usual['id']}/inputs/age.png",
        "999/inputs/photo.png",
        f"{2**70}/inputs/a.png",
    ):
        missing = reviewed.get(f"/v1/corrections/{path}")
        assert (missing.status, missing.headers["Content-Type"]) == (404, "application/problem+json")


def encoded(mode: str, size: tuple[int, int], kind: str) -> str:
    import base64

    file = io.BytesIO()
    Image.new(mode, size, 200 if mode != "RGB" else (200, 10, 10)).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("value", "size", "pixel"),
    [
        ([[0.0, 1.0], [0.5, 0.25]], (2, 2), 255),
        ([[-1.0, 1.0], [0.0, 0.0]], (2, 2), 255),
        ([[0, 3], [0, 0]], (2, 2), 48),
        ([[[0, 0, 0], [255, 0, 255]]], (2, 1), (255, 0, 255)),
        (encoded("L", (4, 4), "PNG"), (4, 4), (200, 200, 200)),
        ("data:image/jpeg;base64," + encoded("RGB", (3000, 30), "JPEG"), (1024, 10), None),
        (encoded("I;16", (2, 2), "PNG"), (2, 2), 200),
    ],
    ids=["unit", "signed", "dark", "colour", "grey png", "large jpeg", "sixteen bits"],
)
def test_images_of_every_encoding_are_drawn(value: Any, size: tuple[int, int], pixel: Any) -> None:
    """Nested arrays of any scale and encoded files become PNGs of bounded size."""
    file = png(value, "image", None)
    assert file
    picture = Image.open(io.BytesIO(file))
    assert picture.size == size
    if pixel is not None:
        assert picture.getpixel((1, 0)) == pixel


@pytest.mark.parametrize(
    "value", ["no image", [], [1, 2], [[1], [2, 3]], {"a": 1}, [[float("nan")]], "iVBORw0KGgo=", 7, None]
)
def test_what_is_no_image_is_none(value: Any) -> None:
    """Ragged, empty, broken and other values give no picture and no error."""
    assert png(value, "image", None) is None


def test_words_for_unusual_values() -> None:
    """Rare bins and categories are told with their share in training; what is usual is not told."""
    number = NumericFeature(edges=(0.0, 1.0, 2.0), counts=(0, 996, 4, 0, 0, 0))
    assert describe_number(number, 1.5) == "only 0.4% of the training values were from 1 to 2"
    assert describe_number(number, 0.5) is None
    assert describe_number(number, 7.0) == "above all training values (0 to 2)"
    assert describe_number(number, float("inf")) == "not a number"
    country = CategoricalFeature(categories=("NL", "BE"), counts=(990, 5, 5, 0, 0), rare=frozenset({"LU"}))
    assert describe_category(country, "BE") == "only 0.5% of the training values"
    assert describe_category(country, "LU") == "at most 0.5% of the training values"
    assert describe_category(country, [1]) == "not a category"


def test_pages_follow_one_another(fresh: Served) -> None:
    """A hundred and twenty corrections come in three pages, each correction once, in both orders."""
    correct(fresh, [mistake(f"m-{n}", "many", inputs={"n": n}, confidence=0.8 + n / 1000) for n in range(120)])
    for order in ("newest", "confident"):
        found = [ids(page) for page in followed(fresh, f"/review?order={order}")]
        assert [len(part) for part in found] == [50, 50, 20]
        assert len({correction_id for part in found for correction_id in part}) == 120
    confidences = {one["id"]: one["confidence"] for one in queue(fresh)}
    assert [confidences[correction_id] for part in found for correction_id in part] == sorted(
        confidences.values(), reverse=True
    )


def test_large_inputs_end_a_page_early(fresh: Served) -> None:
    """Three corrections of 9 MiB come one a page, each once: no page takes more memory than a large request."""
    for number in range(3):
        correct(fresh, [mistake(f"m-{number}", "tickets", "1", inputs={"text": f"{number}" + "x" * (9 * 2**20)})])
    pages = followed(fresh, "/review")
    assert all(len(page.source) < 100_000 for page in pages)
    found = [ids(page) for page in pages]
    assert [len(part) for part in found] == [1, 1, 1]
    assert len({correction_id for part in found for correction_id in part}) == 3


def test_a_card_is_offered_the_labels_of_its_own_model(fresh: Served) -> None:
    """Those of its training and of the corrections on the page; other models' labels are not sent."""
    correct(fresh, [mistake("m-1"), mistake("m-2")], label="maybe")
    page = review(fresh)
    lists = re.findall(r'<datalist id="labels-(\d)" class="labels"(.*?)>(.*?)</datalist>', page.source, re.S)
    offered = {
        index: (re.findall(r'value="(.*?)"', options), 'data-trained="2"' in flag) for index, flag, options in lists
    }
    assert offered == {"0": (["yes", "no", "maybe"], True)}


def test_decisions_without_a_script(fresh: Served) -> None:
    """A form accepts, relabels, rejects and takes back; a late one shows what the first decided."""
    correct(fresh, [mistake(f"m-{n}") for n in range(3)])
    first, second, third = (one["id"] for one in queue(fresh))
    response = decide(fresh, first, "accepted", back="model=credit")
    assert (response.status, response.headers["Location"]) == (303, "/review?model=credit")
    decide(fresh, second, "accepted", label=" perhaps ")
    decide(fresh, third, "rejected")
    states = {one["id"]: (one["status"], one["label"]) for one in queue(fresh)}
    assert states == {first: ("accepted", "no"), second: ("accepted", "perhaps"), third: ("rejected", "no")}
    late = decide(fresh, first, "rejected", back="status=all")
    assert late.status == 409, fresh.log.read_text()
    assert "Another reviewer decided first: it is accepted now." in Page(late).text
    decide(fresh, first, "pending", 2)
    assert ids(review(fresh)) == [first]
    late = decide(fresh, first, "rejected", 2)
    assert (late.status, "The correction has changed, and is pending again." in Page(late).text) == (409, True)
    for wrong in ({"id": "x"}, {"revision": "x"}, {"status": "done"}, {"id": str(2**70)}):
        form = {"id": first, "revision": 3, "status": "accepted"} | wrong
        assert post(fresh, "/review/decide", **form).status == 400
    assert post(fresh, "/review/decide", id=999, revision=1, status="accepted").status == 404


def test_a_rejected_prediction_needs_a_label_to_be_accepted(fresh: Served) -> None:
    """Its card says so, in the list and in the table; without a label nothing is stored."""
    correct(fresh, [mistake("m-1")], verdict="rejected", label=None)
    (one,) = queue(fresh)
    for view in ("", "view=table"):
        assert "wrong, says the user" in Page(fresh.get(f"/review?{view}")).text
    refused = decide(fresh, one["id"], "accepted")
    assert (refused.status, "Give the correct label" in Page(refused).text) == (400, True)
    assert decide(fresh, one["id"], "accepted", label="no").status == 303
    assert [(one["status"], one["label"]) for one in queue(fresh)] == [("accepted", "no")]


def test_labels_keep_their_type(fresh: Served) -> None:
    """A model whose labels are numbers is relabelled with a number."""
    correct(fresh, [mistake("n", "many", inputs={"n": 1}, prediction=7)], label=1)
    (one,) = queue(fresh)
    decide(fresh, one["id"], "accepted", label_type="number", label="9")
    assert queue(fresh)[0]["label"] == 9


def test_a_sample_is_drawn_and_shows_how_often_the_model_is_right(fresh: Served) -> None:
    """The button draws uncorrected confident predictions; their decisions show the accuracy with its interval."""
    fresh.post("/v1/predictions", [mistake(f"p-{n}") for n in range(30)])
    correct(fresh, [mistake("wrong")])
    response = post(fresh, "/review/samples", model="credit", version="", count="20")
    assert (response.status, response.headers["Location"]) == (303, "/review?model=credit&source=sample")
    page = review(fresh, model="credit", source="sample")
    assert len(ids(page)) == 20
    assert "Is this right?" in page.text
    assert ids(review(fresh)) == [one["id"] for one in queue(fresh)]
    for number, one in enumerate(queue(fresh, "source=sample")):
        decide(fresh, one["id"], "accepted", label="no" if number < 2 else "")
    text = review(fresh, model="credit").text.replace("\N{NO-BREAK SPACE}", " ")
    time = r"\d+ \w{3} \d\d:\d\d"
    interval = r"95% interval \d+% to \d+%"
    assert re.search(rf"credit 3 8\d% {interval}, 20 reviewed; predictions from {time} to {time} UTC", text)
    assert post(fresh, "/review/samples", model="credit", count="0").status == 400
    assert post(fresh, "/review/samples", model="credits", count="5").status == 400
    nothing = Page(post(fresh, "/review/samples", model="many", count="5"))
    assert "No sample was drawn" in nothing.text


def test_the_home_page_leads_to_what_waits(fresh: Served) -> None:
    """The number of pending corrections by model, and an alert's link to the mistakes behind it."""
    correct(fresh, [mistake("a"), mistake("b"), mistake("c", "tickets", inputs={"text": "x"})])
    labels = {"alertname": "ModelCorrectionRatioHigh", "model": "credit", "version": "3", "layer": "business"}
    alert = {"status": "firing", "labels": labels | {"severity": "critical"}, "startsAt": "2026-11-24T10:05:00Z"}
    fresh.post("/v1/notifications", {"status": "firing", "alerts": [alert]})
    page = Page(fresh.get("/"))
    assert "3 corrections are waiting for review: credit 2, tickets 1." in page.text
    links = [attrs.get("href") for tag, attrs in page.tags if tag == "a"]
    assert "/review?model=credit" in links
    assert "/review?model=credit&version=3&since=2026-11-24T09:00:00Z" in links
    assert Page(fresh.get("/review?model=credit&version=3&since=2026-11-24T09:00:00Z")).status == 200


def test_the_target_counts_the_decisions_of_today(fresh: Served) -> None:
    """Corrections that are pending again do not count, those decided twice count once; a wrong target is explained."""
    correct(fresh, [mistake(f"m-{number}") for number in range(3)])
    first, second, _ = (one["id"] for one in queue(fresh))
    for correction_id, status, revision in (
        (first, "accepted", 1), (first, "rejected", 2), (second, "accepted", 1), (second, "pending", 2),
    ):  # fmt: skip
        body = {"status": status, "revision": revision}
        assert ask(f"{fresh.url}/v1/corrections/{correction_id}", body, "PATCH").status == 200
    assert "1 of 200 today" in review(fresh, target=200, status="all").text
    assert "of 200 today" not in fresh.get("/review").text
    assert "target: expected a whole number from 1 to 10000, got &#34;0&#34;" in fresh.get("/review?target=0").text
