"""Functions and models that are recorded as they are called."""

from __future__ import annotations

import asyncio
import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pydantic
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from support.fake_exporter import Exporter

from exporter import Monitor


def recorded(exporter: Exporter, monitor: Monitor) -> list[dict[str, Any]]:
    assert monitor.flush()
    assert monitor.dropped == 0
    return exporter.events()


FRAME = pd.DataFrame({"age": [20.0, 30.0, 60.0, 70.0], "debt": [9.0, 8.0, 1.0, 0.0]})
LABELS = ["no", "no", "yes", "yes"]


@pytest.fixture(scope="module")
def classifier() -> LogisticRegression:
    return LogisticRegression().fit(FRAME, LABELS)


# --- functions -------------------------------------------------------------------------------


def test_a_function_is_recorded(exporter: Exporter, monitor: Monitor) -> None:
    """Arguments are the inputs, the returned label the prediction, and the function is otherwise itself."""

    @monitor.watch
    def predict(age: int, country: str = "NL", *, connection: object = None) -> str:
        """Say yes."""
        return "yes"

    assert predict(41, connection=object()) == "yes"
    assert (predict.__name__, predict.__doc__) == ("predict", "Say yes.")
    (event,) = recorded(exporter, monitor)
    assert event.items() >= {"inputs": {"age": 41, "country": "NL"}, "prediction": "yes", "code": 200}.items()
    assert event["duration_seconds"] > 0


def test_a_mapping_gives_the_features(exporter: Exporter, monitor: Monitor) -> None:
    """A single mapping, row of a frame, or object with fields names the features; its values are copied."""

    class Service:
        @monitor.watch
        def predict(self, features: Any) -> np.ndarray:
            if isinstance(features, dict):
                features["age"] = None
            return np.array(["yes"])

    Service().predict({"age": 41, "country": "NL"})
    Service().predict(FRAME.iloc[0])
    monitor.watch(lambda loan, request: "no")(pydantic.create_model("Loan", age=(int, 7))(), object())
    inputs = [event["inputs"] for event in recorded(exporter, monitor)]
    assert inputs == [{"age": 41, "country": "NL"}, {"age": 20, "debt": 9}, {"age": 7}]
    assert exporter.events()[0]["prediction"] == "yes"


def test_a_coroutine_is_timed_to_its_end(exporter: Exporter, monitor: Monitor) -> None:
    """An async function is recorded when it has returned, also if several run concurrently."""

    @monitor.watch(read=lambda answer: {"prediction": answer["label"], "confidence": answer["score"]})
    async def predict(age: int) -> dict[str, Any]:
        await asyncio.sleep(0.03)
        return {"label": f"older than {age}", "score": 0.9}

    async def several() -> None:
        await asyncio.gather(*(predict(age) for age in range(3)))

    asyncio.run(several())
    events = recorded(exporter, monitor)
    pairs = {(event["inputs"]["age"], event["prediction"]) for event in events}
    assert pairs == {(age, f"older than {age}") for age in range(3)}
    assert all(event["duration_seconds"] >= 0.03 and event["confidence"] == 0.9 for event in events)
    assert len({event["id"] for event in events}) == 3


def test_an_exception_is_raised_and_counted(exporter: Exporter, monitor: Monitor) -> None:
    """An exception reaches the caller, and the event has code 500; wrong arguments stay a TypeError."""

    @monitor.watch
    def predict(age: int) -> str:
        raise KeyError(age)

    with pytest.raises(KeyError):
        predict(41)
    with pytest.raises(TypeError, match="missing 1 required"):
        predict()
    events = recorded(exporter, monitor)
    assert [(event["code"], event.get("inputs")) for event in events] == [(500, {"age": 41}), (500, None)]
    assert monitor.prediction_id is None


def test_a_function_that_records_itself(exporter: Exporter, monitor: Monitor) -> None:
    """What the function records is the event, with the duration added; without inputs no argument is recorded."""

    @monitor.watch(inputs=False)
    def predict(secret: str, record: bool) -> dict[str, str]:
        if record:
            monitor.record(prediction="own")
        return {"answer": secret}

    predict("s", True)
    predict("s", False)
    explicit, other = recorded(exporter, monitor)
    assert explicit["prediction"] == "own"
    assert explicit["duration_seconds"] > 0
    assert "inputs" not in explicit | other
    assert "prediction" not in other


# --- models ----------------------------------------------------------------------------------


