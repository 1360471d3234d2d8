"""docker-compose.yml and the Dockerfile: what can be checked without an engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml
from support.paths import ROOT
from support.programs import require
from support.servers import Served, write_config

from demo.up import ADDRESSES

DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Ports inside the containers that configuration files and commands may name.
PORTS = {
    "exporter": 9877,
    "demo": 8000,
    "prometheus": 9090,
    "alertmanager": 9093,
    "grafana": 3000,
    "mail": 8025,
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The project as docker compose itself reads it."""
    require("docker-compose", 2)
    command = ["docker-compose", "--file", str(ROOT / "docker-compose.yml"), "config", "--format", "json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def services(project: dict[str, Any]) -> dict[str, Any]:
    return project["services"]


def test_the_services_are_the_documented_ones(services: dict[str, Any]) -> None:
    """Six services run, and two prepare their files."""
    assert set(services) == {*PORTS, "prepare", "receivers"}


def test_ports_are_published_on_localhost_with_the_same_number(services: dict[str, Any]) -> None:
    """Every port is published on localhost only, and has the same number inside and outside."""
    published = {
        name: [(port["host_ip"], int(port["published"]), port["target"]) for port in service.get("ports", [])]
        for name, service in services.items()
    }
    assert published == {
        "prepare": [],
        "receivers": [],
        **{name: [("127.0.0.1", port, port)] for name, port in PORTS.items()},
    }


def test_ports_are_those_of_make_up() -> None:
    """Addresses in documents and links are valid for `make up` and for the containers."""
    names = {"demo": "service"}
    for name, port in PORTS.items():
        if name != "mail":
            assert ADDRESSES[names.get(name, name)] == f"127.0.0.1:{port}"


def test_every_image_is_pinned(services: dict[str, Any]) -> None:
    """Images are pinned to a patch version and its digest, and ours to the version of the package."""
    version = yaml.safe_load((ROOT / "deploy" / "helm" / "Chart.yaml").read_text())["appVersion"]
    for service in services.values():
        digest = "" if "build" in service else r"@sha256:[0-9a-f]{64}"
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+" + digest, service["image"])
    ours = {service["image"] for service in services.values() if "build" in service}
    assert ours == {f"model-exporter:{version}"}
    bases = re.findall(r"^FROM (python\S*)", DOCKERFILE, re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.12\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", bases[0])


def test_containers_run_with_minimal_privileges(services: dict[str, Any]) -> None:
    """Containers have a read-only file system, bounds, no capabilities, and cannot gain privileges.

    The one that copies secrets of the host's user runs once, as root, without a network.
    """
    once = services["receivers"]
    assert (once["user"], once["cap_add"], once["network_mode"], once["restart"]) == (
        "0:0",
        ["CHOWN", "DAC_OVERRIDE"],
        "none",
        "no",
    )
    assert services["exporter"]["stop_grace_period"] == "30s"
    for name, service in services.items():
        assert "cap_add" not in service or name == "receivers"
        assert service["mem_limit"], name
        assert service["logging"]["options"]["max-size"], name
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged")


def test_host_names_in_commands_and_variables_are_services(services: dict[str, Any]) -> None:
    """Every address inside the network is a service and a port that it listens on."""
    addresses = {f"{name}:{port}" for name, port in PORTS.items()} | {"mail:1025"}
    for service in services.values():
        texts = [*(service.get("command") or []), *(service.get("environment") or {}).values()]
        for host in re.findall(r"(?:https?://|=)([a-z][a-z.]*:\d+)", " ".join(texts)):
            assert host in addresses
        for local in re.findall(r"http://127\.0\.0\.1:(\d+)", " ".join(texts)):
            assert int(local) in PORTS.values()


def test_prometheus_scrapes_the_services(services: dict[str, Any]) -> None:
    """The targets for containers are the services, with one file for each file of the targets on one machine."""
    folder = ROOT / "prometheus" / "targets-compose"
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (ROOT / "prometheus/targets").iterdir())
    targets = {
        t for file in folder.glob("*.yml") for group in yaml.safe_load(file.read_text()) for t in group["targets"]
    }
    assert targets == {f"{name}:{PORTS[name]}" for name in ("exporter", "prometheus", "alertmanager")}
    mounts = {mount["target"]: mount["source"] for mount in services["prometheus"]["volumes"]}
    assert mounts["/etc/prometheus/targets"] == str(folder)
    config = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text())
    for job in config["scrape_configs"]:
        for discovery in job["file_sd_configs"]:
            assert all((ROOT / "prometheus" / name).is_file() for name in discovery["files"])
    assert config["rule_files"] == ["rules/*.yml"]
    assert "/etc/prometheus/rules" in mounts


