"""Write the rules of Prometheus from the templates, and what repeats their thresholds.

Run ``python prometheus/generate.py``. A template is a file of rules in which ``<<expression>>`` is replaced by the text
of a Python expression: what all rules have in common is written once, here. A rule with ``part: NAME`` is not recorded:
its expression takes the place of the name where others use it. The result is in ``prometheus/rules/``.
The default of a threshold stands in the templates alone: `exporter/config.py` and the tables of the
documents are written from the rules.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECENTLY = "2m"
"""For how long a value that is scraped no more stands for the present: an alert outlasts missed scrapes."""
CHANCE = 0.001
"""Probability of a count by chance at which it is no longer explained by it."""
SILENCE = 14
"""Requests that are missing from a silence for which there is more than chance: e^-14 is one in a million."""
CERTAIN = 1.576
"""Times that an interval is wider that is wrong on one side in one of 1,000 cases, in place of one of 40."""
OF_OBJECTIVES = ("ModelErrorBudgetBurn", "ModelLatencyBudgetBurn")
"""The alerts whose thresholds are a model's objectives."""
PER_FEATURE = "ModelFeatureDrift", "ModelFeatureMeanShift", "ModelFeatureMissing", "ModelInputsChanged"
_CALL = re.compile(r"<<(.+?)>>")
_ALONE = re.compile(r"^( *)<<((?:(?!>>).)+)>>( *(?:#.*)?)$")
_THRESHOLD = re.compile(r"\bor ([\d.]+) \* ")
_MARKED = re.compile(r"((?:#|<!--) begin: generated[^\n]*\n).*?((?:#|<!--) end: generated)", re.DOTALL)
_PART = re.compile(
    r"(?:^ {6}#[^\n]*\n)*^ {6}- part: (\S+)\n {8}expr:(?: \|\n((?:(?: {10}[^\n]*)?\n)+)| ([^\n]+\n\n?))", re.MULTILINE
)
_UNIT = re.compile(r"record: model\w*:threshold:(\w+) # (.+)")
_DEFAULT = re.compile(r"(The default is )[\d.]*\d(%)?")


def recent(series: str, offset: str = "") -> str:
    """Return the latest value of a series within `RECENTLY`."""
    return f"last_over_time({series}[{RECENTLY}]{offset and f' offset {offset}'})"


def newest(series: str, by: str) -> str:
    """Return a gauge whose label may change: the present one, or else the latest."""
    return f"({series} or {recent(series)} unless on ({by}) {series})"


def known(series: str) -> str:
    """Return the latest value of a series of which a restart of the exporter must not lose sight."""
    return f"last_over_time({series}[5m])"


def configured(labels: str) -> str:
    """Return a threshold that exporter.yml sets: NaN for ``off``."""
    return f"({known(f'model_alert_threshold{{{labels}}}')} >= 0 or NaN * ({off(labels)}))"


def off(labels: str) -> str:
    """Return the alerts that are ``off``, which exporters export as -1, unless a replica with the model sets nothing.

    A replica that sets a number prevails, too, as the maximum of a number and NaN is the number.
    """
    series = known(f"model_alert_threshold{{{labels}}}")
    others = f"{known('model_exporter_links_info')} unless on (job, instance, model) {series}"
    return f"{series} < 0 unless on (model) ({others})"


def threshold(
    alert: str, default: float, unit: str, by: str = "group by (model) (last_over_time(model_info[5m]))"
) -> str:
    """Return the rule of a threshold that a model may set; ``off`` is NaN, with which no comparison is true."""
    return dedent(f"""\
        - record: model:threshold:{alert} # {unit}
          expr: |
            max by (model) {configured(f'alert="{alert}"')}
            or {default:g} * {by}""")


