"""The pages in a real browser: on a phone, in the dark, by keyboard, without faults of accessibility; also slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page, expect
from pyarrow import parquet
from support.browser import faults_of, in_every_look, needs_chromium
from support.corrections import pending
from support.flights import COUNT, events, is_planted, running
from support.labelled_rows import classes, send
from support.servers import Served, eventually, serving, write_config

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save

pytestmark = needs_chromium
LONG = '"<b>' + "x" * 200
PATHS = (
    "/",
    "/drift",
    "/drift?model=wide",
    "/quality",
    "/quality?model=loans",
    "/quality?model=wide",
    "/review",
    "/runbooks/",
    "/runbooks/ModelFeatureDrift",
    "/docs/",
    "/docs/profiles",
    "/docs/quality",
    "/nothing",
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter with models in trouble, a long name, alerts, and a correction of a prediction with 300 inputs."""
    folder = tmp_path_factory.mktemp("fleet")
    parquet.write_table(classes(3000, 1), folder / "loans.parquet")
    columns = {"prediction_column": "prediction", "confidence_column": "confidence", "label_column": "outcome"}
    save(build_file(folder / "loans.parquet", **columns), folder / "loans.json")
    models: list[dict[str, object]] = [{"name": "credit", "profile": "credit.json"}, {"name": "m" * 128}]
    rng = np.random.default_rng(5)
    parquet.write_table(pa.table({"amount": rng.normal(1_234_567, 30_000, 2000)}), folder / "amounts.parquet")
    save(build_file(folder / "amounts.parquet"), folder / "amounts.json")
    models += [
        {"name": "wide"},
        {"name": "amounts", "profile": "amounts.json"},
        {"name": "loans", "profile": "loans.json", "segment_by": "country"},
        *({"name": f"spare{number}"} for number in range(6)),
    ]
    write_config(folder, {"models": models})
    with serving(folder) as server:
        inputs = {f"income_from_source_{number:03d}": number * 1.5 for number in range(300)}
        events = [{"model": "credit", "version": "3", "inputs": {"age": 20}, "code": 503, "duration_seconds": 2.0}] * 50
        events += [{"model": "m" * 128, "version": "v" * 128}]
        wide = {"model": "wide", "version": "1", "inputs": inputs, "prediction": "yes"}
        events += [{**wide, "id": f"w{number}", "confidence": 0.8 + number / 10} for number in range(2)]
        # All parts of the axis: below, within, above, and two more.
        amounts = [1_000_000, 1_234_567, 2_000_000, None, "none"]
        events += [{"model": "amounts", "inputs": {"amount": amount}} for amount in amounts * 20]
        assert server.post("/v1/predictions", events).status == 202
        feedback = [{"prediction_id": f"w{number}", "verdict": "corrected", "label": "no"} for number in range(2)]
        assert server.post("/v1/feedback", feedback).status == 201
        eventually(lambda: pending(server) == 2)
        send(server, "loans", classes(1000, 2))
        classified = {"model": "loans", "version": "3"}
        many = [{**classified, "id": f"c{number}", "prediction": f"{number}" + "y" * 60} for number in range(30)]
        assert server.post("/v1/predictions", many).status == 202
        labels = [
            {"prediction_id": event["id"], "label": f"{number % 12}" + "z" * 200} for number, event in enumerate(many)
        ]
        assert server.post("/v1/labels", labels).status == 201
        alerts = []
        for number, model in enumerate(("credit", "credit", LONG)):
            labels = {"alertname": "ModelFeatureDrift", "severity": "warning", "layer": "data", "model": model}
            labels |= {"version": "3", "feature": f"f{number}" if model == "credit" else LONG}
            annotations = {"summary": f"{LONG} has drifted", "description": LONG}
            alerts.append(
                {"status": "firing", "labels": labels, "annotations": annotations, "startsAt": "2026-01-01T00:00:00Z"}
            )
        assert server.post("/v1/notifications", {"status": "firing", "alerts": alerts}).status == 200
        yield server


@pytest.mark.parametrize("path", PATHS)
def test_pages_fit_a_phone_and_have_no_fault(fleet: Served, browser: Browser, path: str) -> None:
    """Nothing is wider than the screen of a phone, and axe finds no fault there and on a screen."""
    page = browser.new_page()
    page.goto(fleet.url + path)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    for look in in_every_look(page):
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), look
        assert faults_of(page) == [], look
    page.close()


@pytest.mark.parametrize("width", [390, 1366])
def test_the_buttons_of_a_wide_card_stay_in_view(fleet: Served, browser: Browser, width: int) -> None:
    """A card with 300 inputs shows its buttons without scrolling, also while its inputs are open; the keys work."""
    context = browser.new_context(viewport={"width": width, "height": 768})
    page = context.new_page()
    page.goto(f"{fleet.url}/review?model=wide")
    card = page.locator("article.card").first
    card.evaluate("(one) => one.scrollIntoView({block: 'start'})")
    accept = card.get_by_role("button", name="Accept")
    expect(accept).to_be_in_viewport(ratio=1)
    card.get_by_text("288 more inputs").click()
    card.evaluate("(one) => one.scrollIntoView({block: 'start'})")
    expect(accept).to_be_in_viewport(ratio=1)
    second = page.locator("article.card").nth(1)
    page.keyboard.press("j")
    expect(second).to_be_focused()
    page.keyboard.press("k")
    expect(card).to_be_focused()
    context.close()


