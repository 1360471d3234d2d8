"""Fixtures: a fresh exporter, one that a module shares, one that only keeps what it is sent, databases, a browser."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import support.environment  # noqa: F401 - before all that is slow to import
from support.fake_exporter import Exporter
from support.paths import ROOT
from support.postgres import Postgres, running
from support.processes import Printed, Run
from support.servers import Served, serving, write_config

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from exporter.storage import Store

DATABASES = ("sqlite", "postgresql")
LONGEST = (
    "docs/test_getting_started.py",
    "bundle/test_rules.py",
    "bundle/test_dashboards.py",
    "bundle/test_objectives.py",
    "bundle/test_scrape_intervals.py",
    "docs/test_examples.py",
    "server/test_review_browser.py",
    "end_to_end/test_survival.py",
    "storage/test_store.py",
    "commands/test_proxy.py",
    "datasets/test_datasets.py",
    "demo/test_up.py",
    "demo/test_demo.py",
    "monitoring/test_noise_learner.py",
    "commands/test_ingest.py",
    "end_to_end/test_hostile.py",
    "bundle/test_managed_rules.py",
    "server/test_stored_rows.py",
    "bundle/test_fleet.py",
    "server/test_pages_browser.py",
    "commands/test_consume.py",
    "end_to_end/test_fuzz.py",
)
"""The modules that take longest run first: the last to end would run alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules; a worker takes the next module in this order."""
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a test was skipped and ``TESTS_SKIP=fail`` is set, as in ``.ci/run``."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and os.environ.get("TESTS_SKIP") == "fail" and reporter.stats.get("skipped"):
        reporter.write_line("Tests were skipped, and TESTS_SKIP=fail is set.", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A fresh exporter with the models of `CONFIG`."""
    write_config(tmp_path)
    with serving(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One exporter for tests that do not mind each other's counts."""
    folder = tmp_path_factory.mktemp("served")
    write_config(folder)
    with serving(folder) as server:
        yield server


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``model-exporter`` in this process, checks its exit status, and returns what it printed."""
    from exporter.cli import main

    def run(*arguments: object, status: int = 0) -> Printed:
        capsys.readouterr()
        try:
            ended: object = main([*map(str, arguments)])
        except SystemExit as usage:
            ended = usage.code
        printed = Printed(*capsys.readouterr())
        assert ended == status, (arguments, printed)
        return printed

    return run


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    """An HTTP server that keeps what a client sends to it."""
    server = Exporter()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server."""
    with running() as server:
        yield server


def new_database(request: pytest.FixtureRequest, folder: Path) -> str:
    """Return the URL of an empty database of the kind that a fixture's parameter names."""
    if request.param == "sqlite":
        return f"sqlite:///{folder / 'store.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url()


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind that the store knows."""
    return new_database(request, tmp_path)


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """A store of an empty database of each kind."""
    from exporter.config import StoreConfig
    from exporter.storage import Store  # slow to import

    store = Store(StoreConfig(url=database), lambda _: None)
    yield store
    store.close()


@pytest.fixture(scope="module", params=DATABASES)
def shared_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same for a database that a module's tests share."""
    return new_database(request, tmp_path_factory.mktemp("database"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a module."""
    from playwright.sync_api import sync_playwright  # slow to import
    from support.browser import CHROMIUM

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page as a visitor of its own; no page may log an error, fail, or ask another host."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []
    servers: list[str] = []

    def asked(request: Any) -> None:
        if not request.url.startswith((*servers, "data:")):
            wrong.append(f"asked {request.url}")

    def visit(path: str, server: Served, **settings: Any) -> Page:
        servers.append(server.url)
        context = browser.new_context(**{"viewport": {"width": 1366, "height": 768}, **settings})
        contexts.append(context)
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", asked)
        page.goto(server.url + path)
        return page

    visit.wrong = wrong  # type: ignore[attr-defined]
    yield visit
    for context in contexts:
        context.close()
    assert not wrong
