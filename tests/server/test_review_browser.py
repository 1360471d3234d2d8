"""The review page in a real browser: keys, two reviewers, a phone, the dark, and no fault of accessibility."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect
from support.browser import faults_of, in_both_schemes, needs_chromium
from support.corrections import EVIL, accept_suspects, correct, mistake, queue, start
from support.servers import Served, eventually

pytestmark = needs_chromium
Open = Callable[..., Page]


@pytest.fixture
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A fresh exporter."""
    with start(tmp_path_factory.mktemp("mistaken")) as server:
        yield server


@pytest.fixture
def visit(mistaken: Served, visit: Open) -> Open:  # in this order: pages are closed before the exporter stops
    """Opens a page of the fresh exporter as a reviewer of one's own, by default the page of corrections."""

    def opened(path: str = "/review?order=newest", server: Served = mistaken, **settings: Any) -> Page:
        return visit(path, server, **settings)

    opened.wrong = visit.wrong  # type: ignore[attr-defined]
    return opened


def current(page: Page) -> str | None:
    """The identifier of the card that has the focus."""
    return page.evaluate("document.activeElement.closest('.card')?.dataset.id ?? null")  # type: ignore[no-any-return]


def shown(page: Page) -> list[str]:
    return page.eval_on_selector_all("#cards .card", "cards => cards.map((card) => card.dataset.id)")  # type: ignore[no-any-return]


def states(server: Served) -> dict[str, tuple[str, Any]]:
    """Status and label of each correction."""
    return {one["id"]: (one["status"], one["label"]) for one in queue(server)}


def settled(server: Served, **wanted: int) -> bool:
    found = [status for status, _ in states(server).values()]
    return all(found.count(status) == count for status, count in wanted.items())


def test_fifty_mistakes_by_keyboard_alone(mistaken: Served, visit: Open) -> None:
    """Accept, reject and relabel sixty of a hundred and thirty; further pages come by themselves."""
    correct(mistaken, [mistake(f"m-{number}") for number in range(130)])
    page = visit()
    order = [one["id"] for one in queue(mistaken)]
    for number in range(60):
        assert current(page) == order[number]
        if number % 3 == 0:
            page.keyboard.press("a")
        elif number % 3 == 1:
            page.keyboard.press("r")
        else:
            page.keyboard.press("l")
            page.keyboard.type("yes")
            page.keyboard.press("Enter")
    expect(page.locator("[data-count=pending]")).to_have_text("70")
    eventually(lambda: settled(mistaken, accepted=40, rejected=20))
    found = states(mistaken)
    assert [found[place] for place in order[:3]] == [("accepted", "no"), ("rejected", "no"), ("accepted", "yes")]
    for _ in range(69):
        page.keyboard.press("j")
        page.wait_for_function(
            "() => !document.getElementById('next') || document.querySelectorAll('.card').length > 30"
        )
    expect(page.locator("#cards .card")).to_have_count(70)
    assert shown(page) == order[60:]
    for _ in range(69):
        page.keyboard.press("k")
    assert current(page) == order[60]


def test_undo_takes_the_last_decisions_back(mistaken: Served, visit: Open) -> None:
    """One key after the other, the cards come back where they stood; a label that no other card has is called new."""
    correct(mistaken, [mistake(f"m-{number}") for number in range(4)])
    page = visit()
    order = shown(page)
    page.keyboard.press("a")
    expect(page.locator("#toast-text")).to_have_text("Accepted: no")
    page.keyboard.press("l")
    page.keyboard.type("maybe")
    page.keyboard.press("Enter")
    expect(page.locator("#toast-text")).to_have_text("Accepted with a new label: maybe")
    eventually(lambda: states(mistaken)[order[1]] == ("accepted", "maybe"))
    page.keyboard.press("u")
    expect(page.locator("#toast-text")).to_have_text("Undone: maybe")
    assert (current(page), shown(page)) == (order[1], order[1:])
    page.locator("#undo").click()
    assert shown(page) == order
    eventually(lambda: settled(mistaken, pending=4))
    assert {label for _, label in states(mistaken).values()} == {"no"}
    expect(page.locator("[data-count=pending]")).to_have_text("4")
    expect(page.locator("[data-count=accepted]")).to_have_text("0")


