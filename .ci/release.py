"""Check and build a release of the commit that is checked out and has a tag such as ``v1.0.0``; publish nothing.

``make release`` runs it. It builds a clone, so that nothing but the commit is in the files:

- ``dist/`` gets the source distribution and the wheel,
- ``build/release/`` what Grafana imports, and the package of the Helm chart.
"""

from __future__ import annotations

import datetime
import email
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "prometheus-model-exporter"
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""
CLIENT = """
import sys
before = set(sys.modules)
from exporter import Monitor
monitor = Monitor("http://127.0.0.1:9", "loans", "1")
monitor.record(inputs={"age": 41}, prediction="yes", confidence=0.9)
others = {name.partition(".")[0] for name in sys.modules.keys() - before} - sys.stdlib_module_names - {"exporter"}
sys.exit(f"The client imports {', '.join(sorted(others))}." if others else 0)
"""
LICENCES = """
import re
from importlib import metadata
for package in metadata.distributions():
    found = package.metadata
    classes = [name for name in found.get_all("Classifier", []) if name.startswith("License")]
    licence = found["License-Expression"] or ", ".join(classes) or found["License"] or "none"
    if not re.search("Apache|MIT|BSD|PSF|Python Software Foundation", licence):
        print(package.name)
"""
PAGES = {"/docs/": "Documentation", "/docs/getting-started": "Getting started"}
PAGES |= {"/runbooks/ModelDrift": "ModelDrift", "/": "loans", "/drift": "loans", "/openapi.json": "/v1/predictions"}


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Return what a command prints; end with its output if it fails."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MODEL_EXPORTER"))}
    done = subprocess.run(command, check=False, cwd=cwd, env=variables | environment, text=True, capture_output=True)
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        sys.exit("\n".join((f"make release: {' '.join(map(str, command))} failed:", *lines[-20:])))
    return done.stdout.strip()


def require(condition: object, message: str) -> None:
    """End with a message unless the condition is true."""
    if not condition:
        sys.exit(f"make release: {message}")


def ok(text: str) -> None:
    """Print a step that succeeded."""
    print(f"ok  {text}", flush=True)


def tagged_version() -> str:
    """Return the version of the tag of this commit, whose tree is clean."""
    changed = run("git", "status", "--porcelain")
    require(not changed, f"commit or remove what is changed:\n{changed}")
    tags = run("git", "tag", "--points-at", "HEAD").split()
    versions = [tag[1:] for tag in tags if re.fullmatch(r"v\d+\.\d+\.\d+((a|b|rc)\d+)?", tag)]
    require(len(versions) == 1, f"this commit needs one tag such as v1.0.0, and has {' '.join(tags) or 'none'}")
    ok(f"clean tree, tag v{versions[0]}")
    return versions[0]


