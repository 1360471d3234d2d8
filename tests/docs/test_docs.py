"""What is not documented does not exist, and what is documented does."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support import scripts
from support.paths import ROOT
from support.servers import Served, ask, eventually, free_port, serving

from exporter import config
from exporter.server import access
from exporter.server.application import Exporter
from exporter.server.flask_app import create_app

_SPEC = importlib.util.spec_from_file_location("reference", ROOT / ".ci" / "reference.py")
assert _SPEC and _SPEC.loader
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)
README = ROOT / "README.md"
DOCS = ROOT / "docs"
COMMAND = Path(sys.executable).with_name("model-exporter")
ADDRESS = "http://127.0.0.1:9877"


def document(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table(text: str) -> dict[str, list[str]]:
    """Rows of a text's tables by the code that stands in their first cell."""
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and (code := re.match(r"`([^`]+)`", cells[0])):
            rows.setdefault(code[1], cells[1:])  # `review` is a key and a scope
    return rows


def section(name: str, heading: str) -> str:
    """A document's text below a heading, up to the next one."""
    match = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", document(name), re.M | re.S)
    assert match, f"{name}: no heading {heading}"
    return match[1]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


# --- configuration ---------------------------------------------------------------------------


def keys(kind: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key below a struct with its default, spelt as configuration.md spells it."""
    for field in msgspec.structs.fields(kind):
        name = f"{path}{field.encode_name}"
        yield name, field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        info: Any = msgspec.inspect.type_info(field.type)
        inner, below = info, f"{name}."
        if isinstance(info, msgspec.inspect.VarTupleType):
            inner, below = info.item_type, f"{name}[]."
        elif isinstance(info, msgspec.inspect.DictType):
            inner, below = info.value_type, f"{name}.<name>."
        elif isinstance(info, msgspec.inspect.UnionType):
            inner = next((kind for kind in info.types if isinstance(kind, msgspec.inspect.StructType)), info)
        if isinstance(inner, msgspec.inspect.StructType):
            yield from keys(inner.cls, below)


def test_every_key_is_documented_with_its_default() -> None:
    """Each key of exporter.yml has a row with its default, and every row is about an existing key."""
    rows = table(document("configuration.md"))
    defaults = dict(keys(config.Config))
    for key, default in defaults.items():
        assert key in rows, f"configuration.md: {key} is missing"
        shown = rows[key][1].strip("`")
        if isinstance(default, msgspec.Struct):
            continue
        if default is msgspec.NODEFAULT or default is None:
            assert shown == ("none" if default is None else "required"), key
        else:
            plain = msgspec.json.decode(msgspec.json.encode(default))
            assert yaml.safe_load(shown) == plain, f"configuration.md: the default of {key} is {plain}"
    stale = {row for row in rows if re.match(r"(models|store|queue|links|prometheus_url)\b", row)} - defaults.keys()
    assert not stale


def test_every_key_of_the_web_configuration_is_documented() -> None:
    """The keys of the web configuration file and of the tokens file have their rows."""
    names = {f"tls_server_config.{field.encode_name}" for field in msgspec.structs.fields(access.TlsConfig)}
    names |= {f"[].{field.encode_name}" for field in msgspec.structs.fields(access._Token)}
    rows = table(document("configuration.md"))
    assert {row for row in rows if row.startswith(("tls_server_config.", "[]."))} == names


def test_every_scope_is_documented() -> None:
    """Each scope of tokens has a row; the generated table of routes has the scope of each route."""
    rows = re.findall(r"^\| `(\w+)` \|", section("configuration.md", "Who may do what"), re.M)
    assert sorted(rows) == sorted(access.SCOPES)


def test_the_documented_mapping_is_a_valid_configuration(tmp_path: Path) -> None:
    """The example of a mapping can be loaded, and matches the text around it."""
    (tmp_path / "exporter.yml").write_text(blocks(document("integrations.md"), "yaml")[0])
    (model,) = config.load(tmp_path / "exporter.yml").models
    assert model.mapping.inputs == {"INPUT__0": ("age", "income"), "INPUT__1": "country", "max_tokens": None}
    assert model.mapping.labels == ("no", "yes")


def test_every_threshold_is_documented() -> None:
    """The alerts whose threshold can be set are listed, and which of them a feature may set; the others are named."""
    rows = {name: cells[0] for name, cells in table(document("configuration.md")).items() if name.startswith("Model")}
    defaults = {name: threshold for name, threshold in config.THRESHOLDS.items() if threshold.default is not None}
    assert rows == {name: "yes" if threshold.per_feature else "no" for name, threshold in defaults.items()}


# --- a real exporter -------------------------------------------------------------------------


def write_training(folder: Path) -> None:
    rows = [f"{20 + n % 50},{'NL' if n % 3 else 'BE'},{'yes' if n % 2 else 'no'}\n" for n in range(300)]
    (folder / "training.csv").write_text("age,country,prediction\n" + "".join(rows))


def shell(script: str, folder: Path, curl: str = "") -> str:
    """What a script prints; ``curl`` are further options of each curl in it."""
    function = f"curl() {{ command curl --noproxy '*' -sS {curl} \"$@\"; }}\n"
    return scripts.run(f"set -e\n{function}{script}", folder, seconds=30)


def stored(server: Served) -> str:
    """The metrics, once every accepted prediction is on disk: feedback on it is then joined at once."""
    accepted = server.samples()['model_exporter_events_total{source="predictions"}']
    with contextlib.closing(sqlite3.connect(server.folder / "data" / "model-exporter.db")) as database:
        eventually(lambda: database.execute("SELECT count(*) FROM predictions").fetchone()[0] >= accepted)
    return server.get("/metrics").text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example of configuration.md and the profile that it names, made as profiles.md says."""
    folder = tmp_path_factory.mktemp("documented")
    write_training(folder)
    shell(f"{COMMAND} profile training.csv --prediction-column prediction -o loans.json", folder)
    (folder / "exporter.yml").write_text(blocks(document("configuration.md"), "yaml")[0])
    return folder


@pytest.fixture
def exporter(folder: Path) -> Iterator[Exporter]:
    exporter = Exporter(folder / "exporter.yml")
    yield exporter
    exporter.close()


# --- routes and flags ------------------------------------------------------------------------


def test_every_route_is_documented(exporter: Exporter) -> None:
    """Each route is in the table of api.md, and each section is about a route."""
    routes = {
        f"{method} {rule.rule}"
        for rule in create_app(exporter).url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"} and rule.endpoint != "static"
    }
    assert set(re.findall(r"^\| \[?`((?:GET|POST|PUT|PATCH) .*?)`", document("api.md"), re.M)) == routes
    assert set(re.findall(r"^## `(.*)`$", document("api.md"), re.M)) <= routes


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_current(name: str) -> None:
    """The tables of commands, metrics, routes, rules and limits are those of the code, and each has a meaning."""
    text = document(name)
    assert reference.PAGES[name](text) == text, "run `make docs`"
    assert "| TO DO |" not in text, f"docs/{name}: write the meaning in place of TO DO"


def test_no_page_promises_what_no_snippet_shows() -> None:
    """Nothing promises one line, or no code, or installs another project or an extra that does not exist."""
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M))
    for path in (README, ROOT / "CHANGELOG.md", *DOCS.rglob("*.md"), *(ROOT / "exporter").rglob("*.py")):
        text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
        found = re.search(r"\b(?:one|a single) line of (?:code|Python)\b|\b(?:no|without|zero)[- ]code\b", text, re.I)
        assert not found, f"{path.name}: {found[0]}"
        assert not re.search(r"pip install [\"']?model-exporter\b(?!` installs something else)", text), path.name
        assert set(re.findall(r"(?:model-exporter|\$SOURCE|[ \"']\.)\[(\w+)\]", text)) <= extras, path.name