def feature_threshold(alert: str, default: float, unit: str) -> str:
    """Return the rule of a threshold that a model or a feature may set."""
    of_feature = configured(f'alert="{alert}",feature!=""')
    of_model = configured(f'alert="{alert}",feature=""')
    return dedent(f"""\
        - record: model_feature:threshold:{alert} # {unit}
          expr: |
            max by (model, feature) {of_feature}
            or model_feature:info * on (model) group_left max by (model) {of_model}
            or {default:g} * model_feature:info""")


def unless_off(alert: str) -> str:
    """Return the end of the expression of an alert without a figure, which is silent where it is ``off``."""
    labels = f'alert="{alert}",feature=""'
    return f"unless on (model) ({off(labels)})"


def unless_unnamed(requests: str, labels: str = "") -> str:
    """Return the end of an expression about versions that leaves out requests that name none, if they are few.

    A few requests without a version are often errors alone, so their latency or confidence is not that of a version.
    They are few where they are less than a tenth of the model's requests, which ``requests`` is by version.
    """
    unnamed = f'{requests}{{{labels}{labels and ","}version="unknown"}}'
    of_model = f"sum by (model) ({requests}{labels and f'{{{labels}}}'})"
    return f"unless on (model, version) ({unnamed} < on (model) group_left () 0.1 * {of_model})"


def increase(series: str, by: str, window: str = "1h") -> str:
    """Return the increase of a counter, summed over replicas, with the first value of a new series.

    `increase` alone would lose that value: a batch may arrive between two scrapes, and the first of three corrections
    may create the series. It counts only where the target was scraped a window before, or is younger than two of them:
    otherwise the series may be old, and only Prometheus new. After a reset, `min_over_time` is too small rather than
    too large.
    """
    seconds = 86400 if window == "1d" else 3600
    return dedent(f"""\
        sum by ({by}) (
          increase({series}[{window}])
          + (
            min_over_time({series}[{window}])
            unless present_over_time({series}[{window}] offset {window})
            and on (job, instance) (
              present_over_time(up[{window}] offset {window})
              or {recent("process_start_time_seconds")} > time() - {2 * seconds}
            )
          )
          or increase({series}[{window}])
        )""")


def counted(series: str, window: str) -> str:
    """Return how much a recorded counter has grown in a window: exactly, as recorded series have no missed scrapes.

    `increase` is only for a counter that was reset, or that began or ended in the window.
    """
    grown = f"{series} - {series} offset {window} >= 0 or increase({series}[{window}])"
    return f'label_replace({grown}, "window", "{window}", "", "")'


def tail(k: str, n: str, p: str, on: str = "") -> str:
    """Return the probability of at least ``k`` of ``n`` events that each happen with probability ``p``.

    It is the tail of the binomial distribution, or a little more. With q = 1 - p, the probability of exactly k is at
    most

        exp(k ln(n p / k) + (n - k) ln(n q / (n - k)))
        * sqrt((2 pi n + 1.11) / ((2 pi k + 1) (2 pi (n - k) + 1)))

    by Robbins' bounds of factorials. One more event has at most (n - k) p / ((k + 1) q) times that probability, and so
    on: a geometric series. There is a result only for a share above p, and for two events at least.
    """
    times = f"* {on} " if on else "* "
    above = f"> {on} " if on else "> "
    return dedent(f"""\
        exp(
          {k}
          * ln({n} / {k} {times}({p}))
          + ({n} - {k})
          * ln({n} / clamp_min({n} - {k}, 1) {times}(1 - {p}))
        )
        * sqrt(
          (2 * pi() * {n} + 1.11)
          / (2 * pi() * {k} + 1)
          / (2 * pi() * ({n} - {k}) + 1)
        )
        / (
          1 - ({n} - {k}) / ({k} + 1)
          {times}({p} / (1 - {p}))
        )
        and {k} / {n} {above}({p})
        and {k} >= 2""")


def missing(of: str) -> str:
    """Return the values of a window, all or those that are missing or invalid, where these are too many."""
    return f'sum without (of) (model_version_feature_window:missing:count{{of="{of}"}})'


