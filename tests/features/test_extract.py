from __future__ import annotations

import base64
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.memory import allocating

from exporter.features import image
from exporter.features.base import category_bins, numeric_column, scalar_text
from exporter.features.image import MAX_PIXELS, decode_image, image_columns, image_statistics
from exporter.features.json_inputs import lenient_inputs, sanitize

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
INVALID = [math.inf] * 4


def png(image: Image.Image, kind: str = "PNG", **options: object) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def by_hand(image: list[list[float]]) -> list[float]:
    """The four statistics, pixel by pixel."""
    pixels = [pixel for row in image for pixel in row]
    mean = sum(pixels) / len(pixels)
    stddev = math.sqrt(sum((pixel - mean) ** 2 for pixel in pixels) / len(pixels))
    low, high = min(pixels), max(pixels)
    contrast = (high - low) / (high + low) if high + low else 0.0
    laplacian = [
        image[y - 1][x] + image[y + 1][x] + image[y][x - 1] + image[y][x + 1] - 4 * image[y][x]
        for y in range(1, len(image) - 1)
        for x in range(1, len(image[0]) - 1)
    ]
    if not laplacian:
        return [mean, stddev, contrast, 0.0]
    middle = sum(laplacian) / len(laplacian)
    return [mean, stddev, contrast, sum((value - middle) ** 2 for value in laplacian) / len(laplacian)]


@st.composite
def images(draw: st.DrawFn) -> list[list[list[int]]]:
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    row = st.lists(st.integers(0, 255), min_size=width, max_size=width)
    return draw(st.lists(st.lists(row, min_size=height, max_size=height), min_size=1, max_size=4))


@settings(max_examples=60, deadline=None)
@given(images())
def test_image_statistics_are_those_counted_by_hand(batch):
    """Mean, deviation, Michelson contrast and variance of the Laplacian agree with naive loops."""
    expected = np.array([by_hand(image) for image in batch]).T
    assert image_statistics(np.array(batch, dtype=float)) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert image_columns(batch) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "value",
    [
        3, True, {}, "", "zzz", "data:,", "data:image/png;base64,%%%", [], [[]], [[[]]], [1, 2], [[1, 2], [3]], [["a"]],
        [[None]], [[True, False]], [[1e200]], [[10**400]], [[[[1]]]], [[[1, 2, 3, 4, 5]]],
        base64.b64encode(b"GIF89a").decode(),
    ],
)  # fmt: skip
def test_values_that_are_no_image_are_invalid(value):
    """A number, an undecodable string, and a ragged or empty array are invalid: alone, together, and among images."""
    assert image_columns([value]).T.tolist() == [INVALID]
    assert image_columns([value, value]).T.tolist() == [INVALID, INVALID]
    assert image_columns([[[1, 2], [3, 4]], value])[:, 1].tolist() == INVALID


def test_a_deeply_nested_image_is_invalid():
    """An array of hundreds of dimensions is invalid and raises nothing."""
    deep: list = [1]
    for _ in range(800):
        deep = [deep]
    assert image_columns([deep]).T.tolist() == [INVALID]


@pytest.mark.parametrize("band", [1, 14, 2**18])
def test_encoded_images_have_the_statistics_of_their_pixels(monkeypatch, band):
    """Base64 of PNG or lossless WebP, with or without a data: prefix, gives the array's statistics, also in bands."""
    monkeypatch.setattr(image, "_BAND_PIXELS", band)
    pixels = np.random.default_rng(3).integers(0, 256, (9, 7)).astype(np.uint8)
    text = png(Image.fromarray(pixels))
    expected = by_hand(pixels.astype(float).tolist())
    webp = png(Image.fromarray(pixels).convert("RGB"), "WEBP", lossless=True)
    found = image_columns([text, f"data:image/png;base64,{text}", webp])
    assert found == pytest.approx(np.array([expected] * 3).T, rel=1e-6)
    token = image.admit.set(lambda seconds: seconds > 0)  # no time is left
    assert image_columns([text]).T.tolist() == [INVALID]
    image.admit.reset(token)


def test_colour_is_reduced_to_luma():
    """RGB arrays and files agree, up to the file's rounding; alpha is ignored; one channel is grey."""
    pixels = np.random.default_rng(4).integers(0, 256, (5, 5, 3))
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    assert decode_image(pixels.tolist()) == pytest.approx(luma)
    rgba = np.concatenate([pixels, np.full((5, 5, 1), 9)], axis=2)
    assert decode_image(rgba.tolist()) == pytest.approx(luma)
    assert decode_image(pixels[..., :1].tolist()) == pytest.approx(pixels[..., 0])
    assert decode_image(png(Image.fromarray(pixels.astype(np.uint8)))) == pytest.approx(luma, abs=1)


def test_files_of_one_and_of_sixteen_bits():
    """Black and white are 0 and 255; sixteen bits keep their scale."""
    white = Image.new("1", (3, 3), 1)
    assert decode_image(png(white)).tolist() == [[255.0] * 3] * 3
    deep = Image.fromarray(np.full((2, 2), 60_000, dtype=np.uint16))
    assert decode_image(png(deep)).tolist() == [[60_000.0] * 2] * 2