def test_several_at_once(mistaken: Served, visit: Open) -> None:
    """Select one, a range, or all; a key decides the selection, and one undo takes all of it back."""
    correct(mistaken, [mistake(f"m-{number}") for number in range(10)])
    page = visit()
    order = shown(page)
    for key in ("j", "x", "j", "j", "Shift+X"):
        page.keyboard.press(key)
    expect(page.locator("#bulk-count")).to_have_text("3 selected")
    page.keyboard.press("a")
    eventually(lambda: settled(mistaken, accepted=3))
    assert shown(page) == [order[0], *order[4:]]
    page.keyboard.press("u")
    eventually(lambda: settled(mistaken, pending=10))
    assert shown(page) == order
    page.keyboard.press("*")
    expect(page.locator("#bulk-count")).to_have_text("10 selected")
    page.locator("#bulk [data-do=relabel]").click()
    page.keyboard.type("perhaps")
    page.keyboard.press("Enter")
    eventually(lambda: settled(mistaken, accepted=10))
    assert {label for _, label in states(mistaken).values()} == {"perhaps"}
    expect(page.locator("#empty")).to_be_visible()


def test_two_reviewers_do_not_overwrite_each_other(mistaken: Served, visit: Open) -> None:
    """The second sees what the first decided, and may then decide again."""
    correct(mistaken, [mistake(f"m-{number}") for number in range(3)])
    first, second = visit(), visit("/review?view=table&order=newest")
    order = shown(first)
    first.keyboard.press("l")
    first.keyboard.type("maybe")
    first.keyboard.press("Enter")
    eventually(lambda: settled(mistaken, accepted=1))
    second.keyboard.press("r")
    notice = second.locator(f"[data-id='{order[0]}'] .notice")
    expect(notice).to_have_text("Another reviewer decided first: accepted as maybe. Decide again to change it.")
    assert states(mistaken)[order[0]] == ("accepted", "maybe")
    expect(second.locator("#toast-text")).to_contain_text("Another reviewer decided first")
    assert shown(second) == order
    second.keyboard.press("k")
    second.keyboard.press("r")
    eventually(lambda: states(mistaken)[order[0]] == ("rejected", "maybe"))
    expect(notice).to_have_count(0)


def test_an_undo_in_haste_leaves_the_other_reviewers_decision_alone(mistaken: Served, visit: Open) -> None:
    """Taking back a decision that the server is about to refuse takes back nothing."""
    correct(mistaken, [mistake("m")])
    first, second = visit(), visit()
    first.keyboard.press("a")
    eventually(lambda: settled(mistaken, accepted=1))
    second.evaluate(
        "for (const key of 'ru') document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}))"
    )
    expect(second.locator(".notice")).to_contain_text("Another reviewer decided first: accepted")
    expect(second.locator("[data-count=accepted]")).to_have_text("1")
    expect(second.locator("[data-count=pending]")).to_have_text("0")
    assert settled(mistaken, accepted=1)


def test_skipped_cards_leave_the_page_and_stay_pending(mistaken: Served, visit: Open) -> None:
    """By the key, the button, and for selected ones."""
    correct(mistaken, [mistake(f"m-{number}") for number in range(8)])
    page = visit()
    mine = shown(page)
    page.keyboard.press("s")
    expect(page.locator("#toast-text")).to_have_text("Skipped: no")
    assert current(page) == mine[1]
    page.locator(f"[data-id='{mine[1]}'] [data-do=skip]").click()
    for key in "xjxjs":
        page.keyboard.press(key)
    assert shown(page) == mine[4:]
    assert settled(mistaken, pending=8)


@pytest.mark.parametrize("width", [390, 1366])
def test_undo_does_not_cover_the_next_decision(mistaken: Served, visit: Open, width: int) -> None:
    """The next card is scrolled until its buttons, in one line, are above the message of the last decision."""
    correct(mistaken, [mistake(f"m-{number}", inputs={"age": 40 + number}) for number in range(5)])
    page = visit(viewport={"width": width, "height": 700}, has_touch=True, is_mobile=width < 1000)
    buttons = page.locator(".card .decide").first.locator("button:visible").all()
    assert len({round(box["y"]) for button in buttons if (box := button.bounding_box())}) == 1
    assert len(buttons) == 4

    def uncovered() -> bool:
        buttons, message = page.locator(".card .decide").first.bounding_box(), page.locator("#toast").bounding_box()
        return bool(buttons and message and buttons["y"] + buttons["height"] <= message["y"])

    for rejected in (1, 2):
        page.locator(".card").first.get_by_role("button", name="Reject").tap()
        eventually(lambda rejected=rejected: settled(mistaken, rejected=rejected))
        eventually(uncovered)


def test_where_all_are_shown_they_stay(mistaken: Served, visit: Open) -> None:
    """Decided cards stay, with what was decided, in the view of all; a further page has the same keys."""
    correct(mistaken, [mistake(f"m-{number}") for number in range(52)])
    page = visit("/review?status=all&order=newest")
    page.keyboard.press("l")
    page.keyboard.type("maybe")
    page.keyboard.press("Enter")
    eventually(lambda: settled(mistaken, accepted=1))
    card = page.locator(".card").first
    expect(card.locator(".corrected")).to_have_text("maybe")
    expect(card.locator(".status.accepted")).to_have_count(1)
    card.get_by_role("button", name="Back to pending").click()
    eventually(lambda: settled(mistaken, pending=52))
    expect(card.locator(".corrected")).to_have_text("no")
    following = visit("/review?order=newest", java_script_enabled=False).locator("#next").get_attribute("href")
    further = visit(str(following))
    further.keyboard.press("r")
    eventually(lambda: settled(mistaken, rejected=1))


