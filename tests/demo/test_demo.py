from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.batches import observe
from support.fake_exporter import Exporter, nobody
from support.servers import eventually

from demo import model, scenario, service
from demo.incidents import INCIDENTS, Incidents
from demo.retraining import Trainer
from demo.service import Versions
from demo.traffic import DIGITS_OF_A_SHEET, Traffic
from exporter import config
from exporter.client import Monitor as Client
from exporter.errors import StackError
from exporter.http_client import Client as HttpClient
from exporter.monitoring.binner import Binner
from exporter.monitoring.model_monitor import ModelMonitor
from exporter.profiles import profile as profile_file
from exporter.wire.events import Prediction


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo")
    model.prepare(path)
    return path


@pytest.fixture
def running(directory: Path, exporter: Exporter) -> Iterator[tuple[str, Incidents, Client]]:
    """The service on a real port: its URL, its incidents and its client."""
    with serving(directory, exporter) as service:
        yield service


@contextmanager
def serving(directory: Path, exporter: Exporter) -> Iterator[tuple[str, Incidents, Client]]:
    versions, incidents = Versions(directory, lambda v: Client(exporter.url, "digits", v, interval=0.01)), Incidents(1)
    trainer = Trainer(directory, HttpClient("http://127.0.0.1:9", "--exporter"), versions, lambda _: None)
    app = service.create_app(versions, incidents, trainer, exporter.url)
    server = service.make_server("127.0.0.1", 0, app, threaded=True, request_handler=service._Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}", incidents, versions.served[0].monitor
    server.shutdown()
    server.server_close()
    versions.close()


def ask(url: str, document: object = None, data: bytes | None = None) -> tuple[int, dict]:
    body = json.dumps(document).encode() if document is not None else data
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def judged(directory: Path, incident: str | None) -> tuple[float, float, dict[str, float]]:
    """Share of confident answers, share of wrong ones among them, and KL divergence by target."""
    images, labels = model.held_out(directory)
    incidents = Incidents(seed=1)
    incidents.begin(incident, 60)
    seen = np.array([incidents.apply(image) for image in images])
    classifier = model.load(directory)
    probabilities = classifier.predict_proba(model.rows(seen))
    digits, confidence = classifier.classes_[probabilities.argmax(axis=1)], probabilities.max(axis=1)
    settings = config.load(directory / "exporter.yml").models[0]
    binner = Binner(profile_file.load(Path(settings.profile)))
    monitor = ModelMonitor(settings, "1", binner)
    events = [
        Prediction("digits", prediction=str(d), confidence=float(c)) for d, c in zip(digits, confidence, strict=True)
    ]
    observe(
        monitor,
        events,
        [{"image": image.tolist(), "device": model.device(index)} for index, image in enumerate(seen)],
        100.0,
    )
    reading = monitor.read(101.0)["5m"]
    confident = confidence >= settings.confidence_threshold
    wrong = (digits != labels)[confident].mean()
    return (
        confident.mean(),
        wrong,
        dict(zip([*binner.names, "prediction", "confidence"], reading.kl.tolist(), strict=True)),
    )


def test_prepare_writes_what_an_exporter_needs(directory: Path) -> None:
    """The configuration loads, its profile is of the training part only, and both parts together are all digits."""
    settings = config.load(directory / "exporter.yml")
    (digits,) = settings.models
    trained = profile_file.load(Path(digits.profile))
    held_images, held_labels = model.held_out(directory)
    with np.load(directory / "training.npz") as training:
        assert sorted(training) == ["at", "confidence", "device", "image", "label", "prediction"]
        assert len(training["image"]) + len(held_images) == 1797
        assert trained.rows == len(training["image"])
        # honest: the model's answers on images it was not trained on, so that some are wrong
        assert 0.93 < (training["prediction"] == training["label"]).mean() < 0.99
    assert trained.name == digits.name == "digits"
    assert trained.inputs == {"image": "image", "device": "categorical"}
    assert digits.segment_by == "device" and digits.events == (model.EVENT,)
    assert trained.prediction is not None
    assert trained.confidence
    assert len(held_labels) == len(held_images)
    assert settings.store.url == f"sqlite:///{directory}/model-exporter.db"
    assert model.prepared(directory)
    assert not model.prepared(directory / "elsewhere")