def test_a_file_of_too_many_pixels_is_invalid():
    """A small file that claims 100 million pixels is refused without decoding."""
    side = math.isqrt(MAX_PIXELS) + 1
    assert decode_image(png(Image.new("1", (side, side)))) is None
    assert decode_image(png(Image.new("1", (2**16, 2)))) is None
    head = io.BytesIO()
    Image.new("L", (8, 8)).save(head, "PNG")
    raw = bytearray(head.getvalue())
    raw[16:24] = (50_000).to_bytes(4, "big") * 2
    assert decode_image(base64.b64encode(raw).decode()) is None


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "WEBP"]), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255))), st.data()
)
def test_a_damaged_file_is_an_image_or_invalid(kind, changes, data):
    """Whatever bytes of an image file change or are cut off, the result is an image or invalid, never an error."""
    file = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB").save(file, kind)
    raw = bytearray(file.getvalue())
    for offset, byte in changes:
        raw[offset % len(raw)] = byte
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    image = decode_image(bytes(raw))
    assert image is None or image.ndim == 2


@settings(max_examples=100, deadline=None)
@given(st.lists(JSON | st.integers(-(10**400), 10**400), min_size=1, max_size=5))
def test_any_json_is_a_number_missing_or_invalid(values):
    """A column of any JSON is float64: numbers as they are, null NaN, all the rest infinite."""
    column = numeric_column(values)
    assert column.dtype == np.float64
    assert column.shape == (len(values),)
    for value, number in zip(values, column.tolist(), strict=True):
        if value is None:
            assert math.isnan(number)
        elif type(value) in (int, float) and abs(value) < 1e300:
            assert number == float(value)
        elif type(value) not in (int, float):
            assert number == math.inf


@settings(max_examples=100, deadline=None)
@given(st.lists(JSON, min_size=1, max_size=5))
def test_any_json_is_an_image_missing_or_invalid(values):
    """A column of any JSON has four statistics per value: finite, missing or invalid, and all four alike."""
    columns = image_columns(values)
    assert columns.shape == (4, len(values))
    kinds = np.where(np.isnan(columns), 2, np.isinf(columns))
    assert (kinds == kinds[0]).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(JSON | st.sampled_from(["NL", "DE", "FR", "1", 1, 1.0, True, "true"]), max_size=20))
def test_every_category_is_counted_once(values):
    """Each value has one bin, unseen ones too."""
    counts = np.bincount(category_bins(values, {"NL": 0, "1": 1, "true": 2}, frozenset({"FR"})), minlength=6)
    assert counts.sum() == len(values)
    assert counts[0] == values.count("NL")
    assert counts[4] == sum(value is None for value in values)


@pytest.mark.parametrize(("values", "known", "rare", "bins"), [
    (["NL", "NL", "FR", "XX", None, 7, ["NL"], {}, True, 3, 3.0], "NL 3", "FR", [0, 0, 2, 2, 3, 4, 4, 4, 4, 1, 1]),
    (np.array([3.0, np.nan, 7.5, 3.0]), "3 7", "7.5", [0, 3, 2, 0]),
    (["", [], {}], " ", "", [0, 3, 3]),
    (["", [], {}], "a", " ", [1, 3, 3]),
])  # fmt: skip
def test_categories_have_their_bins(values, known, rare, bins):
    """Known, rare, new, missing and invalid values have their bins; an empty string is a category, a list is not."""
    indices = {name: index for index, name in enumerate(dict.fromkeys(known.split(" ")))}
    assert category_bins(values, indices, frozenset(rare.split(" "))).tolist() == bins


def test_scalars_are_written_as_in_json():
    """Numbers and booleans are the categories that JSON writes for them; an integral float is an integer."""
    assert [scalar_text(value) for value in ("a", True, False, 3, 3.0, 3.5, None, [])] == [
        "a", "true", "false", "3", "3", "3.5", "", "",
    ]  # fmt: skip


def test_inputs_that_strict_json_refuses_are_read_leniently():
    """NaN is missing; infinities and numbers beyond the range of a float are text, and so invalid."""
    raw = b'{"a": NaN, "b": 1e999, "c": -Infinity, "d": 1' + b"0" * 5000 + b', "e": 2, "f": "\\ud800", "g": "\xff"}'
    inputs = lenient_inputs(raw)
    assert inputs == {"a": None, "b": "inf", "c": "-inf", "d": "1" + "0" * 5000, "e": 2, "f": "?", "g": "�"}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_give_an_object(raw):
    """Whatever the bytes, the result is an object that strict JSON can represent."""
    inputs = lenient_inputs(raw)
    assert isinstance(inputs, dict)
    json.dumps(sanitize(inputs), allow_nan=False).encode()


def test_a_string_among_numbers_is_not_widened():
    """A long string in an image or an embedding is invalid before numpy allocates its length for every element."""
    value = [["x" * 1_000_000, *range(5000)]]
    with allocating(10_000_000):
        assert decode_image(value) is None