def test_what_the_network_loses_comes_back(mistaken: Served, visit: Open) -> None:
    """Without the server the card comes back with the reason, and nothing counts as decided."""
    correct(mistaken, [mistake(f"m-{number}") for number in range(2)])
    page = visit()
    order = shown(page)
    page.context.set_offline(True)
    page.keyboard.press("a")
    expect(page.locator(f"[data-id='{order[0]}'] .notice")).to_contain_text("The exporter does not respond")
    expect(page.locator("[data-count=pending]")).to_have_text("2")
    page.context.set_offline(False)
    page.keyboard.press("k")
    page.keyboard.press("a")
    eventually(lambda: settled(mistaken, accepted=1))
    visit.wrong[:] = [text for text in visit.wrong if "ERR_INTERNET_DISCONNECTED" not in text]  # type: ignore[attr-defined]


def test_one_card_stands_for_those_like_it(mistaken: Served, visit: Open) -> None:
    """They appear below it and are decided together only when the reviewer asks for it; the target counts each."""
    photos = np.random.default_rng(3).integers(0, 17, (30, 8, 8)).tolist()
    others = [mistake(f"o-{number}", inputs={"photo": photo}) for number, photo in enumerate(photos)]
    correct(mistaken, [*others, *(mistake(f"m-{number}", inputs={"photo": photos[0][::-1]}) for number in range(4))])
    page = visit("/review?target=12")
    link = page.get_by_role("link", name="3 more like it")
    leader = link.locator("xpath=ancestor::article")
    identifier = leader.get_attribute("data-id")
    expect(page.locator("#decided-today")).to_have_text("0")
    first = next(card for card in shown(page) if card != identifier)
    page.locator(f"[data-id='{first}'] button[value=accepted]").click()
    expect(page.locator("#decided-today")).to_have_text("1")
    link.click()
    expect(page.locator("#bulk-count")).to_have_text("4 selected")
    expect(link).to_have_count(0)
    place = shown(page).index(str(identifier))
    group = shown(page)[place : place + 4]
    page.keyboard.press("a")
    eventually(lambda: settled(mistaken, accepted=5))
    assert {status for status, _ in (states(mistaken)[card] for card in group)} == {"accepted"}
    expect(page.locator("#decided-today")).to_have_text("5")
    page.keyboard.press("u")
    eventually(lambda: settled(mistaken, accepted=1))
    expect(page.locator("#decided-today")).to_have_text("1")
    page.reload()
    expect(page.locator(".target")).to_have_text("1 of 12 today")
    assert not faults_of(page)


def test_suspect_labels_are_kept_or_changed(mistaken: Served, visit: Open) -> None:
    """Each is decided with a key or a click, and leaves the page; a changed one can be undone, a kept one cannot."""
    accept_suspects(mistaken)
    page = visit()
    page.get_by_text("3 accepted labels may be wrong").click()
    first, second, third = shown(page)
    expect(page.get_by_text("most similar are labelled maybe")).to_have_count(3)
    assert current(page) == first
    assert faults_of(page) == []
    page.keyboard.press("a")
    expect(page.locator("#toast-text")).to_have_text(f"Kept: {EVIL}")
    expect(page.locator("#undo")).to_be_hidden()
    assert shown(page) == [second, third]
    page.locator(f".card[data-id='{second}']").get_by_role("button", name="Change to maybe").click()
    expect(page.locator("#toast-text")).to_have_text("Accepted: maybe")
    eventually(lambda: states(mistaken)[second] == ("accepted", "maybe"))
    assert shown(page) == [third]
    eventually(lambda: [one["id"] for one in queue(mistaken, "suspect=true")] == [third])
    assert states(mistaken)[first] == ("accepted", EVIL)
    page.keyboard.press("u")
    eventually(lambda: states(mistaken)[second] == ("pending", EVIL))
    page.goto(f"{mistaken.url}/review?status=accepted&order=suspect")
    card = page.locator(f".card[data-id='{third}']")
    card.get_by_role("button", name=f"Keep {EVIL}").click()
    expect(card.get_by_text("most similar are labelled maybe")).to_have_count(0)
    expect(card.get_by_role("button", name="Accept", exact=False)).to_have_count(0)
    eventually(lambda: not queue(mistaken, "suspect=true"))
    assert third in shown(page), "where accepted ones are shown, it stays"