def test_rows_of_a_frame(exporter: Exporter, monitor: Monitor, classifier: LogisticRegression) -> None:
    """predict records each row by column, with its label and its confidence."""
    model = monitor.wrap(classifier)
    labels = model.predict(FRAME)
    assert labels.tolist() == classifier.predict(FRAME).tolist()
    events = recorded(exporter, monitor)
    assert [event["inputs"] for event in events] == FRAME.to_dict("records")
    assert [event["prediction"] for event in events] == labels.tolist()
    best = classifier.predict_proba(FRAME).max(axis=1)
    assert [event["confidence"] for event in events] == pytest.approx(best.tolist())
    assert all(event["duration_seconds"] > 0 for event in events)
    assert model.classes_.tolist() == ["no", "yes"]
    assert model.score(FRAME, LABELS) == 1.0


def test_probabilities(exporter: Exporter, monitor: Monitor, classifier: LogisticRegression) -> None:
    """predict_proba records the likeliest class; both methods on the same rows are the same predictions."""
    model = monitor.wrap(classifier)
    rows = FRAME.head(2)
    for _ in range(2):
        shares = model.predict_proba(rows)
        model.predict(rows)
    events = recorded(exporter, monitor)
    assert [event["prediction"] for event in events] == ["no", "no"] * 2
    assert events[0]["confidence"] == pytest.approx(shares[0].max())


def test_arrays_have_the_names_of_training(
    exporter: Exporter, monitor: Monitor, classifier: LogisticRegression
) -> None:
    """Columns of an array have the names that the model learnt, given names, or x0, x1."""
    rows = FRAME.head(1).to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn would rather have the names itself
        monitor.wrap(classifier).predict(rows)
        monitor.wrap(classifier, names=["a", "b"], confidence=False, timed=False).predict(rows)
    unnamed = LinearRegression().fit(FRAME.to_numpy(), [1.0, 2.0, 3.0, 4.0])
    monitor.wrap(unnamed).predict([[20.0, 9.0]])
    first, second, third = recorded(exporter, monitor)
    assert first["inputs"] == {"age": 20, "debt": 9}
    assert second["inputs"] == {"a": 20, "b": 9}
    assert not second.keys() & {"confidence", "duration_seconds"}
    assert third["inputs"] == {"x0": 20, "x1": 9}
    assert third["prediction"] == pytest.approx(unnamed.predict([[20.0, 9.0]])[0])
    assert "confidence" not in third


def test_texts_and_sparse_rows(exporter: Exporter, monitor: Monitor) -> None:
    """Texts of a pipeline are the feature `text`; rows of a sparse matrix have no inputs."""
    texts = ["good film", "bad film", "good book", "bad book"]
    pipeline = make_pipeline(TfidfVectorizer(), MultinomialNB()).fit(texts, [1, 0, 1, 0])
    monitor.wrap(pipeline).predict(["good"])
    monitor.wrap(pipeline[-1]).predict(pipeline[0].transform(["bad"]))
    monitor.wrap(pipeline, names=["review"]).predict(pd.Series(["bad"]))
    events = [(event.get("inputs"), event["prediction"]) for event in recorded(exporter, monitor)]
    assert events == [({"text": "good"}, 1), (None, 0), ({"review": "bad"}, 0)]


def test_a_model_that_fails(exporter: Exporter, monitor: Monitor, classifier: LogisticRegression) -> None:
    """Its exception reaches the caller and counts as an error; a missing method stays missing."""
    model = monitor.wrap(classifier)
    with pytest.raises(ValueError, match="feature"):
        model.predict(FRAME[["age"]])
    assert [event["code"] for event in recorded(exporter, monitor)] == [500]
    assert not hasattr(monitor.wrap(LinearRegression()), "predict_proba")


def test_rows_beyond_the_capacity_are_dropped(exporter: Exporter, classifier: LogisticRegression) -> None:
    """Rows up to the capacity are recorded; the others count as dropped."""
    monitor = Monitor(exporter.url, "loans", capacity=10, interval=60)
    rows = pd.concat([FRAME] * 5)
    monitor.wrap(classifier).predict(rows)
    assert monitor.dropped == 10
    assert monitor.flush()
    assert monitor.sent == 10
    monitor.close(0)


def test_a_wrapped_model_is_pickled_without_its_monitor(monitor: Monitor, classifier: LogisticRegression) -> None:
    """A pickled wrapper is the model itself."""
    again = pickle.loads(pickle.dumps(monitor.wrap(classifier)))
    assert type(again) is LogisticRegression
    assert again.predict(FRAME).tolist() == classifier.predict(FRAME).tolist()
