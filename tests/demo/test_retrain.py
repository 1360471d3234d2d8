"""The loop closed for real: a service, an exporter, corrections, a release, the next version."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.servers import Answer, Served, ask, eventually, free_port

from demo import model, retraining, service
from demo.incidents import Incidents
from demo.retraining import Trainer, evaluate, retrain
from demo.service import Versions
from exporter import config
from exporter.client import Monitor
from exporter.errors import StackError
from exporter.http_client import Client
from exporter.profiles import profile as profile_file
from exporter.secret_file import signed_headers


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo")
    model.prepare(path)
    return path


class Demo:
    """The demo, whose exporter asks for a version after so many accepted corrections; 0 is never."""

    def __init__(self, folder: Path, corrections: int) -> None:
        self.folder = folder
        port = free_port()
        model.link(folder, "http://127.0.0.1:9", {}, f"http://127.0.0.1:{port}")
        written = (folder / model.CONFIG_FILE).read_text()
        assert "corrections: 50," in written
        (folder / model.CONFIG_FILE).write_text(written.replace("corrections: 50,", f"corrections: {corrections},"))
        self.exporter = Served(folder).start()
        self.incidents = Incidents(1)
        self.versions = Versions(folder, lambda v: Monitor(self.exporter.url, model.NAME, v, interval=0.01))
        self.exporter_client = Client(self.exporter.url, "--exporter")
        self.said: list[str] = []
        trainer = Trainer(folder, self.exporter_client, self.versions, self.said.append)
        app = service.create_app(self.versions, self.incidents, trainer, self.exporter.url)
        self._server = service.make_server("127.0.0.1", port, app, threaded=True, request_handler=service._Quiet)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.client = Client(self.url, "--service")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.versions.close()
        self.exporter.stop()

    def mistakes(self) -> tuple[int, int]:
        """Send each held-out image; users correct the confident mistakes, each tenth of them wrongly."""
        corrections = wrong_corrections = 0
        for index, (image, truth) in enumerate(zip(*model.held_out(self.folder), strict=True)):
            answer = ask(f"{self.url}/predict", {"image": image.tolist()}).json
            if answer["confidence"] >= 0.8 and answer["digit"] != str(truth):
                corrections += 1
                wrong = str((int(answer["digit"]) + 1) % 10) if corrections % 10 == 0 else str(truth)
                wrong_corrections += wrong != str(truth)
                feedback = {"prediction_id": answer["id"], "verdict": "corrected", "label": wrong}
                feedback["user"] = model.teacher(index)
                assert self.exporter.post("/v1/feedback", feedback).status == 201
        for item in self.versions.served:
            assert item.monitor.flush()
        return corrections, wrong_corrections

    def pending(self) -> int:
        pending = self.exporter.get("/v1/corrections?model=digits&status=pending&limit=1000").json["corrections"]
        return sum(item["inputs"] is not None for item in pending)


@pytest.fixture
def demo(request: pytest.FixtureRequest, prepared: Path, tmp_path: Path) -> Iterator[Demo]:
    folder = tmp_path / "demo"
    shutil.copytree(prepared, folder)
    running = Demo(folder, getattr(request, "param", 0))
    yield running
    running.close()


def test_the_dark_camera_is_learnt(demo: Demo) -> None:
    """Correct labels become the next version, which is served, judged by its own profile, and better in the dark."""
    demo.incidents.begin("dark", 3600)
    corrections, wrong_corrections = demo.mistakes()
    assert corrections > 100
    assert wrong_corrections > 5
    eventually(lambda: demo.pending() == corrections)
    printed: list[str] = []
    assert retrain(demo.folder, demo.exporter_client, demo.client, printed.append) == "2"

    statuses = Counter(item["status"] for item in demo.exporter.get("/v1/corrections?limit=1000").json["corrections"])
    assert statuses == {"accepted": corrections - wrong_corrections, "rejected": wrong_corrections}
    assert f"{corrections - wrong_corrections} corrections accepted, {wrong_corrections} rejected" in printed[0]

    # What is held back is in no training set: neither its corrections nor its images, dark or not.
    images, _ = model.held_out(demo.folder)
    dark = {demo.incidents.apply(image).tobytes(): model.teacher(index) for index, image in enumerate(images)}
    with np.load(demo.folder / "training-2.npz") as training, np.load(demo.folder / "training.npz") as first:
        assert np.array_equal(training["image"][: len(first["image"])], first["image"])
        learnt = [dark[image.tobytes()] for image in training["image"][len(first["image"]) :]]
    assert len(learnt) > 50
    assert set(learnt) == set(model.TEACHERS) - model.HELD_BACK

    def right(version: str, incident: str | None) -> float:
        demo.incidents.begin(incident, 3600)
        held_back = [index for index in range(len(images)) if model.teacher(index) in model.HELD_BACK]
        classifier, labels = model.load(demo.folder, version), model.held_out(demo.folder)[1]
        seen = model.rows(np.array([demo.incidents.apply(images[index]) for index in held_back]))
        return float((classifier.classes_[classifier.predict_proba(seen).argmax(1)] == labels[held_back]).mean())

    assert right("1", "dark") < 0.4 < 0.6 < right("2", "dark")
    assert right("2", None) > 0.95
    assert f"version 1 {right('1', 'dark'):.1%}" in printed[3]
    assert f"version 2 {right('2', 'dark'):.1%}" in printed[3]

    assert ask(f"{demo.url}/healthz").json["versions"] == ["1", "2"]
    demo.incidents.begin(None, 0)
    before = demo.exporter.samples("model_attempts_total")['model_attempts_total{model="digits",version="1"}']
    assert before == len(images)  # the reload kept what version 1 had counted
    demo.mistakes()
    info = demo.exporter.samples("model_info")
    for version in ("1", "2"):
        trained = profile_file.load(demo.folder / model.files_of(version).profile)
        assert f'model_info{{model="digits",version="{version}",profile="{trained.hash[:12]}"}}' in info
    after = demo.exporter.samples("model_attempts_total")
    shares = [after[f'model_attempts_total{{model="digits",version="{version}"}}'] for version in ("1", "2")]
    assert sum(shares) == 2 * len(images)
    assert abs(shares[1] / len(images) - 0.5) < 0.1


def test_a_sample_is_reviewed(demo: Demo) -> None:
    """Each confident prediction of the sample is judged by its true label, and the accuracy is estimated from it."""
    demo.mistakes()
    eventually(lambda: demo.exporter.get("/v1/corrections?model=digits&status=pending").json["corrections"])
    reviewed = retraining.review_sample(demo.exporter_client, demo.folder, 30)
    assert reviewed["right"] >= 28 and reviewed.total() == 30
    accuracy = demo.exporter.samples("model_reviewed_accuracy")
    assert 0.95 < accuracy['model_reviewed_accuracy{model="digits",version="1"}'] < 1


def test_later_versions_are_added_and_removed(prepared: Path, tmp_path: Path) -> None:
    """The configuration names each later version's profile and keeps the user's changes, until versions are removed."""
    folder = tmp_path / "demo"
    shutil.copytree(prepared, folder)
    path = folder / "exporter.yml"
    user_config = path.read_text().replace("windows: [5m, 1h]", "windows: [5m, 2h]  # mine")
    path.write_text(user_config)
    images, labels = model.held_out(folder)
    for version in ("2", "10"):
        model.train(folder, version, images[:200], labels[:200])
        model.configure(folder)
    assert model.versions(folder) == ["1", "2", "10"]
    (digits,) = config.load(path).models
    assert digits.profiles == {v: str(folder / f"digits-{v}.json") for v in ("2", "10")}
    assert digits.windows == ("5m", "2h")
    versions = Versions(folder, lambda v: Monitor("http://127.0.0.1:9", "digits", v))
    assert [item.version for item in versions.served] == ["2", "10"]
    with pytest.raises(StackError, match="expected one of 1, 2, 10"):
        versions.deploy("11")
    versions.deploy("1")
    assert [item.version for item in versions.served] == ["10", "1"]
    versions.close()
    assert len(evaluate(folder, "1", "2")) == 2
    model.forget(folder)
    assert path.read_text() == user_config
    assert sorted(file.name for file in folder.iterdir()) == sorted(model.FILES)
    path.write_text("models: [{name: digits}]")
    with pytest.raises(StackError, match="expected one line"):
        model.configure(folder)


def test_the_trainer_takes_genuine_requests_alone(demo: Demo) -> None:
    """A request without the right signature, an old one and one that cannot be read are refused with the reason."""
    secret = (demo.folder / model.SECRET_FILE).read_text().strip().encode()
    body = json.dumps({"type": "model.retrain", "data": {"release": None}}).encode()

    def send(content: bytes = body, key: bytes = secret, age: float = 0) -> Answer:
        headers = signed_headers(key, "r-1", int(time.time() - age), content)
        return ask(f"{demo.url}/retrain", content, **{name.replace("-", "_"): value for name, value in headers.items()})

    for answer, reason in (
        (ask(f"{demo.url}/retrain", body), "the signature does not match the body"),
        (send(key=b"x" * 32), "the signature does not match the body"),
        (send(age=400), "the request is too old"),
        (send(b"[]"), "expected a request for retraining"),
        (send(b"nonsense"), "expected a request for retraining"),
    ):
        assert (answer.status, json.loads(answer.body)["error"]) == (400, reason)
    assert ask(f"{demo.url}/retrain/r-1").status == 404
    assert [send().status, send().status] == [202, 202]
    eventually(lambda: ask(f"{demo.url}/retrain/r-1").json["state"] == "failed")
    assert model.versions(demo.folder) == ["1"]


@pytest.mark.parametrize("demo", [80], indirect=True, ids=["80"])
def test_enough_accepted_corrections_train_a_version_without_anybody(demo: Demo) -> None:
    """The whole loop: reviewers accept, the exporter asks, the trainer trains, and the new version is served."""
    demo.incidents.begin("dark", 3600)
    corrections, _ = demo.mistakes()
    eventually(lambda: demo.pending() == corrections)
    reviewed = retraining.review(demo.exporter_client, demo.folder, retraining.pending(demo.exporter_client))
    assert 80 < reviewed["accepted"] < 160  # however long it took, the exporter asks once
    eventually(lambda: ask(f"{demo.url}/healthz").json["versions"] == ["1", "2"], 90)
    assert re.match("the exporter asks for the next version: .* accepted corrections are in no release", demo.said[0])
    assert demo.said[1].startswith("  release digits-")
    eventually(lambda: demo.said[-1].startswith("  version 2 is trained on"))
    (asked,) = demo.exporter.get("/v1/retrain-requests").json["requests"]
    assert (asked["reason"], asked["status"]) == ("corrections", "delivered")
    assert "It took the request." in demo.exporter.get("/").text
