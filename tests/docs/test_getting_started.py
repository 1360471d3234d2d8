"""docs/getting-started.md, run as it stands with a real exporter, Prometheus and Alertmanager, on free ports."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from support import scripts
from support.paths import ROOT
from support.servers import free_port

TEXT = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
STEPS = re.findall(r"^```(sh|text)\n(.*?)^```$", TEXT, re.M | re.S)
LEAVE = r"""set -em
leave() {
  [ $? = 0 ] || tail -c 2000 ./*.log >&2
  for job in $(jobs -p); do kill -KILL -- -$job 2>/dev/null || :; done
}
trap leave EXIT
"""


def pattern(shown: str) -> str:
    """What output looks like that stands in the page, where ``…`` is anything."""
    return r"\n*".join(".*?".join(map(re.escape, line.split("…"))) for line in shown.strip().splitlines())


@pytest.mark.skipif(not shutil.which("prometheus"), reason="no Prometheus on this machine")
def test_the_commands_of_getting_started(tmp_path: Path) -> None:
    """The commands of each step, one after the other in one shell, print the documented output."""
    (kind, install), *steps = STEPS
    assert kind == "sh"
    assert "venv" in install
    script, promised = LEAVE, {}
    for number, (kind, text) in enumerate(steps):
        if kind == "sh":
            script += f"echo '=== {number}'\n{text}"
        else:
            promised[number - 1] = text
    script = script.replace("model-exporter serve", "model-exporter serve --web.listen-address=127.0.0.1:9877")
    script = re.sub(r"(model-exporter dataset \w+)", r"\1 --exporter=http://127.0.0.1:9877", script)
    for port in ("9877", "9090", "9093"):
        free = str(free_port())
        script = script.replace(f":{port}", f":{free}")
        promised = {number: text.replace(f":{port}", f":{free}") for number, text in promised.items()}
    output = scripts.run(script, tmp_path, seconds=900, SOURCE=str(ROOT))
    printed = {int(number): text for number, text in re.findall(r"^=== (\d+)\n(.*?)(?=^===|\Z)", output, re.M | re.S)}
    assert len(promised) >= 8
    for number, text in promised.items():
        assert re.search(pattern(text), printed[number], re.S), f"{text}\n{printed[number]}"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".jsonl") == ["first.jsonl"]