def test_healthy_traffic_keeps_every_alert_silent(directory: Path) -> None:
    """Without an incident few confident answers are wrong and nothing drifts."""
    confident, wrong, divergence = judged(directory, None)
    assert confident > 0.75
    assert wrong < 0.005
    assert max(divergence.values()) < 0.1


@pytest.mark.parametrize(
    ("incident", "drifting"),
    [
        ("dark", {"image.intensity_mean", "image.intensity_stddev", "image.sharpness", "prediction", "confidence"}),
        ("noise", {"image.intensity_mean", "image.sharpness", "confidence"}),
        ("shifted", {"prediction", "confidence"}),
    ],
)
def test_incidents_have_their_documented_effect(directory: Path, incident: str, drifting: set[str]) -> None:
    """An incident causes drift as its text says, lower confidence, and confident wrong answers."""
    confident, wrong, divergence = judged(directory, incident)
    assert {name for name, score in divergence.items() if score > 0.3} == drifting
    assert 0.25 < confident < 0.5
    assert wrong > (0.02 if incident == "noise" else 0.3)


def test_service_answers_and_records(
    directory: Path, exporter: Exporter, running: tuple[str, Incidents, Client]
) -> None:
    """A digit is recognised, and the exporter records the answer."""
    url, _, monitor = running
    images, labels = model.held_out(directory)
    status, answer = ask(f"{url}/predict", {"image": images[0].tolist()})
    assert status == 200
    assert answer["digit"] == str(labels[0])
    assert monitor.flush()
    (event,) = exporter.events()
    assert (event["model"], event["version"], event["code"]) == ("digits", "1", 200)
    assert (event["id"], event["prediction"], event["confidence"]) == (
        answer["id"],
        answer["digit"],
        answer["confidence"],
    )
    assert event["inputs"] == {"image": images[0].tolist()}
    assert event["duration_seconds"] > 0


def test_incidents_over_http(directory: Path, exporter: Exporter, running: tuple[str, Incidents, Client]) -> None:
    """An incident is started, read and ended over HTTP; a dark camera reaches the exporter."""
    url, _, monitor = running
    image = model.held_out(directory)[0][0]
    nothing = {"name": None, "seconds_left": 0.0, "by_hand": False}
    assert ask(f"{url}/incident") == (200, {**nothing, "known": sorted(INCIDENTS)})
    status, answer = ask(f"{url}/incident", {"name": "dark"})
    assert (status, answer["name"], answer["by_hand"], answer["before"]) == (200, "dark", True, nothing)
    assert answer["seconds_left"] > INCIDENTS["dark"].seconds - 5
    ask(f"{url}/predict", {"image": image.tolist()})
    scenario.trigger(scenario.service_client(url), None, 0)
    assert ask(f"{url}/incident")[1]["name"] is None
    ask(f"{url}/predict", {"image": image.tolist()})
    assert monitor.flush()
    dark, light = (np.array(event["inputs"]["image"]) for event in exporter.events())
    assert dark.mean() < 0.8 * light.mean()
    for wrong in (
        {"name": "drak"},
        {"name": "dark", "seconds": -1},
        {"name": "dark", "seconds": True},
        ["dark"],
        {"by_hand": 1},
    ):
        assert ask(f"{url}/incident", wrong)[0] == 400
    with pytest.raises(StackError, match="expected one of dark"):
        scenario.trigger(scenario.service_client(url), "drak", 1)


