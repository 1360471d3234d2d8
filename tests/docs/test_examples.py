"""The examples, run as docs/examples.md runs them, on ports that are free."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import scripts
from support.paths import ROOT
from support.servers import Served, eventually, free_port

TEXT = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n.*?^```sh\n(.*?)^```", TEXT, re.M | re.S))
REQUESTS = {
    "Flask": ("flask", 52),
    "FastAPI": ("fastapi", 51),
    "gunicorn": ("gunicorn", 51),
    "A batch job": ("batch", 2000),
    "Texts": ("1", 50),
    "Segments": ("segments", 600),
    "KServe's logger, replayed": ("kserve", 200),
}
"""Each example's version, and how many requests its commands make."""


def run(script: str, folder: Path, **environment: str) -> str:
    """What a script prints; what it left in the background is stopped, each with its children."""
    stop = "trap 'for group in $(jobs -p); do kill -TERM -- -$group; done; wait' EXIT\n"
    return scripts.run(f"set -em\n{stop}{script}", folder, **environment)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An exporter in a copy of the examples, prepared as the page says."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(ROOT / "examples", folder, dirs_exist_ok=True)
    install, change, *prepare, serve = re.search(r"^```sh\n(.*?)^```", TEXT, re.M | re.S)[1].splitlines()  # type: ignore[index]
    assert (install.split()[:2], change, serve) == (["pip", "install"], "cd examples", "model-exporter serve &")
    run("\n".join(prepare), folder)
    server = Served(folder)
    for file in folder.glob("*.py"):
        file.write_text(file.read_text().replace("http://127.0.0.1:9877", server.url))
    yield server.start()
    server.stop()


@pytest.mark.parametrize("name", SECTIONS)
def test_the_examples_end_with_visible_drift(served: Served, name: str) -> None:
    """The commands end with a divergence far above that of training; each request counts once."""
    script = SECTIONS[name].replace("http://127.0.0.1:9877", served.url).replace("8000", str(free_port()))
    output = run(script, served.folder)
    (line,) = [line for line in output.splitlines() if "_kl_divergence{" in line]
    assert float(line.rpartition(" ")[2]) > 0.3
    version, requests = REQUESTS[name]
    counted = served.samples("model_requests_total").items()
    assert [value for series, value in counted if f'version="{version}",code="200"' in series] == [requests]


def test_every_example_has_its_section() -> None:
    """Each monitoring example is on the page, and is short; the schedule of commands is on that of batches."""
    files = {path for path in (ROOT / "examples").glob("*.py") if "127.0.0.1:9877" in path.read_text()}
    scheduled = ROOT / "examples" / "airflow_dag.py"
    assert scheduled.name in (ROOT / "docs" / "batch.md").read_text()
    files.remove(scheduled)
    assert len(files) == len(SECTIONS) == 7
    for file in files:
        assert f"`{file.name}`" in TEXT
        lines = [line for line in file.read_text().splitlines() if line.strip()]
        assert len(lines) < 20, file.name


def test_a_segment_without_drift_is_below_the_threshold(served: Served) -> None:
    """The segment NL, whose incomes are those of training, is below the threshold."""
    run("python segments.py", served.folder)
    of_the_dutch = 'version="segments",segment="NL",feature="income"'

    def values() -> list[float]:
        segments = served.samples("model_segment_kl_divergence").items()
        return [value for series, value in segments if of_the_dutch in series]

    assert max(eventually(values)) < 0.3


def test_the_trainer_of_the_page_takes_a_request(tmp_path: Path) -> None:
    """The commands of retraining.md print what the page says; its check of signatures is that of the trainer."""
    page, trainer = ROOT / "docs" / "retraining.md", ROOT / "examples" / "trainer.py"
    text, code = page.read_text(encoding="utf-8"), trainer.read_text(encoding="utf-8")
    (function,) = re.findall(r"^def is_genuine.*?\n\n", text.replace("```", "\n\n"), re.M | re.S)
    assert function in code
    (tmp_path / "examples").mkdir()
    ports = {"9877": str(free_port()), "8000": str(free_port())}
    (tmp_path / "examples" / "trainer.py").write_text(code.replace("8000", ports["8000"]))
    script, printed = re.search(r"^## Try it\n.*?^```sh\n(.*?)^```\n\n```text\n(.*?)^```", text, re.M | re.S).groups()  # type: ignore[union-attr]
    script = script.replace("model-exporter serve", "model-exporter serve --web.listen-address=127.0.0.1:9877")
    for documented, free in ports.items():
        script = script.replace(documented, free)
    assert printed in run(script.replace("sleep 5", "sleep 15"), tmp_path, SOURCE=str(tmp_path))
