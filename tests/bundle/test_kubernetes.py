"""What the Helm chart installs, and the examples beside it, held against what the API server checks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.chart import rendered
from support.paths import ROOT
from support.servers import Served, write_config

from exporter.cli import main

FOLDER = ROOT / "deploy" / "kubernetes"
EXAMPLES = [path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))]
DOCUMENTS = [*rendered().values(), *(document for text in EXAMPLES for document in yaml.safe_load_all(text))]
DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
DURATION = re.compile(r"(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)")


def strings(value: Any) -> bool:
    """Whether it is a map of strings to strings."""
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


def of(kind: str) -> list[dict[str, Any]]:
    """The documents of a kind."""
    return [document for document in DOCUMENTS if document["kind"] == kind]


@pytest.mark.parametrize(
    "document",
    [
        document
        for document in DOCUMENTS
        if "." not in document["apiVersion"].partition("/")[0] or ".k8s.io/" in document["apiVersion"]
    ],
    ids=lambda document: f"{document['kind']}-{document['metadata']['name']}",
)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_built_in_kinds_match_the_schema(document: dict[str, Any], version: str) -> None:
    """No field is missing, of a wrong type, or unknown to the oldest and the newest Kubernetes."""
    kubernetes_validate.validate(document, version, strict=True)


def test_each_dashboard_is_a_config_map_for_the_sidecar() -> None:
    """A ConfigMap holds one dashboard, the committed one, under the label that the sidecar looks for."""
    maps = of("ConfigMap")
    dashboards: dict[str, str] = {}
    for config_map in maps:
        assert config_map["apiVersion"] == "v1" and set(config_map) == {"apiVersion", "kind", "metadata", "data"}
        assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert strings(config_map["data"]) and all(DATA_KEY.fullmatch(key) for key in config_map["data"])
        dashboards |= config_map["data"]
    folder = ROOT / "grafana" / "dashboards"
    assert dashboards == {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    assert all(json.loads(text)["uid"] == name.removesuffix(".json") for name, text in dashboards.items())


def test_the_prometheus_rule_has_the_operators_schema() -> None:
    """Groups and rules have the fields and types of ``monitoring.coreos.com/v1``, and are those of the rule files."""
    (rule,) = of("PrometheusRule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1" and set(rule["spec"]) == {"groups"}
    groups = rule["spec"]["groups"]
    assert len({group["name"] for group in groups}) == len(groups)
    for group in groups:
        assert set(group) <= {"name", "interval", "rules"} and group["name"]
        assert DURATION.fullmatch(group.get("interval", "1m"))
        for entry in group["rules"]:
            assert set(entry) <= {"alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"}
            assert ("alert" in entry) != ("record" in entry)
            assert isinstance(entry["expr"], str) and DURATION.fullmatch(entry.get("for", "0s"))
            assert strings(entry.get("labels", {})) and strings(entry.get("annotations", {}))
    written = [
        group
        for path in sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    assert groups == written


def containers() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each container that runs the exporter, and the pod that it is of."""
    pods = [one["spec"]["template"]["spec"] for kind in ("StatefulSet", "Deployment") for one in of(kind)]
    found = [(one, pod) for pod in pods for one in pod.get("initContainers", []) + pod["containers"]]
    return [(one, pod) for one, pod in found if one["name"] == "exporter"]


def test_the_exporter_is_hardened_as_under_compose() -> None:
    """The image, its user, the read-only root and the dropped capabilities are the same as under compose."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["exporter"]
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert user and compose["read_only"] and compose["cap_drop"] == ["ALL"]
    assert len(containers()) == 2
    for container, pod in containers():
        assert container["image"] == compose["image"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert [str(pod["securityContext"][key]) for key in ("runAsUser", "runAsGroup")] == list(user.groups())


def test_the_exporter_serves_with_its_arguments(tmp_path: Path) -> None:
    """The command accepts the arguments; files that they name are mounted, and probes use the right port."""
    for container, pod in containers():
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) <= {volume["name"] for volume in pod["volumes"]}
        assert {"/data", "/tmp"} <= mounts.keys()
        (port,) = container["ports"]
        command, config, address, *others = container["args"]
        assert command == "serve" and config == "--config.file=/etc/model-exporter/exporter.yml"
        assert address == f"--web.listen-address=0.0.0.0:{port['containerPort']}"
        write_config(tmp_path)
        flags = [flag.replace("=/run/model-exporter/", f"={tmp_path}/") for flag in others]
        assert all("=/run/model-exporter/" in flag or "=/" not in flag for flag in others)
        server = Served(tmp_path, *flags).start()
        try:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] == port["name"]
                    assert server.get(container[probe]["httpGet"]["path"]).status == 200
            for flag in flags:
                assert "unix-socket" not in flag or Path(flag.partition("=")[2]).is_socket()
        finally:
            assert server.stop() == 0


def test_selectors_match_the_pods() -> None:
    """Selectors match labels and ports that exist, and the job is the one that the rules name."""
    (pods,) = of("StatefulSet")
    labels = pods["spec"]["template"]["metadata"]["labels"]
    (service,) = of("Service")
    assert service["spec"]["selector"].items() <= labels.items()
    (monitor,) = of("ServiceMonitor")
    assert set(monitor["spec"]) == {"jobLabel", "selector", "endpoints"}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "model-exporter"
    assert [one["port"] for one in monitor["spec"]["endpoints"]] == [one["name"] for one in service["spec"]["ports"]]
    for kind, key in (
        ("NetworkPolicy", "podSelector"),
        ("PodDisruptionBudget", "selector"),
        ("StatefulSet", "selector"),
    ):
        (one,) = of(kind)
        assert one["spec"][key]["matchLabels"].items() <= labels.items()
    (beside,) = of("Deployment")
    (pod_monitor,) = of("PodMonitor")
    assert (
        pod_monitor["spec"]["selector"]["matchLabels"].items()
        <= beside["spec"]["template"]["metadata"]["labels"].items()
    )
    assert pod_monitor["spec"]["podMetricsEndpoints"][0]["relabelings"] == [
        {"targetLabel": "job", "replacement": "model-exporter"}
    ]


def test_kserve_logs_to_the_service() -> None:
    """The inference service names the exporter's service, its port and its route."""
    (service,) = of("Service")
    (inference,) = of("InferenceService")
    assert inference["apiVersion"] == "serving.kserve.io/v1beta1"
    address = re.fullmatch(r"http://([a-z-]+)\.[a-z]+\.svc:(\d+)(/.*)", inference["spec"]["predictor"]["logger"]["url"])
    assert address and inference["spec"]["predictor"]["logger"]["mode"] == "all"
    assert address[1] == service["metadata"]["name"] and int(address[2]) == service["spec"]["ports"][0]["port"]
    assert f"| `POST {address[3]}`" in (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")


def test_the_batch_jobs_run_their_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The jobs send to the exporter's service, and the commands know their flags: only the volume is not there."""
    (service,) = of("Service")
    jobs = [one["spec"]["jobTemplate"]["spec"]["template"]["spec"] for one in of("CronJob") if "loans" in str(one)]
    assert len(jobs) == 2
    for pod in jobs:
        (container,) = pod["containers"]
        assert f"--exporter=http://{service['metadata']['name']}.monitoring.svc:9877" in container["args"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert main(container["args"]) == 1
        assert f"{container['args'][1]}: cannot be read: there is no such file" in capsys.readouterr().err
