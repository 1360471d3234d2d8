"""Values as services have them: numpy, pandas, PIL and tensors, through the client to the exporter's eyes."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import decimal
import enum
import json
import subprocess
import sys
import uuid
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from PIL import Image

from exporter.client.encoding import clamp_confidence, encode_document, snapshot, snapshot_inputs, unwrap_single
from exporter.features.image import decode_image


def arrives(value: Any) -> Any:
    """What a value is in the JSON that leaves."""
    inputs, _ = snapshot_inputs({"value": value})
    return json.loads(encode_document({"inputs": inputs}))["inputs"]["value"]


class Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.str_("NL"), "NL"),
        (np.array([[1, 2], [3, 4]], np.uint8), [[1, 2], [3, 4]]),
        (np.array(5), 5),
        (np.array(["a", None], object), ["a", None]),
        (np.array([1.5, np.nan, np.inf]), [1.5, None, "inf"]),
        (np.datetime64("2026-11-24T10:00:00.5", "ns"), "2026-11-24T10:00:00.500000000"),
        (np.ma.masked_array([1, 2], [False, True]), [1, None]),
        (pd.Timestamp("2026-11-24T10:00:00Z"), "2026-11-24T10:00:00+00:00"),
        (pd.Timedelta(seconds=90), 90.0),
        (pd.NaT, None),
        (pd.NA, None),
        (pd.Series([1, 2]), [1, 2]),
        (pd.Series(["a", "b"]), ["a", "b"]),
        (pd.Categorical(["a", "b"]), ["a", "b"]),
        (dt.date(2026, 11, 24), "2026-11-24"),
        (decimal.Decimal("1.25"), 1.25),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Colour.RED, "red"),
        ({1: {2}}, {"1": [2]}),
        ((1, [np.float64(2.0), "x"]), [1, [2.0, "x"]]),
        (10**400, 10**400),
        (b"not an image", "b'not an image'"),
    ],
)
def test_values_keep_their_meaning(value: Any, expected: Any) -> None:
    """Each value arrives as the equivalent JSON."""
    assert arrives(value) == expected


def test_texts_numbers_and_missing_values() -> None:
    """A usual event arrives unchanged, whichever way it is copied."""
    for inputs in ({"a": 1, "b": 2.5, "c": True}, {"a": "x", "b": None, "c": 1}, {"a": [1], "b": "x"}, {}):
        copy, size = snapshot_inputs(inputs)
        assert copy == inputs
        assert copy is not inputs
        assert size >= 64 * len(inputs)


def test_later_changes_do_not_arrive() -> None:
    """Later changes of the service to its values change nothing, however deeply nested."""
    array, nested, frame = np.zeros(3), {"a": [{"b": [1]}]}, pd.DataFrame({"x": [1.0]})
    picture = Image.new("L", (2, 2))
    inputs = {"array": array, "nested": nested, "series": frame["x"], "picture": picture}
    copy, _ = snapshot_inputs(inputs)
    array += 1
    nested["a"][0]["b"].append(2)
    frame.loc[0, "x"] = 9.0
    picture.putpixel((0, 0), 255)
    inputs["more"] = 1
    left = json.loads(encode_document({"inputs": copy}))["inputs"]
    assert (left["array"], left["nested"], left["series"]) == ([0, 0, 0], {"a": [{"b": [1]}]}, [1.0])
    assert decode_image(left["picture"]).max() == 0
    assert "more" not in left


def test_a_row_of_a_frame_is_the_inputs() -> None:
    """A pandas row, or a frame of one, gives a value per column, as objects do; more rows are refused with advice."""
    frame, fields = pd.DataFrame({"age": [41, 7], "country": ["NL", None]}), {"age": 41, "country": "NL"}
    model = pydantic.create_model("Row", age=(int, 41), country=(str, "NL"))()
    old = type("Pydantic1", (), {"__fields__": fields, "dict": lambda _: fields})()
    assert snapshot_inputs({"all": [model, old]})[0] == {"all": [fields] * 2}
    for row in (frame.iloc[0], frame.head(1), model, old, dataclasses.make_dataclass("Row", fields)(**fields)):
        assert json.loads(encode_document({"inputs": snapshot_inputs(row)[0]})) == {"inputs": fields}
    with pytest.raises(TypeError, match="expected one row, got 2"):
        snapshot_inputs(frame)
    with pytest.raises(TypeError, match="by the feature's name"):
        snapshot_inputs([1, 2])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I", "F", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode(mode: str) -> None:
    """A PIL image of any mode arrives as one that the exporter reads, with its grey values."""
    picture = Image.linear_gradient("L").resize((16, 8)).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = picture.convert("I").convert("I;16")
    seen = decode_image(arrives(picture))
    converted = picture if mode in {"I", "F", "I;16"} else picture.convert("RGB").convert("L")
    assert seen.shape == (8, 16)
    assert np.abs(seen - np.asarray(converted, float)).max() <= 2


def test_bytes_of_image_files_become_base64() -> None:
    """The bytes of an image file become base64, which the exporter decodes."""
    text = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    data = base64.b64decode(text)
    assert decode_image(arrives(data)).tolist() == [[0]]


def test_large_arrays_are_encoded_by_row() -> None:
    """An array that is encoded a row at a time is the same, in three dimensions and beside other values."""
    array = np.arange(3 * 50 * 40, dtype=np.float32).reshape(50, 40, 3)
    inputs, size = snapshot_inputs({"image": array, 'a "name"': "x", "age": 1})
    assert size >= array.nbytes
    document = json.loads(encode_document({"id": "r", "inputs": inputs, "version": None}))
    assert document == {"id": "r", "inputs": {"image": array.tolist(), 'a "name"': "x", "age": 1}}
    assert arrives(np.full((3, 5000), np.nan)) == [[None] * 5000] * 3


class Tensor:
    """As much of torch's as the client asks for."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def detach(self) -> Tensor:
        return self

    def clone(self) -> Tensor:
        return Tensor(list(self.values))

    def element_size(self) -> int:
        return 4

    def nelement(self) -> int:
        return len(self.values)

    def tolist(self) -> list[float]:
        return self.values


class Eager:
    """A tensor that only knows the way to numpy."""

    def numpy(self) -> np.ndarray:
        return np.array([1.0, 2.0])


def test_tensors() -> None:
    """Torch tensors are copied by their methods, others by numpy()."""
    tensor = Tensor([1.0, 2.0])
    copy, size = snapshot(tensor)
    tensor.values[0] = 9.0
    assert (copy.tolist(), size) == ([1.0, 2.0], 72)
    assert arrives(Eager()) == [1.0, 2.0]
    assert unwrap_single(Tensor([3.0])) == 3.0


def test_what_a_model_returns_for_one_row() -> None:
    """An array of one is its value, a share rounded past 1 is 1, and an invalid one stays invalid."""
    assert unwrap_single(np.array(["7"])) == "7"
    assert unwrap_single([[2.5]]) == 2.5
    assert unwrap_single([1, 2]) == [1, 2]
    assert clamp_confidence(np.float32([1.0000001])) == 1.0
    assert clamp_confidence(-1e-9) == 0.0
    assert clamp_confidence(1.5) == 1.5


def test_values_need_no_imports() -> None:
    """Numpy values are encoded without importing further modules."""
    code = (
        "import sys, exporter.client\n"
        "from exporter.client.encoding import encode_document, snapshot_inputs\n"
        "encode_document({'inputs': snapshot_inputs({'a': [1], 'b': 'x'})[0]})\n"
        "assert not {'numpy', 'pandas', 'PIL', 'torch', 'flask', 'asyncio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
