"""Slices in a real browser: loaded after the page, by keyboard, on a phone, in the dark and without a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from support.browser import in_every_look, needs_chromium, serious
from support.flights import COUNT, events, is_planted, running
from support.servers import Served, eventually

pytestmark = needs_chromium
Open = Callable[..., Page]
SENTENCE = "are where carrier is MQ and dest is ATL"


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter whose users corrected the planted slice, and a few others."""
    sent = events(COUNT, confidence=0.95)
    corrected = [*filter(is_planted, sent), *[event for event in sent if not is_planted(event)][:40]]
    with running(tmp_path_factory.mktemp("flights"), sent, corrected) as server:
        eventually(lambda: server.get("/v1/slices?model=flights").json["slices"])
        yield server


@pytest.mark.parametrize("path", ["/slices?model=flights", "/review?model=flights", "/drift?model=flights"])
def test_slices_fit_a_phone_and_have_no_serious_fault(flights: Served, visit: Open, path: str) -> None:
    """With the slices loaded, nothing is wider than the screen of a phone, and axe finds no serious fault."""
    page = visit(path, flights)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    expect(page.locator("[data-slices] a, ol.slices").last).to_be_visible()
    expect(page.locator("[aria-busy]")).to_have_count(0)
    for look in in_every_look(page):
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), look
        assert serious(page) == [], look


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
