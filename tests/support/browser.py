"""Chromium, and what axe says about a page in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
"""The first of these that there is; without windows, a page takes a third of the time."""
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def in_both_schemes(page: Page) -> Iterator[str]:
    """The page in light, and then in dark, without loading it again."""
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        yield scheme


def in_every_look(page: Page) -> Iterator[tuple[str, int]]:
    """The page in both schemes, each as wide as a phone and a screen."""
    for scheme in in_both_schemes(page):
        for width in (390, 1366):
            page.set_viewport_size({"width": width, "height": 844})
            yield scheme, width


def faults_of(page: Page) -> list[str]:
    """Faults that axe finds, of any impact."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run({resultTypes: ['violations']}).then((results) => results.violations)")
    return [f"{page.url} {fault['id']}: {[node['html'][:200] for node in fault['nodes'][:3]]}" for fault in found]
