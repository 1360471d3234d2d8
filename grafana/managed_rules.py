"""The rules as Grafana-managed alert and recording rules, in the format of Grafana's file provisioning.

In such a file, Grafana replaces ``$NAME`` and ``${NAME}`` by environment variables in labels and identifiers, and in
some versions ``${NAME}`` in annotations, but nothing in queries. Only ``${PROMETHEUS_UID}`` is to be replaced, so
annotations contain ``.Labels`` and ``.Values`` in place of ``$labels`` and ``$values``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from grafana import rules

DATASOURCE = "${PROMETHEUS_UID}"
FOLDER = "Models"
TICK = 10
"""Grafana evaluates rules at multiples of this number of seconds."""
LONGEST_UID = 40
_RANGE = {"from": 600, "to": 0}
"""Seconds before now. Grafana needs a range; an instant query only uses its end."""
_NOTES = """\
# For a Grafana that evaluates the rules itself; see docs/grafana.md.
# PROMETHEUS_UID is the UID of the data source: set it in the environment of Grafana, or replace it here.
"""
_SECONDS = {"s": 1, "m": 60, "h": 3600}

_ADDRESS = re.compile(
    r'{{ with (?:query "[^"]*"|printf "[^"]*"[^}|]*\| query) }}{{ \. \| first \| label "(?P<label>\w+)" }}'
    r"{{ else }}(?P<default>http://[\d.:]+){{ end }}"
)
"""The address of the exporter or of Grafana, which Prometheus asks for."""
_THRESHOLD = re.compile(
    r'{{ with printf "(?P<before>[^"{]*){(?:\w+=%q,?)+}(?P<after>[^"]*)"[^|}]*\| query -?}}\s*'
    r"{{ \. \| first \| value \| (?P<format>[^}]+) }}{{ end }}"
)
"""What an alert compares with, which Prometheus asks for."""
_SENTENCE = re.compile(r"\s*{{- with printf .*?\.{{ end }}", re.DOTALL)
"""A sentence that depends on what Prometheus answers, or has a list of it."""
_PERIOD = re.compile(r"&since={{ query [^}]*}}(?:&until={{ query [^}]*}})?")
"""The time range of a link, which Prometheus asks for."""
_VALUE = re.compile(r"{{[^}]*\$value\b[^}]*}}")


def files() -> dict[str, str]:
    """Return the text of each provisioning file by its name."""
    return {
        "alerts.yml": _file("alert", "", _alert),
        "recording-rules.yml": _file("record", "-recording", _recording),
    }


def _file(kind: str, suffix: str, convert: Callable[[Mapping[str, Any]], dict[str, Any]]) -> str:
    """Return a provisioning file with the rules that have the key ``kind``, in the groups of Prometheus."""
    groups = [
        {
            "orgId": 1,
            "name": f"{group['name']}{suffix}",
            "folder": FOLDER,
            "interval": _interval(group["interval"]),
            "rules": [convert(rule) for rule in group["rules"] if kind in rule],
        }
        for group in rules.groups()
    ]
    document = {"apiVersion": 1, "groups": [group for group in groups if group["rules"]]}
    return rules.generated(document, "release-files", _NOTES)


def _interval(text: str) -> str:
    """Return the interval of a group, rounded up to a multiple of `TICK`.

    >>> _interval("5s"), _interval("15s"), _interval("1m")
    ('10s', '20s', '60s')
    """
    seconds = int(text[:-1]) * _SECONDS[text[-1]]
    return f"{-(-seconds // TICK) * TICK}s"


def _uid(name: str) -> str:
    """Return the identifier of a rule. It must not change: Grafana keeps a rule that is no longer in the file.

    >>> _uid("ModelLatencyHigh"), _uid("model_version_feature:kl_divergence_to_threshold:worst")
    ('model-exporter-ModelLatencyHigh', 'model-exporter-e0f694cea498')
    """
    uid = f"model-exporter-{name}"
    if name.isalnum() and len(uid) <= LONGEST_UID:
        return uid
    return f"model-exporter-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _query(ref: str, expr: str) -> dict[str, Any]:
    model = {"refId": ref, "expr": expr, "instant": True, "range": False}
    return {"refId": ref, "relativeTimeRange": _RANGE, "datasourceUid": DATASOURCE, "model": model}


def _fires(ref: str, expr_ref: str) -> dict[str, Any]:
    """Return a condition that holds for every series of a query, whatever its value, as in Prometheus."""
    holds = " || ".join(f"{function}(${expr_ref})" for function in ("is_number", "is_inf", "is_nan"))
    datasource = {"type": "__expr__", "uid": "__expr__"}
    model = {"refId": ref, "type": "math", "expression": holds, "datasource": datasource}
    return {"refId": ref, "relativeTimeRange": _RANGE, "datasourceUid": "__expr__", "model": model}


def _recording(rule: Mapping[str, Any]) -> dict[str, Any]:
    name = rule["record"]
    return {
        "uid": _uid(name),
        "title": name,
        "condition": "A",
        "data": [_query("A", rule["expr"])],
        "record": {"metric": name, "from": "A", "targetDatasourceUid": DATASOURCE},
    }


def _alert(rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return an alert rule: the query A, the condition B and, where the annotations name it, the threshold."""
    name = rule["alert"]
    thresholds = {
        match["before"] + match["after"] for text in rule["annotations"].values() for match in _THRESHOLD.finditer(text)
    }
    if len(thresholds) > 1:
        raise ValueError(f"{name}: the annotations name several thresholds, expected one: {sorted(thresholds)}")
    return {
        "uid": _uid(name),
        "title": name,
        "condition": "B",
        "data": [
            _query("A", _without_name(rule["expr"])),
            _fires("B", "A"),
            *(_query("threshold", _without_name(expr)) for expr in thresholds),
        ],
        "noDataState": "OK",  # no series: the expression of an alert that does not fire
        "execErrState": "Error",
        "for": rule["for"],
        **({"keepFiringFor": rule["keep_firing_for"]} if "keep_firing_for" in rule else {}),
        "missing_series_evals_to_resolve": 1,
        "annotations": {key: _annotation(f"{name}, {key}", text) for key, text in rule["annotations"].items()},
        "labels": dict(rule["labels"]),
    }


