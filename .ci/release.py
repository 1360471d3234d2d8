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
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
QUICK_START = (ROOT / "README.md").read_text("utf-8").partition("## Quick start")[2]
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
PAGES = {"/docs/": "Documentation", "/docs/getting-started": "Getting started", "/docs/changelog": "Upgrade notes"}
PAGES |= {"/runbooks/ModelDrift": "ModelDrift", "/": "loans", "/drift": "loans", "/openapi.json": "/v1/predictions"}


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Return what a command prints; end with its output if it fails."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MODEL_EXPORTER"))}
    done = subprocess.run(command, check=False, cwd=cwd, env=variables | environment, text=True, capture_output=True)
    lines = (done.stdout + done.stderr).splitlines()
    require(done.returncode == 0, "\n".join((f"{' '.join(map(str, command))} failed:", *lines[-20:])))
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


def check_texts(version: str) -> None:
    """Require that the changelog begins with this release, and that the chart and all images have its version."""
    _, heading, body, *_ = re.split(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)
    date = heading.removeprefix(f"[{version}] - ")
    require(
        re.fullmatch(r"\d{4}-\d\d-\d\d", date), f"CHANGELOG.md: expected '[{version}] - YYYY-MM-DD', got {heading!r}"
    )
    require(datetime.date.fromisoformat(date) <= datetime.date.today(), f"CHANGELOG.md: {date} is in the future")
    require(
        re.search(r"^### Upgrade notes\n\s*^[^#\s]", body, re.M), "CHANGELOG.md has no upgrade notes for this release"
    )
    named = (
        r"(?:model-exporter(?:-batch)?:|ARG VERSION=|--build-arg VERSION=|^(?:version|appVersion): \"?)(\d+\.[\w.]+)"
    )
    files = [ROOT / name for name in ("deploy/helm/Chart.yaml", "Dockerfile", "docker-compose.yml")]
    files += [*(ROOT / "deploy/kubernetes").iterdir(), *(ROOT / "docs").glob("*.md")]
    found = {(path.name, name) for path in files for name in re.findall(named, path.read_text("utf-8"), re.M)}
    wrong = sorted(f"{path} names {name}" for path, name in found if name != version)
    require(not wrong, f"expected {version} everywhere: {'; '.join(wrong)}")
    ok(f"changelog of {date}, with upgrade notes; chart and images have the version {version}")


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


def build(source: Path, target: Path, epoch: str) -> tuple[Path, Path]:
    """Return the source distribution, whose entries have one order, owner and time, and the wheel made from it."""
    sdist = _build("sdist", source, target, epoch)
    with tarfile.open(sdist) as archive:
        archive.extractall(target / "source", filter="data")
    (unpacked,) = (target / "source").iterdir()
    options = ("--sort=name", f"--mtime=@{epoch}", "--owner=0", "--group=0", "--numeric-owner", "--mode=go=rX,u+rw")
    run("tar", *options, "--use-compress-program=gzip -n", "-cf", sdist, "-C", unpacked.parent, unpacked.name)
    return sdist, _build("wheel", unpacked, target, epoch)


def check_files(sdist: Path, wheel: Path, version: str) -> None:
    """Require the name, the version and the licence, and that nothing is required without an extra."""
    stem = f"{NAME.replace('-', '_')}-{version}"
    built = [sdist.name, wheel.name]
    require(built == [f"{stem}.tar.gz", f"{stem}-py3-none-any.whl"], f"built {built}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = email.message_from_bytes(archive.read(f"{stem}.dist-info/METADATA"))
    found = [metadata[name] for name in ("Name", "Version", "License-Expression", "License-File")]
    require(found == [NAME, version, "Apache-2.0", "LICENSE"], f"the metadata of the wheel are {found}")
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    require(not needed, f"the client needs {needed}")
    require(
        set(metadata.get_all("Provides-Extra", [])) == EXTRAS.keys(), "the wheel has other extras than pyproject.toml"
    )
    foreign = {name.partition("/")[0] for name in names} - {"exporter", f"{stem}.dist-info"}
    require(not foreign, f"the wheel installs {foreign}")
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()} | set(names)
    wanted = {f"{stem}.dist-info/licenses/LICENSE", "LICENSE", "CHANGELOG.md", "prometheus/rules"}
    missing = (wanted | {"alertmanager/alertmanager.yml", "deploy/helm/Chart.yaml"}) - held
    require(not missing, f"missing in the files: {missing}")
    ok(f"{' and '.join(built)}, Apache-2.0, the same bytes twice")