def check_changelog(version: str) -> None:
    """Require that the first release of the changelog is this one, has a date, and has upgrade notes."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    _, heading, body, *_ = re.split(r"^## (.*)$", text, flags=re.M)
    match = re.fullmatch(rf"\[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)", heading)
    require(match, f"the first release in CHANGELOG.md is {heading!r}, expected '[{version}] - YYYY-MM-DD'")
    assert match
    require(datetime.date.fromisoformat(match[1]) <= datetime.date.today(), f"{match[1]} is in the future")
    notes = re.search(r"^### Upgrade notes\n(.*?)(?=^### |\Z)", body, re.M | re.S)
    require(notes and notes[1].strip(), "CHANGELOG.md has no upgrade notes for this release")
    ok(f"changelog of {match[1]}, with upgrade notes")


def check_names(version: str) -> None:
    """Require that the chart and the images that are named in files have this version."""
    chart = (ROOT / "deploy/helm/Chart.yaml").read_text(encoding="utf-8")
    found = {
        ("deploy/helm/Chart.yaml", name) for name in re.findall(r'^(?:version|appVersion): "?([^"\n]+)', chart, re.M)
    }
    named = r"(?:model-exporter(?:-batch)?:|ARG VERSION=|--build-arg VERSION=)(\d+\.[\w.]+)"
    for path in (
        ROOT / "Dockerfile",
        ROOT / "docker-compose.yml",
        *(ROOT / "deploy/kubernetes").iterdir(),
        *(ROOT / "docs").glob("*.md"),
    ):
        found |= {(str(path.relative_to(ROOT)), name) for name in re.findall(named, path.read_text(encoding="utf-8"))}
    wrong = sorted(f"{path} names {name}" for path, name in found if name != version)
    require(not wrong, f"expected {version} everywhere: {'; '.join(wrong)}")
    ok(f"chart and images have the version {version}")


def clone(folder: Path) -> Path:
    """Return a clone of this commit in which generated files are current, with the commit in ``exporter/REVISION``."""
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, folder)
    run("git", "checkout", "--quiet", run("git", "rev-parse", "HEAD"), cwd=folder)
    for command in ([".ci/reference.py"], ["prometheus/generate.py"], ["-m", "grafana"]):
        run(sys.executable, *command, cwd=folder, PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1")
    changed = run("git", "status", "--porcelain", cwd=folder)
    require(not changed, f"run make docs, make rules and make dashboards; these files are not current:\n{changed}")
    (folder / "exporter/REVISION").write_text(run("git", "rev-parse", "HEAD") + "\n", encoding="utf-8")
    ok("reference, rules and dashboards are current")
    return folder


def _build(kind: str, source: Path, target: Path, epoch: str) -> Path:
    printed = run(sys.executable, "-c", BUILD, kind, target, cwd=source, SOURCE_DATE_EPOCH=epoch)
    return target / printed.splitlines()[-1]


def _repacked(path: Path, epoch: str) -> Path:
    """Return a source distribution whose entries have one order, owner and time."""
    unpacked = path.with_suffix(".unpacked")
    with tarfile.open(path) as archive:
        archive.extractall(unpacked, filter="data")
    options = ("--sort=name", f"--mtime=@{epoch}", "--owner=0", "--group=0", "--numeric-owner", "--mode=go=rX,u+rw")
    run(
        "tar",
        *options,
        "--use-compress-program=gzip -n",
        "-cf",
        path,
        "-C",
        unpacked,
        *[path.name for path in unpacked.iterdir()],
    )
    shutil.rmtree(unpacked)
    return path


def build(source: Path, folder: Path, version: str) -> list[Path]:
    """Return the source distribution and the wheel that is built from it; require that a second build is the same."""
    epoch = run("git", "log", "-1", "--format=%ct")
    pairs = []
    for number in ("first", "second"):
        target = folder / number
        target.mkdir()
        sdist = _repacked(_build("sdist", source, target, epoch), epoch)
        with tarfile.open(sdist) as archive:
            archive.extractall(target / "source", filter="data")
        (unpacked,) = (target / "source").iterdir()
        pairs.append([sdist, _build("wheel", unpacked, target, epoch)])
    stem = f"{NAME.replace('-', '_')}-{version}"
    expected = [f"{stem}.tar.gz", f"{stem}-py3-none-any.whl"]
    require([path.name for path in pairs[0]] == expected, f"built {pairs[0]}, expected {expected}")
    for one, other in zip(*pairs, strict=True):
        require(one.read_bytes() == other.read_bytes(), f"two builds of {one.name} differ")
    ok(f"{' and '.join(expected)}, the same bytes twice")
    return pairs[0]


def _extras() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["optional-dependencies"])


def check_metadata(sdist: Path, wheel: Path, version: str) -> None:
    """Require the name, the version and the licence, and that nothing is required without an extra."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(path))
    found = [metadata[name] for name in ("Name", "Version", "License-Expression", "License-File")]
    require(found == [NAME, version, "Apache-2.0", "LICENSE"], f"the metadata of the wheel are {found}")
    require(any(name.endswith(".dist-info/licenses/LICENSE") for name in names), "the wheel has no LICENSE")
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    require(not needed, f"the client needs {needed}")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    require(
        set(metadata.get_all("Provides-Extra", [])) == set(extras), "the wheel has other extras than pyproject.toml"
    )
    foreign = {name.partition("/")[0] for name in names} - {"exporter", path.partition("/")[0]}
    require(not foreign, f"the wheel installs {foreign}")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "LICENSE",
        "CHANGELOG.md",
        "prometheus/rules",
        "alertmanager/alertmanager.yml",
        "deploy/helm/Chart.yaml",
    ):
        require(name in held, f"the source distribution has no {name}")
    ok(f"{NAME} {version}, Apache-2.0")