def slow_beyond_chance(series: str = "model_version_le:request_duration_seconds_bucket:rate5m") -> str:
    """Return the condition that chance does not explain why more than one request in 20 is too slow.

    Where the quantile of 1 - x is above the threshold, a share x of the requests is too slow at least. Each x has a
    number of requests from which on the tail of the binomial distribution is at most `CHANCE`. At the longest scrape
    interval, the samples of a rate are four minutes apart, so the requests of four minutes are counted.
    """
    quantiles = {0.1: 0.9, 0.5: 0.5, 0.7: 0.3, 0.8: 0.2, 0.9: 0.1, 0.92: 0.08, 0.94: 0.06}
    return "\nor ".join(
        f"(histogram_quantile({quantile}, {series}) > on (model) group_left () model:threshold:ModelLatencyHigh"
        f' and on (model, version) 240 * {series}{{le="+Inf"}} >= {_enough(share, 0.05) - 0.001})'
        for quantile, share in quantiles.items()
    )


def _enough(share: float, expected: float) -> int:
    """Return from how many events on a share of them is too much for an expected share, as `tail` has it."""
    number = 50_000
    while (k := math.floor(share * number + 1e-9)) >= 2 and k / number > expected:
        rest = number - k
        point = k * math.log(number * expected / k) + rest * math.log(number * (1 - expected) / max(rest, 1))
        spread = (math.tau * number + 1.11) / (math.tau * k + 1) / (math.tau * rest + 1)
        if math.exp(point) * spread**0.5 / (1 - rest / (k + 1) * expected / (1 - expected)) > CHANCE:
            break
        number -= 1
    return number + 1


def burn(objective: str) -> str:
    """Return the condition that the budget of an objective burns too fast, with the ratio of the short window.

    At 14.4 times the sustainable rate the budget of 30 days is gone in two days, at 6 times in five. A low objective
    cannot be missed so many times: then 90% of the requests must fail. The long window shows that the loss matters
    and is not chance, the short one that it continues: with two failures, or if nothing succeeds in half an hour.
    """
    budget = f"round(1 - model:threshold:Model{'Error' if objective == 'errors' else 'Latency'}BudgetBurn, 1e-9)"

    def of(name: str, window: str) -> str:
        return f'model_version_window:objective_{name}{{objective="{objective}",window="{window}"}}'

    def failed(window: str) -> str:
        return f"{of('failures:increase', window)} / {of('requests:increase', window)}"

    def windows(factor: float, short: str, long: str, otherwise: str) -> str:
        limit = f"> on (model) group_left () clamp_max({factor:g} * {budget}, 0.9)"
        chance = tail(of("failures:increase", long), of("requests:increase", long), budget, "on (model) group_left ()")
        return "\n".join(
            (
                f"{failed(short)} {limit}",
                f"and ({of('failures:increase', short)} >= 2{otherwise})",
                f"and ignoring (window) ({failed(long)} {limit})",
                f"and ignoring (window) (\n  (\n{indent(chance, '    ')}\n  ) <= {CHANCE}\n)",
            )
        )

    fast = windows(14.4, "5m", "1h", "")
    slow = windows(6, "30m", "6h", f" or {failed('30m')} == 1")
    both = f"(\n{indent(fast, '  ')}\n)\nor\n(\n{indent(slow, '  ')}\n)"
    return f"max by (model, version) (\n{indent(both, '  ')}\n)"


def link(path: str, label: str = "model") -> str:
    """Return a link to a page of the exporter, at the address that it exports, or that of ``make up``."""
    return _address("external_url", "http://127.0.0.1:9877", label) + path


def board(path: str, label: str = "model") -> str:
    """Return a link to a dashboard, likewise."""
    return _address("dashboards_url", "http://127.0.0.1:3000", label) + f"/d/{path}"