def environment(folder: Path, *packages: str) -> Path:
    """Return the folder of the programs of a new virtual environment with these packages."""
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages, cwd=folder)
    return folder / "bin"


def check_client(wheel: Path, folder: Path) -> None:
    """Require that the wheel installs without an index, and that the client imports the standard library alone."""
    programs = environment(folder, "--no-index", str(wheel))
    run(programs / "python", "-I", "-c", CLIENT, cwd=folder)
    ok("client: installed alone, imports the standard library alone")


def check_server(wheel: Path, extra: str, folder: Path, version: str, commands: str) -> None:
    """Require that with an extra commands work, pages and documents are served, and the metrics name the commit."""
    programs = environment(folder, f"{wheel}[{extra}]")
    others = set(run(programs / "python", "-I", "-c", LICENCES, cwd=folder).split())
    documented = set(re.findall(r"`([\w-]+)`", (ROOT / "docs/compatibility.md").read_text("utf-8")))
    require(others <= documented, f"docs/compatibility.md does not name the licences of {others - documented}")
    run("sh", "-ec", commands, cwd=folder, PATH=f"{programs}:{os.environ['PATH']}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*free.getsockname())
    command = [str(programs / "model-exporter"), "serve", f"--web.listen-address={address}"]
    with (folder / "log").open("w") as log, subprocess.Popen(command, cwd=folder, stderr=log) as process:
        try:
            names = (f'version="{version}"', f'revision="{run("git", "rev-parse", "HEAD")}"')
            for path, text in [*(("/metrics", name) for name in names), *PAGES.items()]:
                require(text in _get(f"http://{address}{path}", process), f"{path} does not have {text!r}")
        finally:
            process.terminate()
    require(process.returncode == 0, f"serve ended with {process.returncode}:\n{(folder / 'log').read_text()}")
    ok(f"[{extra}]: {commands.splitlines()[-1]}; metrics, documents, runbooks and pages answer")


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


def check_images(source: Path, version: str) -> None:
    """Require that the images can be built and name the version, if there is an engine on this host."""
    engine = shutil.which("docker") or shutil.which("podman")
    for target in ("server", "batch") if engine else ():
        image = f"model-exporter-check-{target}"
        arguments = (f"VERSION={version}", f"REVISION={run('git', 'rev-parse', 'HEAD')}")
        options = [option for argument in arguments for option in ("--build-arg", argument)]
        run(str(engine), "build", "--target", target, *options, "--tag", image, ".", cwd=source)
        printed = run(str(engine), "run", "--rm", "--entrypoint", "model-exporter", image, "--version")
        require(version in printed, f"the image {target} prints {printed!r}")
        ok(f"image {target}: {printed}")
    if not engine:
        print("--  images were not built: there is neither docker nor podman")


def main() -> None:
    """Run the steps; write the files only if all succeed."""
    version = tagged_version()
    check_texts(version)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source, epoch = clone(folder / "clone"), run("git", "log", "-1", "--format=%ct")
        targets = [Path(tempfile.mkdtemp(dir=folder)) for _ in range(2)]
        (sdist, wheel), again = (build(source, target, epoch) for target in targets)
        same = [one.read_bytes() == other.read_bytes() for one, other in zip((sdist, wheel), again, strict=True)]
        require(all(same), f"two builds of {sdist.name} or {wheel.name} differ")
        check_files(sdist, wheel, version)
        check_client(wheel, folder / "client")
        configured = "echo 'models: [{name: loans}]' > exporter.yml\nmodel-exporter check-config exporter.yml\n"
        check_server(wheel, "server", folder / "server", version, configured)
        (extra,) = re.findall(r'pip install "\.\[(\w+)\]"', QUICK_START)
        rows = "print('age,prediction', *(f'{n},{n % 3}' for n in range(300)), sep='\\n')"
        (block,) = re.findall(r"^```sh\n(.*?)^```$", QUICK_START, re.M | re.S)
        profiled = f'python -c "{rows}" > training.csv\n' + block.removesuffix("model-exporter serve\n")
        check_server(wheel, extra, folder / "readme", version, profiled)
        pip = (folder / "readme/bin/python", "-m", "pip", "install", "--quiet", "--dry-run")
        run(*pip, f"{wheel}[{','.join(EXTRAS)}]", cwd=folder)
        ok("all extras can be installed together")
        check_images(source, version)
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
