from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.batches import count
from support.rows import training

from exporter.features import INPUT_TYPES, LEARNERS, input_type
from exporter.features.embedding import MAX_DIMENSION, EmbeddingLearner
from exporter.features.scalars import unix_seconds
from exporter.features.text import MAX_CHARACTERS, MAX_WORDS, TextLearner, split_words
from exporter.monitoring.binner import Binner
from exporter.profiles.builder import build_file
from exporter.profiles.profile import load, save

NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def binner(tmp_path_factory: pytest.TempPathFactory) -> Binner:
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "all.jsonl").write_text("\n".join(map(json.dumps, training())))
    save(build_file(folder / "all.jsonl"), folder / "all.json")
    return Binner(load(folder / "all.json"))


def scores(binner: Binner, rows: list[dict[str, object]]) -> dict[str, float]:
    """By how much each feature's divergence exceeds the larger of its noise and the default threshold."""
    sums = binner.split(count(binner, rows, [])[0])
    floor = np.maximum(binner.reference.noise(np.full(len(binner.names), float(len(rows)))), 0.3)
    return dict(zip(binner.names, binner.reference.kl_divergence(sums.counts) - floor, strict=True))


def test_every_type_is_inferred(binner):
    """JSON lines with an input of each type give a profile with just these types."""
    assert binner.profile.inputs == {
        "amount": "numeric", "country": "categorical", "member": "boolean", "ordered": "timestamp", "photo": "image",
        "review": "text", "vector": "embedding",
    }  # fmt: skip
    assert set(binner.profile.inputs.values()) == set(INPUT_TYPES)


def test_new_data_from_the_same_distribution_is_no_drift(binner):
    """New rows from the training distribution raise no alarm in any feature."""
    assert max(scores(binner, training(500, seed=6)).values()) < 0


@pytest.mark.parametrize(
    ("name", "value", "affected"),
    [
        ("member", True, {"member"}),
        ("ordered", "2020-01-01T03:00:00Z", {"ordered.age_seconds", "ordered.hour"}),
        (
            "review",
            "完全不同的语言没有人见过",
            {"review.unseen_word_ratio", "review.length", "review.punctuation_ratio"},
        ),
        ("review", "12345 6789 1 2 3 4 5 6 7 8 9 10", {"review.digit_ratio", "review.letter_ratio"}),
        ("vector", [2.0] * 6, {"vector.centroid_distance", "vector.component_1"}),
        ("vector", [30.0, 2, 2, 2, 2, 2], {"vector.norm", "vector.component_1"}),
    ],
)
def test_a_change_raises_the_affected_features_only(binner, name, value, affected):
    """Each type's statistics rise above noise and threshold when what they measure changes."""
    excess = scores(binner, [row | {name: value} for row in training(200, seed=7)])
    assert affected <= {feature for feature, score in excess.items() if score > 0}
    assert all(feature.partition(".")[0] == name for feature, score in excess.items() if score > 0)


WRONG = [
    3, -0.5, "x", "", True, [], {}, [1.0], [[1]], [[[[]]]], "x" * 1_000_000, "字" * 500_000, [0.5] * 100_000,
    [1e308] * 6, ["1"] * 6, [[1]] * 6, 10**400, [10**400] * 6, {"a": [1]}, "2026-02-30T00:00:00Z", "9999-99-99", 1e300,
    "iVBORw0KGgo", "\ud800", [None] * 6, [[[0] * 3] * 3] * 3,
]  # fmt: skip


@pytest.mark.parametrize("value", WRONG, ids=range(len(WRONG)))
def test_any_value_is_counted_once_in_each_feature(binner, value):
    """Any input value is counted in one bin of each of its features, quickly, and raises nothing."""
    begun = time.process_time()
    row, _, _, unknown = count(binner, [dict.fromkeys(binner.inputs, value)] * 3, [])
    assert time.process_time() - begun < 5
    sums = binner.split(row)
    assert np.add.reduceat(sums.counts, binner.starts).tolist() == [3] * len(binner.names)
    assert np.isfinite(row).all()
    assert unknown == 0