# --- metrics ---------------------------------------------------------------------------------


class Example(NamedTuple):
    script: str
    promised: tuple[int, str]
    given: tuple[int, str]


@pytest.fixture(scope="module")
def examples(folder: Path) -> tuple[list[Example], str]:
    """The examples of api.md, run in order, with the statuses and answers; and the metrics after the last."""
    pattern = r"^```sh\n(.*?)^```\n\nResponse `(\d+)`:\n\n```\w+\n(.*?)^```$"
    ran = []
    with serving(folder) as server:
        for script, status, answer in re.findall(pattern, document("api.md"), re.M | re.S):
            shown = shell(script.replace(ADDRESS, server.url), folder, "-w '\\n%{http_code}'")
            got, _, code = shown.rpartition("\n")
            ran.append(Example(script, (int(status), answer.strip()), (int(code), got.strip())))
            metrics = stored(server)
    return ran, metrics


def test_the_examples_of_the_api_answer_as_documented(examples: tuple[list[Example], str]) -> None:
    """Each example of api.md, run against a real exporter in the documented order, returns the documented response."""
    assert len(examples[0]) == len(blocks(document("api.md"), "sh"))
    for example in examples[0]:
        assert example.given == example.promised, example.script


def test_every_metric_is_documented(examples: tuple[list[Example], str]) -> None:
    """The tables are those of the declarations, and have each metric of an exporter with its type and labels."""
    text = document("metrics.md")
    rows = table(text)
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", examples[1], re.M))
    assert types.keys() <= rows.keys()
    for family in text_string_to_metric_families(examples[1]):
        name = family.name + ("_total" if family.type == "counter" else "")
        assert rows[name][0] == types[name]
        labels = {label for sample in family.samples for label in sample.labels}
        assert labels <= set(filter(None, rows[name][1].split(", "))), name


