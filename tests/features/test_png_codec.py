"""Stored images: PNG where that says the same, number for number."""

from __future__ import annotations

import io
import json
import sqlite3
from base64 import b64decode, b64encode
from contextlib import closing
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from support.servers import Served, eventually

from exporter.features.image import Image as ImageKind
from exporter.features.json_inputs import DENSEST, PREFIX, pack_image, pack_inputs, unpack_image, unpack_json
from exporter.profiles.builder import ColumnTypeInference

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda size: st.sampled_from([size, (*size, 3), (*size, 4)])
)


@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.uint8, shape)))
def test_packed_images_are_restored_exactly(pixels: Any) -> None:
    """Grey, RGB and RGBA of any size are restored exactly; other programs read the file with the same statistics."""
    value = pixels.tolist()
    text = pack_image(value)
    if text is None:  # next to nothing in it
        assert pixels.size > DENSEST * len(PREFIX)
        return
    assert unpack_image(text) == value
    inputs = f'{{"a": 1.50, "b": "{text}"}}'
    assert json.loads(unpack_json(inputs)) == {"a": 1.5, "b": value}
    with Image.open(io.BytesIO(b64decode(text.removeprefix(PREFIX)))) as image:
        assert np.array_equal(np.asarray(image), pixels)
    kind = ImageKind()
    assert np.array_equal(kind.columns([text], 0.0), kind.columns([value], 0.0))


@pytest.mark.parametrize(
    "value",
    [
        [[0, 256]],
        [[-1, 0]],
        [[0.5, 1]],
        [[1e300, 1]],
        [[2**70, 1]],
        [[1, 2], [3]],
        [[1, "2"]],
        [[True, False]],
        [[1, None]],
        [],
        [[]],
        [1, 2],
        [[[1], [2]]],
        [[[1, 2], [3, 4]]],
        [[[[1]]]],
        "iVBORw0KGgo=",
        None,
        7,
    ],
)
def test_values_that_png_cannot_restore_are_unchanged(value: Any) -> None:
    """Another scale, another shape, or no image at all: the value is stored unchanged."""
    assert pack_image(value) is None
    assert pack_inputs([{"image": value, "age": 4}], {"image"}) == [{}]
    assert unpack_image(value) == value


def test_stored_images_are_inferred_as_images() -> None:
    """A profile of stored predictions recognises them."""
    inference = ColumnTypeInference()
    inference.add([pack_image([[1, 2]]), [[1, 2.5]], None])
    assert inference.type() == "image"


def test_unpacking_is_limited() -> None:
    """A black image of a million pixels stays an array, and a client's imitation of a stored image stays a string."""
    black = np.zeros((1000, 1000), np.uint8)
    assert pack_image(black.tolist()) is None
    file = io.BytesIO()
    Image.fromarray(black).save(file, "PNG")
    text = f'{{"image": "{PREFIX}{b64encode(file.getvalue()).decode()}", "note": "{PREFIX}AAAA"}}'
    assert json.loads(unpack_json(text)) == json.loads(text)


def test_unpacked_images_are_bounded_together() -> None:
    """However long its text is, an image above the limit stays text, and so does one that exceeds it with others."""
    noise = np.random.default_rng(2).integers(0, 255, (4100, 4100), np.uint8, endpoint=True)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    large = PREFIX + b64encode(file.getvalue()).decode()
    assert unpack_image(large) is large
    (half,) = pack_inputs([{"image": noise[:2900, :2900].tolist()}], {"image"})
    first, *others = json.loads(unpack_json(f'{{"a":"{half["image"]}","b":"{half["image"]}","c":"x"}}')).values()
    assert (len(first), others) == (2900, [half["image"], "x"])


@pytest.mark.parametrize("side", [3, 40])
def test_an_image_is_stored_as_png(served: Served, side: int) -> None:
    """With feedback always; the values are unchanged, and redacted inputs are not there."""
    photo = np.random.default_rng(1).integers(0, 17, (side, side)).tolist()
    event = {"id": "i", "model": "credit", "prediction": "yes", "inputs": {"photo": photo, "age": 1.50, "name": "Ada"}}
    assert served.post("/v1/predictions", event).status == 202
    eventually(lambda: served.get("/v1/predictions/i").status == 200)
    assert served.get("/v1/predictions/i").json["inputs"] == {"photo": photo, "age": 1.5}
    feedback = {"model": "credit", "label": "no", "prediction": "yes", "inputs": {"photo": photo}}
    served.post("/v1/feedback", [{"prediction_id": "i", "verdict": "corrected", "label": "no"}, feedback])
    corrections = served.get("/v1/corrections").json["corrections"]
    assert [correction["inputs"]["photo"] for correction in corrections] == [photo, photo]
    assert all("name" not in correction["inputs"] for correction in corrections)
    with closing(sqlite3.connect(served.folder / "data" / "model-exporter.db")) as database:
        stored_photos = [
            msgspec.json.decode(text)["photo"] for (text,) in database.execute("SELECT inputs FROM feedback")
        ]
    assert len(stored_photos) == 2
    assert all(photo.startswith(PREFIX) for photo in stored_photos)