def test_null_and_absence_are_missing_in_every_type(binner):
    """A null and an absent input count as missing in each feature."""
    row, *_ = count(binner, [dict.fromkeys(binner.inputs), {}], [])
    assert binner.split(row).counts[binner.missing].tolist() == [2] * len(binner.names)


def test_an_invalid_value_does_not_affect_others(binner):
    """In a batch with an invalid value the others have the same counts as without it."""
    good = training(20, seed=8)
    alone = binner.split(count(binner, good, [], NOW)[0]).counts
    for value in (3, "x", [1.0], None, [1e308] * 6, ["1"] * 6):
        with_it = binner.split(count(binner, [*good, dict.fromkeys(binner.inputs, value)], [], NOW)[0]).counts
        single = binner.split(count(binner, [dict.fromkeys(binner.inputs, value)], [], NOW)[0]).counts
        assert (with_it - single).tolist() == alone.tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.text(max_size=40) | st.lists(st.floats(), max_size=7) | st.integers(), max_size=8))
def test_columns_do_not_depend_on_batches(binner, values):
    """The features of a value are the same whether it is alone or among others."""
    for kind in binner.inputs.values():
        if not kind.categorical and kind.type != "image":
            together = kind.columns(values, NOW)
            parts = [kind.columns([value], NOW) for value in values]
            assert together.shape == (len(kind.features("x")), len(values))
            assert np.allclose(together, np.concatenate([together[:, :0], *parts], axis=1), equal_nan=True, rtol=1e-9)


def test_timestamps():
    """Every RFC 3339 form and Unix seconds give the same time; other values are invalid."""
    same = ["2026-11-24T10:30:00Z", "2026-11-24t12:30:00.000+02:00", "2026-11-24 10:30:00", 1795516200, 1795516200.0]
    assert {unix_seconds(value) for value in same} == {1795516200.0}
    columns = input_type("timestamp").columns([*same, "2026-11-24", None, "now", True, 1e300], 1795516260.0)
    assert columns[0, :5].tolist() == [60.0] * 5
    assert columns[1, :6].tolist() == [10.0] * 5 + [0.0]
    assert np.isnan(columns[:, 6]).all()
    assert np.isinf(columns[:, 7:]).all()


def measured(text: str, vocabulary: list[str]) -> dict[str, float]:
    learner = TextLearner()
    learner.learn([*vocabulary, *vocabulary])
    kind = learner.input_type()
    return dict(zip(kind.statistics, kind.columns([text], NOW)[:, 0].tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "vocabulary", "expected"),
    [
        ("The CAT, the dog!", ["the cat"], {"length": 17, "words": 4, "letter_ratio": 12 / 14,
                                            "punctuation_ratio": 2 / 14, "unseen_word_ratio": 0.25}),
        ("room 101", [], {"words": 2, "digit_ratio": 3 / 7, "unseen_word_ratio": 1}),
        ("今天天气很好", ["今天很好"], {"words": 5, "letter_ratio": 1, "unseen_word_ratio": 3 / 5}),
        ("हिन्दी में", ["हिन्दी"], {"words": 2, "letter_ratio": 1, "unseen_word_ratio": 0.5}),
        ("Straße STRASSE", ["strasse"], {"words": 2, "unseen_word_ratio": 0}),
        ("", ["a"], {"length": 0, "words": 0, "letter_ratio": 0, "unseen_word_ratio": 0}),
        ("👍 $5", [], {"length": 4, "words": 1, "punctuation_ratio": 2 / 3, "digit_ratio": 1 / 3}),
        ("字", [], {"words": 1}),
    ],
)  # fmt: skip
def test_texts_of_any_language(text, vocabulary, expected):
    """Words, character classes and unseen words follow Unicode only; scripts without spaces are split into pairs."""
    statistics = measured(text, vocabulary)
    assert {name: statistics[name] for name in expected} == pytest.approx(expected)


@given(st.lists(st.sampled_from(["ab", "Abc", "é1", "x", "ж", "ab1"]), max_size=9))
def test_a_word_has_one_hash(parts):
    """Equal words have equal hashes wherever they occur, and different ones differ."""
    hashes = split_words([" ".join(parts)]).hashes.tolist() if parts else []
    alone = {part: split_words([part]).hashes.tolist()[0] for part in parts}
    assert hashes == [alone[part] for part in parts]
    assert len(set(hashes)) == len({part.casefold() for part in parts})