@pytest.mark.parametrize("path", [README, ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))], ids=lambda p: p.name)
def test_documents_name_only_metrics_that_exist(path: Path) -> None:
    """All documents name only metrics that are in metrics.md, proxy.md or kafka.md."""
    named = set(re.findall(r"(?<![\w:])model_[a-z][a-z_]*[a-z](?![\w:])", path.read_text(encoding="utf-8")))
    members = {"model_name", "model_version"}  # of inference protocols
    documented = {name + part for name in table(document("metrics.md")) for part in ("", "_sum", "_count")} | members
    for page in ("proxy.md", "kafka.md"):
        documented |= table(section(page, "Its own metrics")).keys()
    assert named <= documented, named - documented


# --- readers ---------------------------------------------------------------------------------


QUICK_START = """import sys
from fastapi import FastAPI

class Model:
    def predict(self, rows):
        return ["yes" if row["income"] > 30_000 else "no" for row in rows]

app, model = FastAPI(), Model()
{monitored}

@app.post("/predict")
def predict(row: dict[str, float]):
    return model.predict([row])[0]
"""


def answers(port: int) -> bool:
    """Return whether something listens on a port."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_the_quick_start(tmp_path: Path) -> None:
    """The README's lines, in a service that sends incomes in cents: the drift page and the metrics show it."""
    text = README.read_text(encoding="utf-8").partition("## Quick start")[2]
    (commands,), (python,) = blocks(text, "sh"), blocks(text, "python")
    profile, config, serve = commands.splitlines()
    assert serve == "model-exporter serve"
    rows = [f"{20 + number % 50},{20_000 + 40 * number},{'yes' if number > 250 else 'no'}" for number in range(500)]
    (tmp_path / "training.csv").write_text("\n".join(["age,income,prediction", *rows]))
    shell(f"{profile}\n{config}", tmp_path)
    with serving(tmp_path) as server:
        service = tmp_path / "service.py"
        service.write_text(QUICK_START.format(monitored=python.replace(ADDRESS, server.url)))
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", "service:app", f"--port={port}", "--log-level=error"]
        process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | scripts.ENVIRONMENT)
        try:
            url = f"http://127.0.0.1:{port}/predict"
            eventually(lambda: answers(port), 60)
            assert ask(url, {"age": 30, "income": 3e6}).status == 200
            for number in range(59):
                assert ask(url, {"age": 20 + number % 50, "income": 2_500_000 + 10 * number}).status == 200
        finally:
            process.terminate()
            process.wait(30)
        metrics = server.get("/metrics").text
        (drift,) = re.findall(r'^model_feature_kl_divergence\{.*feature="income",window="5m"\} (\S+)$', metrics, re.M)
        assert float(drift) > 1
        assert 'model_requests_total{model="loans",version="1",code="200"} 60.0' in metrics
        assert "income" in server.get("/drift").text


