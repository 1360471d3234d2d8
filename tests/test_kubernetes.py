"""The files for kube-prometheus-stack, held against what the API server checks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana import kubernetes
from grafana.__main__ import files

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "kubernetes"
DOCUMENTS = [one for path in sorted(FOLDER.iterdir()) for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
DATA_KEY = re.compile(r"[-._a-zA-Z0-9]+")
DURATION = re.compile(r"(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)")
MEGABYTE = 1 << 20


def strings(value: Any) -> bool:
    """Whether it is a map of strings to strings."""
    return isinstance(value, dict) and all(isinstance(part, str) for pair in value.items() for part in pair)


def test_the_files_are_what_the_source_says() -> None:
    """``make kubernetes`` would change nothing, byte for byte, and no file is left over."""
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == kubernetes.files(files())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["metadata"]["name"])
def test_metadata(document: dict[str, Any]) -> None:
    """Names and labels are of the form that Kubernetes takes, and no object is too large for it."""
    metadata = document["metadata"]
    assert set(metadata) <= {"name", "labels", "annotations"}
    assert NAME.fullmatch(metadata["name"]) and len(metadata["name"]) <= 253
    assert strings(metadata["labels"]) and strings(metadata.get("annotations", {}))
    for key, value in metadata["labels"].items():
        assert LABEL.fullmatch(value) and len(value) <= 63
        assert LABEL.fullmatch(key.rpartition("/")[2])
    assert len(yaml.safe_dump(document).encode()) < MEGABYTE


def test_names_are_unique() -> None:
    """No object takes another's place."""
    found = [(document["kind"], document["metadata"]["name"]) for document in DOCUMENTS]
    assert len(found) == len(set(found))


def test_each_dashboard_is_a_config_map_for_the_sidecar() -> None:
    """A ConfigMap holds one dashboard, the committed one, under the label that the sidecar looks for."""
    maps = [document for document in DOCUMENTS if document["kind"] == "ConfigMap"]
    held: dict[str, str] = {}
    for one in maps:
        assert one["apiVersion"] == "v1" and set(one) == {"apiVersion", "kind", "metadata", "data"}
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert strings(one["data"]) and all(DATA_KEY.fullmatch(key) for key in one["data"])
        held |= one["data"]
    folder = ROOT / "grafana" / "dashboards"
    assert held == {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert all(json.loads(text)["uid"] == name.removesuffix(".json") for name, text in held.items())


def test_the_prometheus_rule_has_the_operators_schema() -> None:
    """Groups and rules have the fields and types of ``monitoring.coreos.com/v1``, and are those of the rule files."""
    (rule,) = (document for document in DOCUMENTS if document["kind"] == "PrometheusRule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1" and set(rule["spec"]) == {"groups"}
    groups = rule["spec"]["groups"]
    assert len({group["name"] for group in groups}) == len(groups)
    for group in groups:
        assert set(group) <= {"name", "interval", "rules"} and group["name"]
        assert DURATION.fullmatch(group.get("interval", "1m"))
        for one in group["rules"]:
            assert set(one) <= {"alert", "record", "expr", "for", "labels", "annotations"}
            assert ("alert" in one) != ("record" in one)
            assert isinstance(one["expr"], str) and DURATION.fullmatch(one.get("for", "0s"))
            assert strings(one.get("labels", {})) and strings(one.get("annotations", {}))
    written = [
        group
        for path in sorted((ROOT / "prometheus" / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    ]
    assert groups == written