def test_a_long_text_is_cut():
    """Only the first characters of a megabyte of text are measured, but its length is complete."""
    statistics = measured("ab " * 400_000, [])
    assert statistics["length"] == 1_200_000
    assert statistics["words"] == math.ceil(MAX_CHARACTERS / 3)


def test_the_words_of_a_profile_are_limited():
    """Beyond the limit a profile keeps the words that occur in the most texts."""
    learner = TextLearner()
    for start in range(0, 3 * MAX_WORDS, 1000):
        learner.learn([f"common w{number}" for number in range(start, start + 1000)])
    remembered = learner.state().words
    assert len(remembered) == MAX_WORDS
    assert split_words(["common"]).hashes[0] in remembered
    assert list(remembered) == sorted(remembered)


def test_embeddings_are_measured_along_the_training_sets_directions():
    """Norm, distance and components are those of numpy's decomposition of the training vectors."""
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(400, 5)) * [9, 4, 2, 1, 0.5] + [1e6, 0, 0, 0, 3]
    learner = EmbeddingLearner()
    for part in np.split(matrix, 4):
        learner.learn(part.tolist())
    columns = learner.input_type().columns(matrix.tolist(), NOW)
    centred = matrix - matrix.mean(axis=0)
    assert columns[0] == pytest.approx(np.linalg.norm(matrix, axis=1))
    assert columns[1] == pytest.approx(np.linalg.norm(centred, axis=1), rel=1e-3)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    for number in range(4):
        component = columns[2 + number]
        assert np.sqrt((component**2).sum()) == pytest.approx(singular[number], rel=1e-3)
        assert abs(np.corrcoef(component, centred @ axes[number])[0, 1]) > 0.999


def test_the_most_frequent_length_is_the_embeddings():
    """A training vector of another length is invalid, even if it is the first; if all are too long, all are."""
    learner = EmbeddingLearner()
    learner.learn([[1.0], *[[1.0, 2.0]] * 5, [1.0, 3.0], "x", None])
    kind = learner.input_type()
    assert kind.features("v") == ["v.norm", "v.centroid_distance", "v.component_1", "v.component_2"]
    assert np.isfinite(kind.columns([[1.0], [1.0, 2.0], []], NOW)[0]).tolist() == [False, True, False]
    learner = EmbeddingLearner()
    learner.learn([[1.0] * (MAX_DIMENSION + 1)] * 2)
    assert not np.isfinite(learner.input_type().columns([[1.0] * (MAX_DIMENSION + 1), []], NOW)).any()


@pytest.mark.parametrize("kind", [*LEARNERS, "video"])
def test_a_type_without_its_state_is_refused(kind):
    """A type that learns requires its state, and an unknown type is refused."""
    with pytest.raises(ValueError, match="nothing was learned"):
        input_type(kind)


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("amount", "12.5", "invalid"),
        ("amount", True, "invalid"),
        ("country", 31, "invalid"),
        ("country", "N" * 1_000_000, "other"),
        *(("member", value, "invalid") for value in ("true", 1, 0, "no", [])),
        ("ordered", "soon", "invalid"),
        ("photo", [[8] * 1000] * 700, "inside"),
        ("photo", [8] * 16, "invalid"),
        ("review", 12, "invalid"),
        ("vector", [2.0] * 5, "invalid"),
        ("vector", [2.0] * 7, "invalid"),
        ("vector", [2.0] * 6, "inside"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_changed_inputs_are_in_the_right_bin(binner, name, value, where):
    """Another type or length is invalid in all features of the input, a huge category is other, any size is valid."""
    row, *_ = count(binner, [{name: value}], [])
    sums = binner.split(row)
    indices = [index for index, feature in enumerate(binner.names) if feature.partition(".")[0] == name]
    invalid = sums.counts[binner.invalid[indices]].tolist()
    assert invalid == [float(where == "invalid")] * len(indices)
    assert not sums.counts[binner.missing[indices]].any()
    if where == "other":
        assert sums.counts[binner.missing[indices[0]] - 1] == sums.unseen[indices[0]] == 1
    assert max(len(label) for target in binner.targets for label in target.labels()) < 80
