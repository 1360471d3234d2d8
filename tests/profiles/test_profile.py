from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from exporter.errors import ProfileError
from exporter.features import input_type
from exporter.features.embedding import EmbeddingState
from exporter.features.text import TextState
from exporter.profiles.bins import categorical_feature, numeric_feature
from exporter.profiles.builder import build_file
from exporter.profiles.profile import NumericFeature, Profile, load, save


def example() -> Profile:
    features = {
        "age": numeric_feature(np.array([*range(100), np.nan, np.inf], dtype=float)),
        "country": categorical_feature({"NL": 60, "DE": 30, 'a "quoted" 名': 1}, 2, 1, top=2),
        **{f"photo.{s}": numeric_feature(np.array([0.1, 0.2, 1e-300, 1e300]))
           for s in ("intensity_mean", "intensity_stddev", "contrast", "sharpness")},
        "empty": numeric_feature(np.array([np.nan])),
    }  # fmt: skip
    inputs = {"age": "numeric", "country": "categorical", "photo": "image", "empty": "numeric"}
    return Profile("credit", 102, inputs, features, categorical_feature({"yes": 3, "no": 7}, 0, 0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(example(), tmp_path / "deep" / "credit.json")
    return tmp_path / "deep" / "credit.json"


def edit(path: Path, old: str, new: str, keep_hash: bool = True) -> None:
    text = path.read_text()
    assert old in text
    text = text.replace(old, new, 1)
    path.write_text(text if keep_hash else re.sub(r'"hash": "\w+"', '"hash": ""', text))


def refusal(path: Path) -> str:
    with pytest.raises(ProfileError) as error:
        load(path)
    return str(error.value).replace(str(path), "FILE")


def test_a_saved_profile_is_read_back_exactly(path):
    """Every bit is restored, with the creation time and the hash; no partial file remains."""
    loaded = load(path)
    made = example()
    assert (loaded.inputs, loaded.features, loaded.prediction) == (made.inputs, made.features, made.prediction)
    assert (loaded.name, loaded.rows) == ("credit", 102)
    assert loaded.created is not None
    assert loaded.hash == loaded.digest()
    assert [file.name for file in path.parent.iterdir()] == ["credit.json"]


def test_a_profile_is_readable_json(path):
    """The file is indented JSON, and names its format."""
    document = json.loads(path.read_text())
    assert document["format"] == "model-exporter-profile/1"
    assert document["features"]["age"]["min"] == 0
    assert path.read_text().count("\n") > 50
    assert len(document["hash"]) == len(hashlib.sha256().hexdigest())


def test_a_changed_profile_is_refused(path):
    """The hash detects one changed count, and the message has instructions."""
    edit(path, '"rows": 102', '"rows": 103')
    assert (
        refusal(path)
        == "FILE: was changed after it was written: its hash does not match; create it again, or remove the hash"
    )


def test_a_profile_without_a_hash_is_read(path):
    """A profile that was changed on purpose is read once its hash is removed."""
    edit(path, '"rows": 102', '"rows": 103', keep_hash=False)
    assert load(path).rows == 103


def test_a_large_profile_is_neither_read_nor_written(path, tmp_path, monkeypatch):
    """A file above the limit is refused before it is read; one that would be above it is not written."""
    made = load(path)
    with path.open("ab") as file:
        file.truncate(3 * 2**30)
    assert refusal(path) == "FILE: is not a profile: it is larger than 256 MiB"
    monkeypatch.setattr("exporter.profiles.profile.MAX_MIB", 0)
    with pytest.raises(ProfileError, match=r"new\.json: would be larger than 0 MiB: profile fewer columns, bins or"):
        save(made, tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


def test_a_missing_profile(tmp_path):
    """A missing file is named."""
    assert refusal(tmp_path / "no.json") == "FILE: cannot be read: No such file or directory"
    assert refusal(tmp_path) == "FILE: cannot be read: Is a directory"


@pytest.mark.parametrize("content", [b"", b"name,age\na,3\n", b"{", b'"\xff"', b"[" * 5000, b'{"format": NaN}'])
def test_a_file_that_is_not_json_is_refused(tmp_path, content):
    """Any other file is refused with the command that creates a profile."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    assert refusal(path) == "FILE: is not a profile: expected the JSON that 'model-exporter profile' writes"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("{}", "it has no format"),
        ("[1, 2]", "it has no format"),
        ('{"format": "model-exporter-profile/2"}', 'its format is "model-exporter-profile/2"'),
        ('{"format": 7}', "its format is 7"),
    ],
)
def test_another_format_or_version_is_refused(tmp_path, content, found):
    """JSON without the profile format, or of another version, is refused with both."""
    path = tmp_path / "x.json"
    path.write_text(content)
    message = (
        f'FILE: is not a profile that this version reads: {found}, expected "model-exporter-profile/1": make it again'
    )
    assert refusal(path) == message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"rows": 102', '"rows": "many"', 'FILE: rows: expected a whole number, got "many"'),
        ('"rows": 102', '"raws": 102', "FILE: raws: is not known"),
        (
            '"categories": [\n    "NL",', '"categories": [\n    "NL", "XX",',
            "FILE: features.country.counts: expected 6 counts for 3 categories, got 5",
        ),
        (
            '"edges": [\n    0.0,', '"edges": [\n    7.0,',
            "FILE: features.age.edges: expected increasing numbers",
        ),
        (
            '"photo": "image"', '"photo": "video"',
            'FILE: inputs.photo: "video" is not a valid type; valid values: '
            "boolean, categorical, embedding, image, numeric, text, timestamp",
        ),
        (
            '"photo": "image"', '"photo": "numeric"',
            'FILE: features.photo: expected bins of the numeric input "photo"',
        ),
        (
            '"age": "numeric"', '"age": "categorical"',
            'FILE: features.age: expected bins of the categorical input "age"',
        ),
    ],
)  # fmt: skip
def test_an_inconsistent_profile_is_refused(path, old, new, message):
    """An error in an edited profile without a hash is found on reading, not at a request."""
    edit(path, old, new, keep_hash=False)
    assert refusal(path) == message


@pytest.mark.parametrize(("count", "message"), [
    (-1, "prediction.counts[0]: expected a whole number of at least 0, got -1"),
    (10**400, "features.(prediction).counts: expected at most 1e+15 values in total"),
])  # fmt: skip
def test_impossible_counts_are_refused(path, count, message):
    """Counts below zero, and those that a float cannot represent, would leave no share between 0 and 1."""
    document = json.loads(path.read_text())
    document["prediction"]["counts"][0] = count
    path.write_text(json.dumps({**document, "hash": ""}))
    assert refusal(path) == f"FILE: {message}"


def test_moments_are_those_of_the_finite_values():
    """Mean and population deviation exclude missing and invalid values."""
    values = np.random.default_rng(2).normal(1e9, 1, 5000)
    feature = numeric_feature(np.concatenate([values, [np.nan, np.inf]]))
    assert feature.mean == pytest.approx(values.mean(), rel=1e-15)
    assert feature.stddev == pytest.approx(values.std(), rel=1e-6)
    assert feature.counts[-2:] == (1, 1)
    assert numeric_feature(np.array([0.1] * 7)).stddev == 0


LEARNED = {
    "t": TextState((1, 2)),
    "v": EmbeddingState((0.5, 1.0), ((1.0, 0.0), (0.0, 1.0))),
}


def learned_profile(**changes: object) -> Profile:
    inputs = {"t": "text", "v": "embedding"}
    feature = numeric_feature(np.array([1.0, 2.0]))
    kinds = [input_type("text", LEARNED["t"]), input_type("embedding", LEARNED["v"])]
    features = {name: feature for kind, source in zip(kinds, inputs, strict=True) for name in kind.features(source)}
    made = Profile("p", 2, inputs, features, learned=LEARNED, confidence=feature)
    return msgspec.structs.replace(made, **changes)


def test_learned_state_is_restored(tmp_path):
    """Word hashes, centroid, directions and the confidence are restored, and are part of the hash."""
    save(learned_profile(), tmp_path / "p.json")
    loaded = load(tmp_path / "p.json")
    assert (loaded.learned, loaded.confidence) == (LEARNED, learned_profile().confidence)
    assert loaded.digest() != msgspec.structs.replace(loaded, learned=None).digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learned": {}}, 'FILE: learned.t: is not what the text input "t" learns in training'),
        ({"learned": {"t": LEARNED["v"], "v": LEARNED["v"]}},
         'FILE: learned.t: is not what the text input "t" learns in training'),
        ({"learned": LEARNED | {"t": TextState((2**32,))}},
         'FILE: learned.t: is not what the text input "t" learns in training'),
        ({"learned": LEARNED | {"v": EmbeddingState((0.5,), ((1.0, 0.0),))}},
         'FILE: learned.v: is not what the embedding input "v" learns in training'),
        ({"learned": LEARNED | {"v": EmbeddingState((), ())}},
         'FILE: learned.v: is not what the embedding input "v" learns in training'),
        ({"learned": LEARNED | {"v": EmbeddingState((0.5, 1.0), ((1.0, 0.0),) * 3)}},
         'FILE: features.v.component_3: expected bins of the embedding input "v"'),
        ({"input_names": ("t", "t")},
         "FILE: input_names: expected each of the inputs once, in the order of the training data"),
        ({"confidence": NumericFeature((1.0,), (1,))},
         "FILE: features.(confidence).counts: expected 4 counts for 1 edges, got 1"),
    ],
)  # fmt: skip
def test_learned_state_must_match_the_input(tmp_path, changes, message):
    """A profile whose learned state belongs to another input is refused on reading, not at a request."""
    save(learned_profile(**changes), tmp_path / "p.json")
    assert refusal(tmp_path / "p.json") == message


def test_the_order_of_the_columns_is_kept(tmp_path):
    """A profile knows the order of the training file's columns, whatever their names; JSON objects have their own."""
    path = tmp_path / "training.csv"
    path.write_text("width,age,label,height\n" + "1,2,x,3\n" * 30)
    profile = build_file(path, ignore=["label"])
    assert profile.input_names == ("width", "age", "height")
    save(profile, tmp_path / "p.json")
    assert load(tmp_path / "p.json").input_names == ("width", "age", "height")