def _without_name(expr: str) -> str:
    """Return an expression whose series have no label ``__name__``.

    Alerts have none in Prometheus, and Grafana joins two queries only where the labels of one contain those of the
    other. An aggregation without labels removes nothing else.
    """
    lines = "\n".join(f"  {line}" for line in expr.strip().splitlines())
    return f"sum without () (\n{lines}\n)\n"


def _value_of(ref: str, text: str) -> str:
    """Return a template that is empty where an alert is sent without a value of the query."""
    return f"{{{{ with .Values.{ref} }}}}{text}{{{{ end }}}}"


def _annotation(where: str, text: str) -> str:
    """Return an annotation without what Grafana's templates do not have: ``query``, and ``$value`` as a number.

    ``externalURL`` is the address of Grafana, and ends with a slash.
    """
    text = _ADDRESS.sub(
        lambda match: match["default"] if match["label"] == "external_url" else "{{ externalURL }}", text
    )
    text = text.replace("{{ externalURL }}/", "{{ externalURL }}")
    text = _PERIOD.sub("", _SENTENCE.sub("", text))
    text = _THRESHOLD.sub(lambda match: _value_of("threshold", f"{{{{ .Value | {match['format']} }}}}"), text)
    # A label that the alert does not have: Prometheus writes nothing, Grafana would write "[no value]".
    text = re.sub(r"{{ \$labels\.(\w+) \| urlquery }}", r"{{ with .Labels.\1 }}{{ . | urlquery }}{{ end }}", text)
    text = _VALUE.sub(lambda match: _value_of("A", match[0].replace("$value", ".Value")), text).replace(
        "$labels.", ".Labels."
    )
    if "$" in text or re.search(r"{{[^}]*\bquery\b", text):
        raise ValueError(f"{where}: Grafana's templates have no query() and no variables of this name: {text}")
    return text
