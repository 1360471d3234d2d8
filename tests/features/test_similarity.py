"""Vectors of inputs: close for inputs that are alike, whatever clients send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.features.json_inputs import pack_image
from exporter.features.similarity import DIMENSIONS, InputEncoder

RNG = np.random.default_rng(2)


def distances(sample: list[dict[str, Any]], one: dict[str, Any], *others: dict[str, Any], **types: str) -> list[float]:
    """Distances of others from one, in median distances of the sample."""
    encoder = InputEncoder(sample, types)
    known = encoder.encode(sample).astype(float)
    typical = float(np.median(np.linalg.norm(known[: len(known) // 2] - known[len(known) // 2 :], axis=1)))
    vectors = encoder.encode([one, *others]).astype(float)
    return [float(np.linalg.norm(vector - vectors[0]) / typical) for vector in vectors[1:]]


def image(rng: np.random.Generator, size: int = 12) -> list[list[int]]:
    return rng.integers(0, 256, (size, size)).tolist()


def test_images_are_alike_pixel_by_pixel_in_every_form() -> None:
    """An image of rows, and the same as a stored PNG, are equal; a little noise is near, another image is far."""
    pictures = [image(RNG) for _ in range(40)]
    noisy = (np.array(pictures[0]) + RNG.integers(-4, 5, (12, 12))).clip(0, 255).tolist()
    rows = [{"image": picture} for picture in (noisy, pack_image(pictures[0]), pictures[1], "data:image/png;base64,x")]
    near, same, other, broken = distances([{"image": p} for p in pictures], {"image": pictures[0]}, *rows)
    assert same == 0
    assert 0 < near < 0.1
    assert 0.5 < other < 2
    assert broken > 0.3


def test_numbers_count_by_rank_and_categories_by_name() -> None:
    """A unit or an outlier does not matter; an input of more weight does."""
    sample = [{"income": float(value), "country": "NL" if number % 2 else "BE"} for number, value in
              enumerate(np.exp(RNG.normal(10, 3, 400)))]  # fmt: skip
    one = {"income": 20_000.0, "country": "NL"}
    near, far, abroad, missing = distances(
        sample, one, {**one, "income": 22_000.0}, {**one, "income": 1e15}, {**one, "country": "BE"}, {"country": "NL"}
    )
    assert near < 0.1 < far
    assert abroad > 0.5
    assert missing < far


def test_texts_are_alike_by_their_words() -> None:
    """Another letter case and punctuation is the same text; other words are another one."""
    words = "the delivery of my parcel was late again and nobody answered calls about a refund for it"
    sample = [{"review": " ".join(RNG.choice(words.split(), 12))} for _ in range(100)]
    text = "The parcel was late again, and nobody answered my calls."
    same, other = distances(sample, {"review": text}, {"review": text.upper() + "!"}, {"review": "a refund for it"})
    assert same == 0
    assert other > 0.5


@pytest.mark.parametrize("values", [[f"request-{number}" for number in range(60)], [None] * 60, ["same"] * 60])
def test_identifiers_and_constants_do_not_count(values: list[Any]) -> None:
    """An input that no two predictions share, or all do, makes no difference."""
    sample = [{"id": value, "age": number} for number, value in enumerate(values)]
    assert distances(sample, {"id": "a", "age": 7}, {"id": "b", "age": 7}) == [0]


def test_timestamps_and_redacted_inputs_do_not_count() -> None:
    """They have no influence on the vectors."""
    sample = [{"at": float(number), "name": "Ada" if number % 2 else "Bob", "age": number} for number in range(60)]
    encoder = InputEncoder(sample, {"at": "timestamp"}, {"name"})
    one, other = encoder.encode([{"at": 1.0, "name": "Ada", "age": 9}, {"at": 50.0, "name": "Bob", "age": 9}])
    assert one.tolist() == other.tolist()


def test_many_inputs_keep_their_distances() -> None:
    """Three hundred numbers are projected to a short vector: half of them changed is half as far as all changed."""
    rows = [{f"f{index}": float(value) for index, value in enumerate(row)} for row in RNG.normal(size=(200, 250))]
    half = {**rows[0], **dict(list(rows[1].items())[:125])}
    part, whole = distances(rows, rows[0], half, rows[1])
    assert 0.45 < part / whole < 0.95


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
rows = st.lists(st.dictionaries(st.sampled_from(["a", "b"]), json), max_size=5)


@given(rows, rows, st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["image", "text", "numeric", "x"])))
def test_any_inputs_have_vectors(
    sample: list[dict[str, Any]], others: list[dict[str, Any]], types: dict[str, str]
) -> None:
    """Whatever a client sends, each prediction has a vector, and the same one each time."""
    encoder = InputEncoder(sample, types)
    vectors = encoder.encode(others)
    assert vectors.shape == (len(others), DIMENSIONS)
    assert vectors.tolist() == encoder.encode(others).tolist()