def pages(path: Path) -> set[str]:
    """Pages of the exporter that a document sends people to."""
    return set(re.findall(rf"{ADDRESS}(/[\w/-]*)", path.read_text(encoding="utf-8")))


def test_runbooks_link_to_existing_pages(exporter: Exporter) -> None:
    """Each address of the exporter in a runbook is a route."""
    adapter = create_app(exporter).url_map.bind("127.0.0.1")
    linked = {page for path in (DOCS / "runbooks").glob("*.md") for page in pages(path)}
    assert {"/-/reload", "/drift"} <= linked
    for page in linked:
        adapter.match(page, method=adapter.allowed_methods(page)[0])


def test_sql_in_the_runbooks_is_valid(exporter: Exporter, folder: Path) -> None:
    """The SQL in the runbooks runs on the tables of the store."""
    texts = [path.read_text(encoding="utf-8") for path in (DOCS / "runbooks").glob("*.md")]
    queries = [query for text in texts for query in re.findall(r'"(SELECT [^"]*)"', text)]
    assert queries
    with contextlib.closing(sqlite3.connect(folder / "data" / "model-exporter.db")) as store:
        for query in queries:
            store.execute(query)


def test_links_and_tables_are_valid() -> None:
    """Links between documents, and names of scripts, point to what exists; each row of a table is on one line."""
    for path in (README, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"^ *\|.*[^|\n]$|\n\n *\|.*\n(?! *\|[ :|-]+\n)", text, re.M) == [], path.name
        for name in re.findall(r"benchmarks/(?:studies/)?(\w+\.py)", text):
            assert list((ROOT / "benchmarks").rglob(name)), f"{path.name}: {name}"
        for target in re.findall(r"\]\(([^)#:]*(?:#[\w-]+)?)\)", text):
            file, _, anchor = target.partition("#")
            destination = path.parent / file if file else path
            assert destination.exists(), f"{path.name}: {target}"
            headings = re.findall(r"^#+ (.*)$", destination.read_text(encoding="utf-8"), re.M) if anchor else []
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in slugs, f"{path.name}: {target}"


def test_links_of_served_pages_are_answered(exporter: Exporter) -> None:
    """Each internal link and image of each document and runbook leads to a page, and to a heading that is on it."""
    client, seen, waiting, anchors = create_app(exporter).test_client(), {}, {"/docs/", "/runbooks/"}, set()
    while waiting:
        path = waiting.pop()
        answer = client.get(path)
        assert answer.status_code == 200, path
        seen[path] = answer.text if answer.mimetype == "text/html" else ""
        article = re.search(r'<article class="text">.*</article>', seen[path], re.S)
        for link in re.findall(r' (?:href|src)="([^":]*)"', article[0] if article else ""):
            target, _, anchor = link.partition("#")
            anchors.add((path, target or path, anchor))
            if target not in seen:
                waiting.add(target or path)
        waiting -= seen.keys()
    assert len(seen) > 60
    for path, target, anchor in anchors:
        assert not anchor or f' id="{anchor}"' in seen[target], f"{path}: {target}#{anchor}"
    served = {path.removeprefix("/docs/") for path in seen}
    pages = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert {page for page in pages if not page.startswith("runbooks/")} - {"index"} <= served, "not linked"