def test_the_preparation_creates_the_files(services: dict[str, Any], tmp_path: Path) -> None:
    """Two services write the demo's files, and an alertmanager.yml for the mail catcher and the exporter's inbox.

    A secret reaches Alertmanager's user, whoever owns the file on the host.
    """
    folder = tmp_path / "etc" / "alertmanager"
    shutil.copytree(ROOT / "alertmanager", folder, ignore=lambda folder, names: {"secrets"} & {*names})
    (folder / "secrets").mkdir()
    (folder / "secrets" / "webhook_url").write_text("http://pager.example/hook")
    (folder / "secrets" / "webhook_url").chmod(0o600)
    (tmp_path / "data" / "alertmanager").mkdir(parents=True)
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "PYTHONPATH": str(ROOT)}
    printed = ""
    for name in ("prepare", "receivers"):
        (script,) = services[name]["command"]
        script = re.sub(r"/(etc|data)/", lambda match: str(tmp_path) + match[0], script)
        if os.geteuid():
            script = script.replace("owner=65534", f"owner={os.geteuid()}")
        result = subprocess.run(
            [*services[name]["entrypoint"], script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, "")
        printed += result.stdout
    assert "Not configured: Slack, Webhook; see docs/notifications.md.\n" in printed
    assert (tmp_path / "data" / "demo" / "exporter.yml").is_file()
    config = yaml.safe_load((tmp_path / "data" / "alertmanager" / "alertmanager.yml").read_text())
    assert config["global"]["smtp_smarthost"] == "mail:1025"
    assert config["global"]["smtp_require_tls"] is False
    hooks = [hook for receiver in config["receivers"] for hook in receiver.get("webhook_configs", [])]
    assert f"http://exporter:{PORTS['exporter']}/v1/notifications" in [hook.get("url") for hook in hooks]
    (secret,) = (Path(hook["url_file"]) for hook in hooks if "url_file" in hook)
    assert secret.parent == tmp_path / "data" / "alertmanager"
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("http://pager.example/hook", 0o600)
    assert secret.stat().st_uid == (os.geteuid() or 65534)
    assert any("email_configs" in receiver for receiver in config["receivers"])


def test_a_failed_preparation_is_an_error(tmp_path: Path) -> None:
    """Without a source the command ends with a message and a non-zero status."""
    command = [
        sys.executable,
        "-m",
        "demo.receivers",
        "no.yml",
        str(tmp_path / "a.yml"),
        "--inbox=http://a/",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("python -m demo.receivers: no.yml: ")


def test_alertmanager_reads_the_prepared_configuration(services: dict[str, Any]) -> None:
    """Paths of templates in the prepared file are valid in Alertmanager's container."""
    for source, target in (("/etc/alertmanager", ROOT / "alertmanager"), ("/data/alertmanager", "alertmanager-config")):
        for name in ("receivers", "alertmanager"):
            mounts = {mount["target"]: mount["source"] for mount in services[name]["volumes"]}
            assert mounts[source] == str(target)
    written = re.search(r"receivers /etc/alertmanager/alertmanager.yml (\S+)", services["receivers"]["command"][0])
    assert written
    assert f"--config.file={written[1]}" in services["alertmanager"]["command"]


def test_commands_of_our_image_are_valid(services: dict[str, Any]) -> None:
    """The compose file and the Dockerfile use options that the program has."""
    from demo.__main__ import PROGRAM
    from exporter.cli import build_parser

    default = json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[0])
    prepare = services["prepare"]["command"][0].splitlines()[0].split()
    assert [prepare.pop(0) for _ in range(3)] == ["python", "-m", "demo"]
    for arguments in (services["exporter"]["command"], default):
        build_parser(arguments).parse_args(arguments)
    for arguments in (services["demo"]["command"], prepare):
        build_parser(arguments, PROGRAM).parse_args(arguments)
    for arguments in (services["exporter"]["command"], default):
        assert f"--web.listen-address=0.0.0.0:{PORTS['exporter']}" in arguments
    assert re.search(rf"^EXPOSE {PORTS['exporter']}$", DOCKERFILE, re.MULTILINE)


def test_the_health_check_accepts_authentication(tmp_path: Path) -> None:
    """The image's health check accepts an exporter that requires a password, and fails without an exporter."""
    write_config(tmp_path)
    hashed = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
    (tmp_path / "web.yml").write_text(json.dumps({"basic_auth_users": {"ada": hashed}}))
    served = Served(tmp_path, f"--web.config.file={tmp_path / 'web.yml'}").start()
    (check,) = re.findall(r"^    CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    _, *arguments = json.loads(check.replace(f", {PORTS['exporter']},", f", {served.port},"))
    with served:
        assert subprocess.run([sys.executable, *arguments], check=False).returncode == 0
    assert subprocess.run([sys.executable, *arguments], capture_output=True, check=False).returncode == 1


def test_grafana_is_provisioned_by_variables_that_are_set(services: dict[str, Any]) -> None:
    """The data source and the dashboards come from the mounted folder, through variables that the service sets."""
    grafana = services["grafana"]
    assert {mount["target"]: mount["source"] for mount in grafana["volumes"]}["/srv/grafana"] == str(ROOT / "grafana")
    folder = ROOT / "grafana" / "provisioning"
    assert grafana["environment"]["GF_PATHS_PROVISIONING"] == "/srv/grafana/provisioning"
    used = {name for file in folder.rglob("*.yml") for name in re.findall(r"\$\{(\w+)\}", file.read_text())}
    assert used == {"PROMETHEUS_URL", "DASHBOARDS_FOLDER"}
    assert used <= set(grafana["environment"])
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["uid"], source["type"], source["url"]) == ("prometheus", "prometheus", "${PROMETHEUS_URL}")
    assert grafana["environment"]["PROMETHEUS_URL"] == f"http://prometheus:{PORTS['prometheus']}"


def test_the_lock_files_agree() -> None:
    """Each package of the images and of the demo is tested, with the same hashes; no file has an address."""
    entries = {
        file.name: re.findall(r"^[a-z].*(?:\n    .*)*", re.sub(r" (;.*)?\\\n", "\n", file.read_text()), re.MULTILINE)
        for file in ROOT.glob("requirements*.lock")
    }
    for name, found in entries.items():
        assert name == "requirements-spark.lock" or set(found) <= set(entries["requirements-dev.lock"]), name
        assert "://" not in (ROOT / name).read_text()
    names = {name: {entry.partition("==")[0] for entry in found} for name, found in entries.items()}
    assert {"httptools", "setuptools", "aiohttp"} <= names["requirements.lock"]
    assert not {"pyarrow", "scipy", "scikit-learn", "pandas", "duckdb"} & names["requirements.lock"]
    assert "pyarrow" in names["requirements-batch.lock"]
    assert "scikit-learn" in names["requirements-demo.lock"]


def test_the_image_runs_without_root_on_the_locked_packages() -> None:
    """The image runs as a numeric user, with packages from the lock file and their hashes; the demo is last."""
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert stages[-4:] == ["runtime", "server", "batch", "demo"]
    runtime = DOCKERFILE.partition(" AS runtime\n")[2].partition("\nFROM ")[0]
    assert re.findall(r"^USER (.*)$", runtime, re.MULTILINE) == ["10001:10001"]
    assert "--require-hashes" in DOCKERFILE
    assert "curl" not in DOCKERFILE
    for path in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE):
        for name in path.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()
