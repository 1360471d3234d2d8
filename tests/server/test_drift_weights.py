"""Pages rank drifted features by what they can do to the model's answers, where the profile knows their weights."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from support.pages import Page
from support.servers import Served, write_config

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save

ROWS = 20_000


def columns(rng: np.random.Generator, rows: int) -> dict[str, Any]:
    """A price that depends on ``size``, and a little on ``floor``."""
    size, floor, colour = rng.normal(size=(3, rows))
    return {"size": size, "floor": floor, "colour": colour, "price": 3 * size + floor}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All features have drifted, the one that the model does not use most."""
    folder = tmp_path_factory.mktemp("weights")
    rng = np.random.default_rng(0)
    data = columns(rng, ROWS)
    np.savez(folder / "training.npz", **data)
    save(build_file(folder / "training.npz", name="homes", prediction_column="price"), folder / "homes.json")
    data["price"] = rng.permutation(data["price"])
    np.savez(folder / "training.npz", **data)
    save(build_file(folder / "training.npz", name="random", prediction_column="price"), folder / "random.json")
    models = [{"name": name, "profile": f"{name}.json"} for name in ("homes", "random")]
    served = Served(write_config(folder, {"models": models}).parent).start()
    live = columns(rng, 400)
    for name in ("homes", "random"):
        events = [
            {
                "model": name,
                "version": "1",
                "inputs": {"size": size + 1.2, "floor": floor + 1.4, "colour": colour + 4},
                "prediction": 3 * size + floor,
            }
            for size, floor, colour in zip(*(live[each].tolist() for each in ("size", "floor", "colour")), strict=True)
        ]
        assert served.post("/v1/predictions", events).status == 202
    yield served
    served.stop()


def test_the_feature_that_the_model_hardly_uses_is_last(server: Served) -> None:
    """Although it drifted most; each row says how much the answers depend on the feature."""
    page = Page(server.get("/drift?model=homes"))
    assert page.rows()[:3] == ["size", "floor", "colour"]
    assert page.text.count("drifted, hardly used") == 1
    assert page.text.count("The model hardly uses it: at most") == 1
    assert re.search(r"Of the variation of the model’s answers, (8[5-9]|9\d)\s% depends on it", page.text)
    assert "The model hardly uses 1 of them." in page.text
    assert "by what they can do to the model’s answers" in page.text


def test_without_a_surrogate_that_follows_the_model_the_score_decides(server: Served) -> None:
    """Predictions that have nothing to do with the features: nothing is said of weights."""
    page = Page(server.get("/drift?model=random"))
    assert page.rows()[0] == "colour"
    assert "hardly use" not in page.text
    assert "answers" not in page.text


def test_the_home_page_says_that_the_most_drifted_feature_is_hardly_used(server: Served) -> None:
    """Beside the name of the feature."""
    assert Page(server.get("/")).text.count("400 values, hardly used") == 1
