"""How far reviewers agree, in words."""

from __future__ import annotations

from exporter.server.text import share
from exporter.stats.agreement import Agreement


def agreement_sentence(found: Agreement) -> str:
    """
    >>> agreement_sentence(Agreement(40, 37, 0.85, 0.72, 0.97)).replace("\\N{NO-BREAK SPACE}", " ")
    'Two reviewers agree in 92 % of 40 cards that both decided; kappa 0.85 (95 % interval 0.72 to 0.97).'
    >>> agreement_sentence(Agreement(1, 1)).replace("\\N{NO-BREAK SPACE}", " ")
    'Two reviewers agree in 100 % of 1 card that both decided; kappa is not defined, as all decisions are the same.'
    """
    cards = f"{found.pairs:,} card{'s' if found.pairs != 1 else ''}"
    kappa = (
        "kappa is not defined, as all decisions are the same"
        if found.kappa is None
        else f"kappa {found.kappa:.2f} (95 % interval {found.lower:.2f} to {found.upper:.2f})"
    )
    return f"Two reviewers agree in {share(found.agreed / found.pairs)} of {cards} that both decided; {kappa}."