def _address(name: str, default: str, label: str) -> str:
    if label in ("model", "instance"):
        series = f"model_exporter_links_info{{{label}=%q}}"  # while an exporter restarts, its last one
        query = f'printf "{series} or last_over_time({series}[1h])" $labels.{label} $labels.{label} | query'
    elif label == "any model":
        query = 'printf "model_exporter_links_info{model=%q} or model_exporter_links_info" $labels.model | query'
    elif label == "any":
        query = 'query "model_exporter_links_info"'
    else:  # of an exporter that runs; else the last one of the day
        last = "topk(1, max_over_time(timestamp(model_exporter_links_info)[1d:15s]))"
        query = f'query "model_exporter_links_info or {last}"'
    return f'{{{{ with {query} }}}}{{{{ . | first | label "{name}" }}}}{{{{ else }}}}{default}{{{{ end }}}}'


def limit(series: str, form: str = "humanizePercentage", labels: str = "model", less: str = "") -> str:
    """Return the part of a description that is the threshold; ``less`` is subtracted from it."""
    names = labels.split()
    selector = ",".join(f"{name}=%q" for name in names)
    values = " ".join(f"$labels.{name}" for name in names)
    rest = less and f" - on (model) group_left () {less}"
    asked = f'{{{{ with printf "{series}{{{selector}}}{rest}" {values} | query -}}}}'
    return f"{asked} {{{{ . | first | value | {form} }}}}{{{{ end }}}}"


def features(expr: str) -> str:
    """Return the part of a message that names the features of an expression, each with what is different.

    The sentence is that of the page /drift as far as metrics tell, of the window whose score is highest. Predictions,
    confidences and the correlation are only named.
    """
    here = "model=%q,version=%q,feature=%q,window=%q,instance=%q"
    values = " $labels.model $labels.version $feature $window $instance"

    def ask(text: str) -> str:
        return f"{{{{ with printf `{text.replace('*', here)}`{values * text.count('*')} | query }}}}"

    def first(form: str) -> str:
        return f"{{{{ . | first | value | {form} }}}}"

    missing, invalid, trained = (
        f"model_feature_{name}_ratio{{*}}" for name in ("missing", "invalid", "reference_missing")
    )
    return "".join(
        (
            f"{{{{- range printf `{expr}` $labels.model $labels.version | query }}}}",
            "{{ $feature := .Labels.feature }}",
            "{{ with printf `topk(1, model_feature_kl_divergence{model=%q,version=%q,feature=%q})`",
            " $labels.model $labels.version $feature | query }}",
            '{{ $window := . | first | label "window" }}{{ $instance := . | first | label "instance" }}',
            " {{ $feature }}: KL divergence " + first('printf "%.2f"'),
            ask("model_feature_mean{*} and abs(model_feature_mean_shift{*}) > 0.1"),
            ", mean " + first('printf "%.4g"'),
            "{{ with printf `model_feature_reference_mean{model=%q,version=%q,feature=%q}`",
            " $labels.model $labels.version $feature | query }}",
            ", " + first('printf "%.4g"') + " in training{{ end }}{{ end }}",
            ask("model_feature_unseen_ratio{*} > 0.01"),
            ", " + first("humanizePercentage") + " outside of what training had{{ end }}",
            ask(f"{missing} + {invalid} - {trained} > 0.01"),
            ", " + first("humanizePercentage") + " more missing or invalid than in training{{ end }}",
            ".{{ else }} {{ $feature }}.{{ end }}{{ end }}",
        )
    )


def of(*names: str) -> str:
    """Return the variables of a dashboard's link."""
    return "&".join(f"var-{name}={{{{ $labels.{name} | urlquery }}}}" for name in names)


NAMES = {name: value for name, value in globals().items() if callable(value)} | {
    "CHANCE": CHANCE,
    "SILENCE": SILENCE,
    "CERTAIN": CERTAIN,
}


