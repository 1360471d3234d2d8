"""The Helm chart, rendered by Helm's own engine: its values, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from support.chart import CHART, FOLDER, rendered
from support.paths import ROOT

from exporter.config import load

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


@pytest.mark.parametrize("values", [EVERYTHING, NOTHING], ids=["everything", "nothing"])
def test_the_manifests_match_the_schema_of_kubernetes(values: dict[str, Any]) -> None:
    """No field is missing, of a wrong type, or unknown to the oldest and the newest Kubernetes."""
    for document in rendered(values).values():
        if document["apiVersion"] != "monitoring.coreos.com/v1":
            for version in ("1.30", "1.37"):
                kubernetes_validate.validate(document, version, strict=True)


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