def test_the_classes_stay_beside_their_numbers(fleet: Served, browser: Browser) -> None:
    """On a phone the table of classes scrolls beside its first column, and its edge shows that there is more."""
    page = browser.new_page(viewport={"width": 390, "height": 768})
    page.goto(f"{fleet.url}/quality?model=loans")
    region = page.get_by_role("region", name="Predicted and actual classes").locator("div.wide")
    assert region.evaluate("(one) => one.scrollWidth > one.clientWidth")
    assert "gradient" in region.evaluate("(one) => getComputedStyle(one).backgroundImage")
    region.evaluate("(one) => { one.scrollLeft = one.scrollWidth }")
    classes, found = region.bounding_box(), region.get_by_role("rowheader", name="Found").bounding_box()
    assert classes
    assert found
    assert classes["x"] == found["x"]
    right = region.get_by_role("columnheader", name="Right").bounding_box()
    assert right
    assert right["x"] + right["width"] <= classes["x"] + classes["width"] + 1
    page.close()


Open = Callable[..., Page]


def test_the_home_page_is_refreshed_in_place(fleet: Served, visit: Open) -> None:
    """What is open stays open, the focus and the search stay, and times are the reader's; what fails is said."""
    page = visit("/", fleet, timezone_id="Asia/Kolkata", locale="en-GB")
    page.clock.install()
    page.reload()
    summary = page.get_by_text("2 alerts", exact=True)
    expect(page.locator("article li").first).not_to_be_visible()
    summary.click()
    rows = page.locator("#rows").element_handle()
    page.clock.fast_forward(11_000)
    rows.wait_for_element_state("hidden")
    expect(summary).to_be_focused()
    expect(page.locator("article li").first).to_be_visible()
    assert page.locator("article time").first.get_attribute("title") == "1 Jan 2026, 05:30 (2026-01-01 00:00:00 UTC)"
    page.goto(fleet.url + "/?all=1")
    for wanted, query, others in (("loans", "?all=1&q=loans", 0), ("", "?all=1", 1)):
        page.get_by_role("searchbox").fill(wanted)
        page.clock.fast_forward(300)
        expect(page.locator("#rows tbody").get_by_role("link", name="wide", exact=True)).to_have_count(others)
        assert page.url == f"{fleet.url}/{query}"
    page.evaluate("() => { const f = fetch; window.fetch = (...all) => { location.hash = 'main'; return f(...all) } }")
    page.route("**/?all=1", lambda route: route.fulfill(content_type="text/html", body="Sign in"))
    page.clock.fast_forward(60_000)
    expect(page.locator("#stale")).to_contain_text("The response is not this page.")
    page.route("**/?all=1", lambda route: route.fulfill(status=503))
    page.clock.fast_forward(60_000)
    expect(page.locator("#stale")).to_contain_text("The exporter does not respond.")
    visit.wrong.clear()  # type: ignore[attr-defined]


SENTENCE = "are where carrier is MQ and dest is ATL"


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter whose users corrected the planted slice, and a few others."""
    sent = events(COUNT, confidence=0.95)
    corrected = [*filter(is_planted, sent), *[event for event in sent if not is_planted(event)][:40]]
    with running(tmp_path_factory.mktemp("flights"), sent, corrected) as server:
        eventually(lambda: server.get("/v1/slices?model=flights").json["slices"])
        yield server


@pytest.mark.parametrize("path", ["/slices?model=flights", "/slices", "/review?model=flights", "/drift?model=flights"])
def test_slices_fit_a_phone_and_have_no_fault(flights: Served, visit: Open, path: str) -> None:
    """With the slices loaded, nothing is wider than the screen of a phone, and axe finds no fault."""
    page = visit(path, flights)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    expect(page.locator("[data-slices] a, ol.slices").last).to_be_visible()
    expect(page.locator("[aria-busy]")).to_have_count(0)
    for look in in_every_look(page):
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), look
        assert faults_of(page) == [], look


def test_a_reviewer_gets_from_the_panel_to_the_first_decision_by_keyboard(flights: Served, visit: Open) -> None:
    """The link of a slice shows its cards alone, and the first one has the focus: a key decides it."""
    page = visit("/review?model=flights", flights)
    expect(page.locator("[data-slices]")).to_contain_text(SENTENCE)
    expect(page.get_by_text("Slices (1)")).to_be_visible()
    link = page.get_by_role("link", name="Review these corrections")
    link.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("list", name="Filters")).to_contain_text("carrier is MQ and dest is ATL")
    before = int(page.locator('[data-count="pending"]').inner_text())
    assert before == sum(map(is_planted, events(COUNT)))
    expect(page.locator("#cards .card").first).to_be_focused()
    page.keyboard.press("a")
    expect(page.locator('[data-count="pending"]')).to_have_text(str(before - 1))


def test_a_search_that_fails_leaves_the_link(flights: Served, browser: Browser) -> None:
    """The panel says that the search failed, and the link to the page stays."""
    page = browser.new_context(viewport={"width": 1366, "height": 768}).new_page()
    page.route("**/slices?*", lambda route: route.fulfill(status=503))
    page.goto(f"{flights.url}/review?model=flights")
    expect(page.locator("[data-slices]")).to_contain_text("The search failed. Follow the link to see why.")
    expect(page.get_by_role("link", name="Find where the corrections come from")).to_be_visible()
    page.context.close()