def test_users_correct_wrong_answers(
    directory: Path, exporter: Exporter, running: tuple[str, Incidents, Client]
) -> None:
    """Users send images at the given rate, correct confident wrong answers, and confirm a few others."""
    url, incidents, monitor = running
    incidents.begin("dark", 60)
    images, labels = model.held_out(directory)
    truths = {image.tobytes(): str(label) for image, label in zip(images, labels, strict=True)}
    traffic = Traffic(
        url,
        monitor,
        images,
        labels,
        rate=20,
        delay=(0.1, 0.2),
        label_delay=(0.1, 0.2),
        exporter=HttpClient(exporter.url, "--exporter"),
        seed=1,
    )
    started = time.monotonic()
    traffic.start()
    assert eventually(lambda: traffic.counts["corrected"] >= 10 and traffic.counts["labelled"] >= 10)
    traffic.stop()
    assert traffic.counts["requests"] == pytest.approx(20 * (time.monotonic() - started), rel=0.3)
    assert traffic.counts["failed"] == traffic.counts["undelivered"] == 0
    assert monitor.flush()
    predictions = {event["id"]: event for event in exporter.events()}
    feedback = exporter.events("/v1/feedback")
    corrections = [item for item in feedback if item["verdict"] == "corrected"]
    assert len(corrections) == traffic.counts["corrected"]
    for item in corrections:
        assert predictions[item["prediction_id"]]["confidence"] >= 0.8
        assert predictions[item["prediction_id"]]["prediction"] != item["label"]
        assert item["label"] in set(truths.values())
        assert item["user"].startswith("teacher-")
    assert len(feedback) - len(corrections) < len(corrections)
    assert {event["inputs"]["device"] for event in predictions.values()} == set(model.DEVICES)
    events = exporter.events("/v1/events")
    assert len(events) == traffic.counts["confident"] // DIGITS_OF_A_SHEET > 0
    assert {event["event"] for event in events} == {model.EVENT}
    entered = [label for batch in exporter.events("/v1/labels") for label in batch]
    assert len(entered) == traffic.counts["labelled"]
    wrong = {item["prediction_id"] for item in corrections} & {label["prediction_id"] for label in entered}
    for label in entered:
        assert label["model"] == model.NAME
        assert label["label"] in set(truths.values())
        predicted = predictions[label["prediction_id"]]["prediction"]
        assert label["prediction_id"] not in wrong or label["label"] != predicted


def test_the_default_scenario_lets_each_alert_fire() -> None:
    """The default scenario has both incidents, each as long as its alerts need, and health before and after."""
    phases = scenario.parse(scenario.DEFAULT)
    first = ["healthy", "sample", "errors", "healthy", "dark", "healthy"]
    assert [phase.name for phase in phases] == [*first, "retrain", "dark", "compare"]
    for phase in phases:
        if phase.name in INCIDENTS:
            assert phase.seconds >= INCIDENTS[phase.name].seconds


def test_the_scenario_waits_for_an_incident_that_was_started_by_hand(running: tuple[str, Incidents, Client]) -> None:
    """The scenario never ends an incident that was started by hand; it announces its start and end, and goes on."""
    url, incidents, _ = running
    printed: list[str] = []
    begun: list[tuple[str | None, bool]] = []
    incidents.begin("slow", 1.2)

    def wait(seconds: float) -> bool:
        begun.append(incidents.current()[::2])
        time.sleep(seconds)
        if len(begun) == 2:
            incidents.begin("noise", 1.2)
        return "the scenario has ended" in printed[-1]

    scenario.Scenario(scenario.service_client(url), Counter(), wait, printed.append).run(
        scenario.parse("dark=2s,healthy=1s")
    )
    assert [line.split(":")[0].strip() for line in printed if "look for" not in line] == [
        "dark for 2s",
        "slow, started by hand, for 1s",
        "slow, started by hand, ended.",
        "noise, started by hand, for 1s",
        "noise, started by hand, ended; the scenario goes on.",
        "dark ended",
        "healthy for 1s",
        "healthy ended",
        printed[-1].split(":")[0],
    ]
    assert begun.count(("dark", False)) == 2
    assert incidents.begin("dark", 60).name is None
    assert scenario.trigger(scenario.service_client(url), "errors", 5, by_hand=False) == (
        "dark",
        pytest.approx(60, abs=2),
        True,
    )
    assert incidents.current().name == "dark"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("helthy=3m", "'helthy' is not a valid phase; did you mean \"healthy\"?"),
        ("dark", "dark: expected a duration such as 5m or 1h"),
        ("dark=0s", "dark: expected a duration"),
        ("", "'' is not a valid phase"),
        ("retrain=3m", "retrain: takes the time it needs; expected no duration"),
    ],
)
def test_invalid_phases(text: str, message: str) -> None:
    """A phase that is not valid is refused with what would be."""
    with pytest.raises(ValueError) as caught:
        scenario.parse(text)
    assert message in str(caught.value)


