"""Numbers as texts, for cells of a table in the colour of their state.

Grafana colours a cell by its own value only, but a threshold may differ for each model. So Prometheus compares: it
turns numbers into labels, and those beyond their threshold end with a mark, to which `style.marked_cell` gives a
colour. The number of digits after the point is constant, so that the texts also sort as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """How a number becomes a text: scaled to a whole number, which a regular expression takes apart."""

    scaled: str
    pattern: str
    text: str


PERCENT = Form("1000000000 + round(10000 * ({}))", "10{0,6}(.+)(..)", "$1.$2 %")
TENTHS_PERCENT = Form("1000000000 + round(1000 * ({}))", "10{0,7}(.+)(.)", "$1.$2 %")
HUNDREDTHS = Form("1000000000 + round(100 * ({}))", "10{0,6}(.+)(..)", "$1.$2")
DEVIATIONS = Form("1000000000 + round(10 * ({}))", "10{0,7}(.+)(.)", "$1.$2 σ")
"""The leading 1 keeps the zeros of numbers below 1."""
MILLISECONDS = Form("round(1000 * ({}))", "(.+)", "$1 ms")
WHOLE = Form("{}", "(.+)", "$1")


def as_label(expr: str, label: str, form: Form, by: str = "model", mark: str = "") -> str:
    """Return an expression that has each value of ``expr`` as the text of a label."""
    counted = f'count_values by ({by}) ("{label}", {form.scaled.format(expr)})'
    return f'label_replace({counted}, "{label}", "{form.text}{mark}", "{label}", "{form.pattern}")'


def marked(expr: str, beyond: str, label: str, form: Form, mark: str) -> str:
    """Return values as texts, with a mark where ``beyond``, such as ``> on (model) t``, leaves a value of ``expr``."""
    return f"{as_label(f'{expr} {beyond}', label, form, mark=f' {mark}')} or on (model) {as_label(expr, label, form)}"


def two(first: str, second: str, between: str, label: str, form: Form, by: str, mark: str = "") -> str:
    """Return two values with the same labels ``by`` as one text, such as ``3 of 50``."""
    other = as_label(f"0 * {first} + on ({by}) {second}", "second", form, by)
    texts = f"{as_label(first, 'first', form, by)} * on ({by}) group_left (second) {other}"
    joined = f'label_join({texts}, "{label}", "{between}", "first", "second")'
    if mark:
        joined = f'label_replace({joined}, "{label}", "$1 {mark}", "{label}", "(.+)")'
    return f"max by ({by}, {label}) ({joined})"
