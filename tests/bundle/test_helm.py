"""The Helm chart, rendered by Helm's own engine, and the examples beside it, as the API server checks them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from support.paths import ROOT
from support.promtool import groups_of
from support.servers import Served, write_config

from exporter.cli import main
from exporter.config import load

FOLDER = ROOT / "deploy" / "helm"
CHART = helm_python.Chart.load(FOLDER)
EXAMPLES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
EVERYTHING = yaml.safe_load("""
fullnameOverride: monitor
image: {repository: registry.example/model-exporter, tag: "2", pullPolicy: Always}
imagePullSecrets: [{name: registry}]
config: {models: [{name: loans}], queue: {capacity: 10000000}, store: {url: "postgresql://exporter@postgres:5433/monitoring"}}
profiles: {loans.json: '{"a": "{{ b }}\\n"}'}
database: {port: 5433}
extraArgs: [--web.config.file=/etc/web/web.yml, --web.open-metrics]
extraEnv: [{name: TZ, value: UTC}]
extraVolumes: [{name: web, secret: {secretName: web}}]
extraVolumeMounts: [{name: web, mountPath: /etc/web, readOnly: true}]
tls: true
podAnnotations: {team: loans}
nodeSelector: {disk: fast}
tolerations: [{key: batch, operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: high
startupSeconds: 301
ingress: {enabled: true, className: nginx, host: models.example, tlsSecret: models, annotations: {a: b}}
service: {sessionAffinity: None}
autoscaling: {enabled: true, queueLength: "10000"}
podDisruptionBudget: {maxUnavailable: 50%}
networkPolicy: {extraEgress: [{ports: [{port: 9090}]}]}
serviceMonitor: {endpoint: {tlsConfig: {insecureSkipVerify: true}}}
""")
"""Values that use every part of the templates."""
NOTHING = {
    "database": {"passwordSecret": {"name": ""}},
    "resources": {},
    "networkPolicy": {"clientNamespaceLabels": None},
    **{part: {"enabled": False} for part in ("podDisruptionBudget", "serviceMonitor", "rules", "dashboards")},
}


def rendered(values: dict[str, Any] | None = None, name: str = "model-exporter") -> dict[tuple[str, str], Any]:
    """What an installation creates, by kind and name."""
    texts = CHART.render(values, name=name, namespace="monitoring")
    documents = [
        one for file, text in texts.items() if file.endswith(".yaml") for one in yaml.safe_load_all(text) if one
    ]
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


DOCUMENTS = [
    *rendered().values(),
    *(one for path in EXAMPLES for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))),
]
INSTALLED = {"default": DOCUMENTS, "everything": rendered(EVERYTHING).values(), "nothing": rendered(NOTHING).values()}


def of(kind: str) -> list[dict[str, Any]]:
    """The documents of a kind."""
    return [document for document in DOCUMENTS if document["kind"] == kind]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("documents", INSTALLED.values(), ids=INSTALLED)
def test_the_manifests_match_the_schema_of_kubernetes(documents: list[dict[str, Any]], version: str) -> None:
    """No field is missing, of a wrong type, or unknown to the oldest and the newest Kubernetes."""
    for document in documents:
        group = document["apiVersion"].partition("/")[0]
        if "." not in group or group.endswith(".k8s.io"):
            kubernetes_validate.validate(document, version, strict=True)


def test_each_dashboard_is_a_config_map_for_the_sidecar() -> None:
    """A ConfigMap holds one dashboard, the committed one, under the label that the sidecar looks for."""
    maps = of("ConfigMap")
    dashboards: dict[str, str] = {}
    for config_map in maps:
        assert config_map["apiVersion"] == "v1" and set(config_map) == {"apiVersion", "kind", "metadata", "data"}
        assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert all(re.fullmatch(r"[-._a-zA-Z0-9]+", key) for key in config_map["data"])
        dashboards |= config_map["data"]
    folder = ROOT / "grafana" / "dashboards"
    assert dashboards == {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.json")}
    assert all(json.loads(text)["uid"] == name.removesuffix(".json") for name, text in dashboards.items())


def test_the_prometheus_rule_has_the_rules() -> None:
    """An object of ``monitoring.coreos.com/v1`` has the groups of the rule files, which promtool accepts."""
    (rule,) = of("PrometheusRule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1" and rule["spec"] == {"groups": groups_of()}


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


def test_values_change_the_manifests(tmp_path: Path) -> None:
    """Each value does what its comment says."""
    found = rendered(EVERYTHING)
    pod = found["StatefulSet", "monitor"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "registry.example/model-exporter:2"
    assert container["args"][-2:] == EVERYTHING["extraArgs"]
    assert [one["name"] for one in container["env"]] == ["PGPASSWORD", "TZ"]
    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert pod["metadata"]["annotations"].keys() == {"checksum/config", "team"}
    for key in ("nodeSelector", "tolerations", "affinity", "imagePullSecrets"):
        assert pod["spec"][key] == EVERYTHING[key]
    assert "replicas" not in found["StatefulSet", "monitor"]["spec"]
    scaler = found["HorizontalPodAutoscaler", "monitor"]["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "monitor"}
    averages = [(one["type"], one[one["type"].lower()]["target"]["averageValue"]) for one in scaler["metrics"]]
    assert averages == [("Resource", "700m"), ("Pods", "10000")]
    metric = scaler["metrics"][1]["pods"]["metric"]["name"]
    assert f"| `{metric}` |" in (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    (endpoint,) = found["ServiceMonitor", "monitor"]["spec"]["endpoints"]
    assert endpoint == {"port": "http", "interval": "15s", "scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}
    ports = [port["port"] for rule in found["NetworkPolicy", "monitor"]["spec"]["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 5433, 9090]
    data = found["ConfigMap", "monitor"]["data"]
    assert data["loans.json"] == EVERYTHING["profiles"]["loans.json"]
    (tmp_path / "exporter.yml").write_text(data["exporter.yml"])
    assert load(tmp_path / "exporter.yml").queue.capacity == 10_000_000
    pod = rendered({"database": {"passwordSecret": None}})["StatefulSet", "model-exporter"]["spec"]["template"]
    assert "env" not in pod["spec"]["containers"][0]
    assert {kind for kind, _ in rendered(NOTHING)} == {"Service", "StatefulSet", "NetworkPolicy"}


def test_releases_of_other_names_do_not_share_pods() -> None:
    """Names begin with that of the release, selectors name it, and the job is still the one that the rules name."""
    found = rendered(name="team-a")
    assert {name.removeprefix("team-a-model-exporter") for _, name in found} >= {"", "-overview"}
    pods = found["StatefulSet", "team-a-model-exporter"]["spec"]["template"]
    service = found["Service", "team-a-model-exporter"]
    assert service["spec"]["selector"] == pods["metadata"]["labels"]
    assert service["spec"]["selector"]["app.kubernetes.io/instance"] == "team-a"
    assert service["metadata"]["labels"]["app.kubernetes.io/name"] == "model-exporter"
    assert pods["spec"]["volumes"][0]["configMap"]["name"] == "team-a-model-exporter"
    long = rendered(name="a" * 53)
    assert max(len(name) for _, name in long) <= 63


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"replica": 3}, "replica"),
        ({"database": None}, "missing property 'database'"),
        ({"replicas": "3"}, "got string, want integer"),
        ({"replicas": None}, "missing property 'replicas'"),
        ({"autoscaling": {"maxReplicas": None}}, "missing property 'maxReplicas'"),
        ({"autoscaling": {"maxReplicas": 1_000_000}}, "maxReplicas': maximum: got"),
        ({"database": {"passwordSecret": {"key": None}}}, "missing property 'key'"),
        ({"resources": {"limits": "2Gi"}}, "got string, want object"),
        ({"resources": {"request": {"cpu": 1}}}, "additional properties 'request' not allowed"),
        ({"service": {"sessionAffinity": "Client"}}, "sessionAffinity"),
        ({"serviceMonitor": {"interval": 15}}, "got number, want string"),
        ({"fullnameOverride": "Model"}, "fullnameOverride"),
        ({"profiles": {"exporter.yml": "models: []"}}, "invalid propertyName 'exporter.yml'"),
        ({"profiles": {"a: b.json": ""}}, "invalid propertyName 'a: b.json'"),
        ({"serviceMonitor": {"endpoint": {"interval": "30s"}}}, "invalid propertyName 'interval'"),
    ],
)
def test_a_wrong_value_is_refused(wrong: dict[str, Any], message: str) -> None:
    """The message names the value."""
    with pytest.raises(helm_python.HelmValuesError, match=message):
        CHART.validate_schema(wrong)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"autoscaling": {"enabled": True, "cpu": ""}}, "autoscaling: set cpu or queueLength"),
        ({"profiles": {"loans.json": "{}"}}, "profiles: need config"),
        ({"ingress": {"enabled": True}}, "ingress: set host"),
    ],
)
def test_values_that_need_others_are_refused(values: dict[str, Any], message: str) -> None:
    """The message says what to set."""
    with pytest.raises(helm_python.HelmRenderError, match=message):
        rendered(values)


def test_names_that_yaml_reads_as_other_types_stay_names() -> None:
    """Labels and names of digits, or ``true``, are strings, as Kubernetes requires."""
    values = {
        "config": {"models": [{"name": "loans"}]},
        "profiles": {"1": "{}"},
        "modelsConfigMap": "2",
        "database": {"passwordSecret": {"name": "3", "key": "4"}},
        "autoscaling": {"enabled": True},
    }
    documents = [*rendered(values, "123").values(), *rendered({"fullnameOverride": "true", **values}).values()]
    for document in documents:
        if document["apiVersion"] != "monitoring.coreos.com/v1":
            kubernetes_validate.validate(document, "1.30", strict=True)
        assert {type(one) for one in [document["metadata"]["name"], *document["metadata"]["labels"].values()]} == {str}
        if document["kind"] == "ConfigMap":
            assert {type(key) for key in document["data"]} == {str}


def test_the_chart_passes_helm_lint() -> None:
    """There is nothing to say but that an icon is recommended, and the chart has the version of its image."""
    for version in ("v1.30.0", "v1.37.0"):
        report = helm_python.lint(FOLDER, EVERYTHING, strict=True, kube_version=version)
        assert [one["error"] for one in report["messages"]] == ["icon is recommended"] and not report["errors"]
    assert CHART.metadata["version"] == CHART.metadata["appVersion"]