class Demo:
    """The command as a process."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "demo", "run", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        if number:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err

    def child(self) -> psutil.Process:
        process = psutil.Process(self.process.pid)
        assert eventually(lambda: len(process.children()) == 1, 20)
        return process.children()[0]


def address() -> str:
    return nobody().removeprefix("http://")


def test_the_whole_demo(directory: Path, exporter: Exporter) -> None:
    """The scenario is announced while predictions arrive, an incident can be added, and SIGTERM leaves nothing."""
    listen = address()
    demo = Demo(
        *("--directory", directory, "--exporter", exporter.url, "--listen-address", listen),
        *("--rate", 50, "--phases", "healthy=1s,dark=2s"),
    )
    child = demo.child()
    lines = [demo.process.stdout.readline() for _ in range(8)]
    assert "healthy for 1s: the service is healthy." in lines[1]
    assert "dark for 2s: the camera goes dark" in lines[4]
    assert "ModelCorrectionRatioHigh" in lines[5]
    assert "dark ended:" in lines[6]
    assert "the service stays healthy" in lines[7]
    by_hand = ("--listen-address", listen, "--seconds", 90, "--incident")
    code, out, err = Demo(*by_hand, "errors").end()
    assert (code, err) == (0, "")
    assert out.startswith("For 1m30s a dependency of the service breaks")
    assert "\nLook for:\n- the error ratio rises to 5%\n- ModelErrorRatioHigh" in out
    assert "\n  " in out and "python -m demo run --incident=none" in out
    with urllib.request.urlopen(f"http://{listen}/", timeout=60) as page:
        assert f'href="{exporter.url}/review"' in page.read().decode()
    assert ask(f"http://{listen}/incident")[1]["name"] == "errors"
    assert "errors, started by hand, for 1m" in demo.process.stdout.readline()
    assert "look for:" in demo.process.stdout.readline()
    assert "It replaces errors, started by hand" in Demo(*by_hand, "dark").end()[1]
    assert "Ended dark, started by hand, with" in Demo(*by_hand, "none").end()[1]
    assert "nothing to end" in Demo(*by_hand, "none").end()[1]
    image = model.held_out(directory)[0][0].tolist()
    last = ask(f"http://{listen}/predict", {"image": image})[1]["id"]
    code, out, err = demo.end(signal.SIGTERM)
    assert (code, err) == (0, "")
    assert out.endswith("stopping\n")
    assert not child.is_running()
    assert last in [event["id"] for event in exporter.events()]  # what was recorded last was flushed
    brightness = [np.mean(event["inputs"]["image"]) for event in exporter.events() if event["code"] == 200]
    assert np.mean(brightness[:30]) > 4.5
    assert min(np.mean(brightness[start : start + 30]) for start in range(len(brightness) - 30)) < 3
    with pytest.raises(urllib.error.URLError, match="Connection refused"):
        ask(f"http://{listen}/incident")


def test_killed_demo_ends_its_service(directory: Path, exporter: Exporter) -> None:
    """Even SIGKILL leaves no service running."""
    demo = Demo("--directory", directory, "--exporter", exporter.url, "--listen-address", address())
    child = demo.child()
    demo.process.stdout.readline()
    demo.end(signal.SIGKILL)
    assert eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 10)


def test_busy_port(directory: Path, exporter: Exporter) -> None:
    """A busy port is named, and nothing keeps running."""
    busy = exporter.url.removeprefix("http://")
    code, _, err = Demo("--directory", directory, "--exporter", exporter.url, "--listen-address", busy).end()
    assert code == 1
    assert f"cannot listen on {busy}" in err
    assert "--listen-address" in err


def test_incident_without_service() -> None:
    """An incident without a running service is an error that says how to start one."""
    code, out, err = Demo("--incident", "dark", "--service", nobody()).end()
    assert (code, out) == (1, "")
    assert "no model service responds" in err


def test_unreachable_exporter(directory: Path) -> None:
    """An unreachable exporter is named, with the command that starts one."""
    code, _, err = Demo("--directory", directory, "--exporter", nobody()).end()
    assert code == 1
    assert f"model-exporter serve --config.file={directory}/exporter.yml" in err


def test_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """A directory that is a file is named, with advice."""
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="choose another --directory"):
        model.prepare(tmp_path / "file")
