"""Describe with text and bars how much the model's answers depend on each feature."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.profiles.weights_record import Weights

_BAR = 30
_NAMED = 3
_NOTHING = 0.005
"""A share of the variance of the predictions that is shown as 0 %."""


def weights_line(weights: Weights) -> str:
    """Return in a line which features the model's answers depend on."""
    heaviest = sorted(weights.features.items(), key=lambda item: -item[1].weight)[:_NAMED]
    if weights.fidelity < _NOTHING:
        return "(weights)  predictions were not found to depend on any feature"
    named = ", ".join(f"{name} ({100 * feature.weight:.0f} %)" for name, feature in heaviest)
    unused = sum(feature.is_hardly_used for feature in weights.features.values())
    rest = f"; {unused:,} of {len(weights.features):,} features are hardly used" if unused else ""
    return f"(weights)  predictions depend most on {named}{rest}"


def weights_lines(weights: Weights | None) -> Iterator[str]:
    """Yield how much the answers depend on each feature, the most important first."""
    if not weights:
        return
    yield from ("", weights_line(weights))
    yield f"  a surrogate, fitted to {weights.rows:,} rows, explains {100 * weights.fidelity:.0f} % of the predictions"
    for name, feature in sorted(weights.features.items(), key=lambda item: (-item[1].weight, -item[1].upper)):
        bar = "█" * round(_BAR * feature.weight)
        most = f"at most {100 * feature.upper:.0f} %" if feature.upper < 1 else ""
        note = "hardly used" if feature.is_hardly_used else most
        yield f"  {100 * feature.weight:4.0f} % {bar:{_BAR}} {name}  {note}".rstrip()