def _environment(folder: Path, *packages: str) -> Path:
    """Return the folder of the programs of a new virtual environment with these packages."""
    run(sys.executable, "-m", "venv", folder)
    pip = (folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, *packages, cwd=folder)
    return folder / "bin"


def check_client(wheel: Path, folder: Path) -> None:
    """Require that the wheel installs without an index, and that the client imports the standard library alone."""
    programs = _environment(folder, "--no-index", str(wheel))
    run(programs / "python", "-I", "-c", CLIENT, cwd=folder)
    ok("client: installed alone, imports the standard library alone")


def check_server(wheel: Path, folder: Path, version: str) -> None:
    """Require that ``[server]`` is complete: the command, the metrics and the documents work."""
    programs = _environment(folder, f"{wheel}[server]")
    revision = run("git", "rev-parse", "HEAD")
    others = set(run(programs / "python", "-I", "-c", LICENCES, cwd=folder).split())
    documented = set(re.findall(r"`([\w-]+)`", (ROOT / "docs/compatibility.md").read_text(encoding="utf-8")))
    require(others <= documented, f"docs/compatibility.md does not name the licences of {others - documented}")
    printed = run(programs / "model-exporter", "--version", cwd=folder)
    require(version in printed, f"--version prints {printed!r}")
    (folder / "exporter.yml").write_text("models: [{name: loans}]\n", encoding="utf-8")
    run(programs / "model-exporter", "check-config", "exporter.yml", cwd=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    command = [str(programs / "model-exporter"), "serve", f"--web.listen-address={address}"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stderr=log) as process:
        try:
            metrics = _get(f"http://{address}/metrics", process)
            require(f'version="{version}"' in metrics, "/metrics has another version")
            require(f'revision="{revision}"' in metrics, f"/metrics does not have the commit {revision}")
            for path, text in PAGES.items():
                require(text in _get(f"http://{address}{path}", process), f"{path} does not have {text!r}")
        finally:
            process.terminate()
    require(process.returncode == 0, f"serve ended with {process.returncode}:\n{(folder / 'log').read_text()}")
    pip = (programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--dry-run")
    run(*pip, f"{wheel}[{','.join(_extras())}]", cwd=folder)
    ok(f"[server]: {printed}; /metrics, /docs/, runbooks and pages answer; all extras can be installed")


def _get(url: str, process: subprocess.Popen[bytes]) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(100):
        try:
            with opener.open(url, timeout=10) as response:
                return str(response.read().decode())
        except urllib.error.HTTPError as error:
            sys.exit(f"make release: {url} answers {error.code}")
        except OSError:
            require(process.poll() is None, "serve has ended")
            time.sleep(0.1)
    sys.exit(f"make release: {url} does not answer")


def main() -> None:
    """Run the steps; write the files only if all succeed."""
    version = tagged_version()
    check_changelog(version)
    check_names(version)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = clone(folder / "clone")
        sdist, wheel = build(source, folder, version)
        check_metadata(sdist, wheel, version)
        check_client(wheel, folder / "client")
        check_server(wheel, folder / "server", version)
        run("make", "--old-file=.venv/.installed", "release-files")
        require((ROOT / f"build/release/model-exporter-{version}.tgz").exists(), "the chart's package is missing")
        ok("build/release: files for Grafana, and the chart's package")
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        (ROOT / "dist").mkdir()
        for path in (sdist, wheel):
            shutil.copy(path, ROOT / "dist")
            print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  dist/{path.name}")
    print("Ready. CONTRIBUTING.md says how to publish it, from step 3 on.")


if __name__ == "__main__":
    main()