def render(text: str) -> str:
    """Return the rules of a template."""
    lines = []
    for line in text.splitlines():
        if alone := _ALONE.match(line):
            space, call, comment = alone.groups()
            lines.append(indent(str(eval(call, NAMES)), space) + comment)
        else:
            lines.append(_CALL.sub(lambda match: str(eval(match[1], NAMES)), line))
    return folded("\n".join(lines) + "\n")


def folded(text: str) -> str:
    """Return rules without their parts, whose expressions stand where their names did."""
    while found := _PART.search(text):
        name, block, line = found.groups()
        text = text.replace(found[0], "")
        expr = dedent(block or line).strip()

        def put(match: re.Match[str], expr: str = expr) -> str:
            space = match[1]
            return match[0].replace(match[2], f"(\n{indent(expr, space + '  ')}\n{space})")

        place = re.compile(rf"^( *)[^\n]*?(?<![\w:])({re.escape(name)})(?![\w:])", re.MULTILINE)
        while place.search(text):
            text = place.sub(put, text)
    return text


def rules(texts: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield every rule."""
    for text in texts.values():
        for group in yaml.safe_load(text)["groups"]:
            yield from group["rules"]


def defaults(texts: dict[str, str]) -> dict[str, float]:
    """Return the default of each threshold that can be set, by the name of the alert."""
    recorded = {rule["record"]: rule["expr"] for rule in rules(texts) if "record" in rule}
    return {
        name.rpartition(":")[2]: float(numbers[-1])
        for name, expr in sorted(recorded.items(), key=lambda item: item[0].rpartition(":")[2])
        if re.fullmatch(r"model(_feature)?:threshold:\w+", name) and (numbers := _THRESHOLD.findall(expr))
    }


def outputs() -> dict[Path, str]:
    """Return the text of each generated file by its path."""
    header = "# Generated by `make rules` from prometheus/templates/. Do not edit.\n"
    texts = {path.name: header + render(path.read_text("utf-8")) for path in sorted((HERE / "templates").glob("*.yml"))}
    figures = {name: value for name, value in defaults(texts).items() if name not in OF_OBJECTIVES}
    lines = "".join(
        f'    "{name}": Threshold({figures.get(name, "")}{", per_feature=True" if name in PER_FEATURE else ""}),\n'
        for name in sorted({rule["alert"] for rule in rules(texts) if _is_of_model(rule)})
    )
    units = dict(_UNIT.findall("".join(texts.values())))
    rows = "".join(
        f"| `{name}` | {'yes' if name in PER_FEATURE else 'no'} | {units[name]} | {_spelt(figure)} |\n"
        for name, figure in figures.items()
    )
    table = f"| alert | can be set for a feature | unit | default |\n|---|---|---|---|\n{rows}"
    files = {HERE / "rules" / name: text for name, text in texts.items()}
    for path, block in (
        (ROOT / "exporter" / "config.py", f"{lines}    "),
        (ROOT / "docs" / "configuration.md", table),
    ):
        files[path] = _MARKED.sub(rf"\g<1>{block}\g<2>", path.read_text("utf-8"))
    for name, figure in figures.items():
        path = ROOT / "docs" / "runbooks" / f"{name}.md"
        files[path] = _DEFAULT.sub(
            lambda match, figure=figure: f"{match[1]}{_spelt(figure * 100 if match[2] else figure)}{match[2] or ''}",
            path.read_text("utf-8"),
        )
    return files


def _spelt(number: float) -> str:
    return f"{number:.10g}"


def _is_of_model(rule: dict[str, Any]) -> bool:
    return "alert" in rule and "$labels.model" in rule["annotations"]["summary"]


def main() -> None:
    """Write the files; with ``--check``, say which differ instead."""
    stale = {path: text for path, text in outputs().items() if not path.exists() or path.read_text("utf-8") != text}
    if "--check" in sys.argv and stale:
        sys.exit(f"run make rules: its source has changed for {', '.join(path.name for path in stale)}")
    for path, text in stale.items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