def test_filters_by_hand(mistaken: Served, visit: Open) -> None:
    """The form, a chip, a cell of the confusion table and a bar lead to their cards; the address keeps it all."""
    correct(mistaken, [mistake(f"n-{number}", inputs={"age": number}) for number in range(3)])
    events = [mistake(f"s-{number}", version="4", inputs={"age": number}) for number in range(2)]
    correct(mistaken, events, label="maybe", comment="blurred")
    page = visit("/review")
    page.keyboard.press("/")
    page.keyboard.type("BLURRED")
    page.keyboard.press("Enter")
    page.wait_for_url("**/review?q=BLURRED")
    assert len(shown(page)) == 2
    page.locator(".active-filters a").click()
    page.wait_for_url("**/review")
    page.locator("select[name=model]").select_option("credit")
    page.locator("#filters button").click()
    page.wait_for_url("**/review?model=credit")
    page.locator(".confusion a", has_text="3").click()
    page.wait_for_url("**/review?model=credit&label=%22no%22&predicted=%22yes%22")
    assert len(shown(page)) == 3
    page.get_by_role("link", name="Table").click()
    page.wait_for_url("**&view=table")
    page.get_by_text("Over time").click()
    page.locator(".times a").first.click()
    page.wait_for_url("**&since=*&until=*")
    assert len(shown(page)) == 3


def test_the_help_names_the_keys(mistaken: Served, visit: Open) -> None:
    """A question mark opens it, Escape closes it; letters typed into a field decide nothing."""
    correct(mistaken, [mistake("m")])
    page = visit()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("a")
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    page.keyboard.press("/")
    page.keyboard.type("arlu*?")
    page.keyboard.press("Escape")
    assert settled(mistaken, pending=1)
    assert len(shown(page)) == 1


@pytest.fixture
def varied(mistaken: Served) -> Served:
    """Mistakes that strain the layout."""
    odd = {"age": 17, "country": "<script>alert(1)</script>", "photo": "none", "x" * 120: "y" * 5000}
    correct(mistaken, [mistake("usual")])
    correct(mistaken, [mistake("odd", inputs=odd)], comment="<img src=x onerror=alert(2)>" * 40, user="u" * 120)
    text = {"text": "The parcel never came. " * 300}
    correct(mistaken, [mistake("long", "tickets", "v" * 128, inputs=text, prediction="W" * 9000)], label="M" * 100_000)
    return mistaken


def test_a_phone_shows_all_without_scrolling_sideways(varied: Served, visit: Open) -> None:
    """At 360 pixels nothing is wider than the screen, and a touch decides."""
    phone = {"viewport": {"width": 360, "height": 800}, "has_touch": True, "is_mobile": True}
    for path in ("/", "/drift", "/review", "/review?view=table", "/review?model=credit"):
        page = visit(path, **phone)
        for summary in page.locator("summary").all():
            summary.tap()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    page.locator(".card button.main").first.tap()
    eventually(lambda: settled(varied, accepted=1))
    page.locator("#undo").tap()
    eventually(lambda: settled(varied, pending=3))


def test_images_are_enlarged_and_crisp(varied: Served, visit: Open) -> None:
    """Eight pixels become 160 without being blurred, also beside labels of 100,000 characters."""
    page = visit("/review?q=usual&order=newest")
    image = page.locator(".card img")
    expect(image).to_have_count(1)
    expect(image).to_have_js_property("naturalWidth", 8)
    box = image.bounding_box()
    assert box
    assert (box["width"], box["height"]) == (160, 160)
    assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    wide = visit()
    assert wide.evaluate("document.documentElement.scrollWidth") <= 1366
    tallest = wide.eval_on_selector_all(".card h2", "all => Math.max(...all.map((one) => one.clientHeight))")
    assert tallest <= 200


def test_axe_finds_no_fault(varied: Served, visit: Open) -> None:
    """Every page in light and dark: contrast, names, roles; the dark one is dark."""
    faults = []
    for path in ("/", "/drift", "/review", "/review?view=table"):
        page = visit(path, reduced_motion="reduce")
        if path.startswith("/review"):
            page.keyboard.press("x")
            page.keyboard.press("l")
        for scheme in in_both_schemes(page):
            faults += faults_of(page)
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    assert not faults


def test_a_rejected_prediction_is_accepted_with_a_label(mistaken: Served, visit: Open) -> None:
    """The key for accepting asks for the label."""
    correct(mistaken, [mistake("m-1")], verdict="rejected", label=None)
    page = visit()
    page.keyboard.press("a")
    page.keyboard.type("maybe")
    page.keyboard.press("Enter")
    eventually(lambda: list(states(mistaken).values()) == [("accepted", "maybe")])
