"""Training rows with an input of every type."""

from __future__ import annotations

import numpy as np

NAMES = ("Ada", "Bob", "Chen", "Dunja", "Eve")
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("", "n", "r", "st")]


def sentences(rng: np.random.Generator, count: int) -> list[str]:
    """Texts whose words are as unequally frequent as a language's, each third followed by a number."""
    picked = np.minimum(rng.zipf(1.3, size=(count, 12)), len(WORDS) * 20) - 1
    return [" ".join(f"{WORDS[w % len(WORDS)]}{w // len(WORDS) or ''}" for w in row) + "!" for row in picked]


def training(count: int = 3000, seed: int = 5) -> list[dict[str, object]]:
    """One input of every type."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 6)) * [5, 3, 1, 0.1, 0.1, 0.1] + 2
    return [
        {
            "amount": float(rng.lognormal()),
            "country": str(rng.choice(["NL", "DE"])),
            "member": bool(rng.random() < 0.3),
            "ordered": f"2026-0{rng.integers(1, 10)}-1{rng.integers(0, 10)}T{rng.integers(8, 20):02d}:30:00Z",
            "photo": rng.integers(0, 17, (4, 4)).tolist(),
            "review": text,
            "vector": vector,
        }
        for text, vector in zip(sentences(rng, count), vectors.tolist(), strict=True)
    ]
