from __future__ import annotations

import base64
import contextlib
import datetime as dt
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.certificates import certificate
from support.dripping_server import DRIPS, dripping_server
from support.fake_exporter import Exporter, nobody
from support.paths import ROOT
from support.reviewers import in_parallel
from support.servers import Served, eventually, write_config

from exporter import client
from exporter.client import Monitor
from exporter.errors import ExporterError


@contextlib.contextmanager
def monitoring(url: str, **options: object) -> Iterator[Monitor]:
    monitor = Monitor(url, "digits", "3", **{"interval": 0.01, **options})
    try:
        yield monitor
    finally:
        monitor.close(timeout=0)


def test_records_arrive_complete_and_in_order(exporter: Exporter) -> None:
    """Every field of the contract arrives in the recorded order, and counts as sent."""
    with monitoring(exporter.url) as monitor:
        at = dt.datetime(2026, 11, 24, 11, 0, tzinfo=dt.timezone(dt.timedelta(hours=1)))
        image = [[0, 12], [3, 16]]
        answered = {"prediction": "7", "confidence": 0.93, "duration_seconds": 0.012}
        first = monitor.record(id="r-17", inputs={"image": image}, time=at, **answered)
        image[0][0] = 99  # what is recorded is what was there at the call
        second = monitor.record(code=503, time=1.5)
        assert monitor.flush()
        assert (monitor.sent, monitor.dropped) == (2, 0)
    assert first == "r-17"
    assert exporter.events() == [
        {
            "id": "r-17",
            "model": "digits",
            "version": "3",
            "time": "2026-11-24T10:00:00Z",
            "inputs": {"image": [[0, 12], [3, 16]]},
            "prediction": "7",
            "confidence": 0.93,
            "duration_seconds": 0.012,
            "code": 200,
        },
        {"id": second, "model": "digits", "version": "3", "time": "1970-01-01T00:00:01.500000Z", "code": 503},
    ]


def test_a_shadow_answer_has_the_identifier_of_what_the_user_saw(exporter: Exporter) -> None:
    """It is given, or that of the surrounding request, of which it takes nothing else; without one it is dropped."""
    with monitoring(exporter.url) as monitor, monitoring(exporter.url, shadow=True) as shadow:

        @monitor.watch
        def predict(age: int) -> str:
            shadow.record(prediction="no")
            return "yes"

        predict(41)
        assert shadow.record(id="r-17", prediction="no", duration_seconds=0.1) == "r-17"
        assert shadow.record(prediction="no") == ""
        assert monitor.flush()
        assert shadow.flush()
        assert (monitor.sent, shadow.sent, shadow.dropped) == (1, 2, 1)
    events = exporter.events()
    (seen,) = (event for event in events if "shadow" not in event)
    inside, given = (event for event in events if event.pop("shadow", False) is True)
    assert (seen["inputs"], seen["prediction"]) == ({"age": 41}, "yes")
    assert inside.pop("time") and given.pop("time")
    answer = {"model": "digits", "version": "3", "prediction": "no", "code": 200}
    assert inside == {"id": seen["id"], **answer}
    assert given == {"id": "r-17", "duration_seconds": 0.1, **answer}


def test_ids_follow_time() -> None:
    """Generated identifiers are distinct and sort by creation time."""
    with monitoring(nobody()) as monitor:
        ids = []
        for _ in range(50):
            ids.append(monitor.record())
            time.sleep(0.00001)
    assert ids == sorted(set(ids))


def test_batches_over_one_connection(exporter: Exporter) -> None:
    """Events travel in batches of the given size over one persistent connection, each with its own key."""
    with monitoring(exporter.url, batch_size=10) as monitor:
        for _ in range(25):
            monitor.record()
        assert monitor.flush()
        monitor.record()
        assert monitor.flush()
        assert monitor.sent == 26
    assert max(len(request["events"]) for request in exporter.requests) == 10
    assert len({request["peer"] for request in exporter.requests}) == 1
    assert len({request["headers"]["Idempotency-Key"] for request in exporter.requests}) == len(exporter.requests)
    assert {request["headers"]["Content-Type"] for request in exporter.requests} == {"application/x-ndjson"}


def test_a_single_event_waits_for_the_interval(exporter: Exporter) -> None:
    """A single event waits for the interval; a full batch is sent at once."""
    with monitoring(exporter.url, interval=30, batch_size=5) as monitor:
        monitor.record()
        time.sleep(0.1)
        assert exporter.requests == []
        for _ in range(4):
            monitor.record()
        assert eventually(lambda: monitor.sent == 5)
    assert [len(request["events"]) for request in exporter.requests] == [5]


def test_retries_with_the_same_key(exporter: Exporter) -> None:
    """A batch whose response is lost or an error is sent again with its Idempotency-Key, and counted once."""
    exporter.answers = [(500, {}, {}), None, (429, {}, {}), (202, {}, {"accepted": 1, "rejected": []})]
    with monitoring(exporter.url) as monitor:
        monitor.record()
        assert monitor.flush(10)
        assert (monitor.sent, monitor.dropped) == (1, 0)
    assert len(exporter.requests) >= 4
    assert len({request["headers"]["Idempotency-Key"] for request in exporter.requests}) == 1


def test_honours_retry_after(exporter: Exporter) -> None:
    """The client waits for the Retry-After of a full queue, even if its own retry would be sooner."""
    exporter.answers = [(503, {"Retry-After": "1"}, {})]
    with monitoring(exporter.url) as monitor:
        monitor.record()
        assert monitor.flush()
    first, second = exporter.requests
    assert second["at"] - first["at"] >= 1.0


def test_idle_connection_closed_by_the_server(exporter: Exporter, caplog: pytest.LogCaptureFixture) -> None:
    """If the server closed a persistent connection, the batch is sent at once on a new one."""
    exporter.hang_up_after_each = True
    with monitoring(exporter.url) as monitor:
        for _ in range(3):
            monitor.record()
            assert monitor.flush()
        assert monitor.sent == 3
    assert not caplog.records  # as there are when it is tried again later


def test_an_unreachable_exporter_does_not_affect_the_service(caplog: pytest.LogCaptureFixture) -> None:
    """Without an exporter records are quick, memory is bounded, the newest are kept, and one warning is logged."""
    with monitoring(nobody(), capacity=100, interval=60) as monitor:
        started = time.process_time()
        for _ in range(10_000):
            monitor.record(inputs={"age": 41}, prediction="7", confidence=0.9)
        assert time.process_time() - started < 2
        assert monitor.dropped == 9_900
        assert monitor.flush(0.1) is False
    assert monitor.dropped == 10_000
    assert monitor.sent == 0
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert isinstance(monitor.record(), str)
    assert monitor.dropped == 10_001


def test_memory_is_bounded_in_bytes() -> None:
    """Large inputs displace older events before they fill the memory."""
    with monitoring(nobody(), capacity_bytes=100_000, interval=60) as monitor:
        for _ in range(20):
            monitor.record(inputs={"text": "x" * 20_000})
        assert monitor.dropped == 16


def test_delivers_when_the_exporter_comes_back(exporter: Exporter) -> None:
    """Events recorded during an outage arrive after it."""
    exporter.close()
    with monitoring(exporter.url) as monitor:
        for number in range(3):
            monitor.record(id=f"r-{number}")
        assert monitor.flush(0.1) is False
        again = Exporter(exporter.server.server_port)
        assert monitor.flush(10)
        again.close()
    assert [event["id"] for event in again.events()] == ["r-0", "r-1", "r-2"]


def test_a_batch_that_keeps_failing_is_dropped(exporter: Exporter) -> None:
    """A batch that fails for too long is dropped in favour of the next one."""
    exporter.answers = [(500, {}, {})] * 2
    with monitoring(exporter.url, give_up=0.25) as monitor:
        monitor.record(id="poison")
        assert monitor.flush()
        exporter.answers = []
        monitor.record(id="good")
        assert monitor.flush()
        assert (monitor.sent, monitor.dropped) == (1, 1)
    assert [event["id"] for event in exporter.events()] == ["good"]


def test_refused_events_count_as_dropped(exporter: Exporter) -> None:
    """Events that the exporter refuses, some or all of a batch, are dropped and not sent again."""
    exporter.answers = [
        (202, {}, {"accepted": 1, "rejected": [{"index": 1, "pointer": "/confidence", "detail": "…"}]}),
        (400, {}, {"title": "Bad Request", "status": 400, "detail": "no event was good"}),
    ]
    with monitoring(exporter.url, interval=0.1) as monitor:
        monitor.record()
        monitor.record(confidence=1.7)
        assert monitor.flush()
        assert (monitor.sent, monitor.dropped) == (1, 1)
        monitor.record(confidence=1.7)
        assert monitor.flush()
        assert (monitor.sent, monitor.dropped) == (1, 2)
    assert len(exporter.requests) == 2


def test_values_that_json_lacks(exporter: Exporter) -> None:
    """Numpy is converted, NaN is missing, and infinities and unknown objects become text, which counts as invalid."""
    with monitoring(exporter.url) as monitor:
        monitor.record(
            inputs={"image": np.eye(2), "age": np.int64(41), "height": np.float32("nan"), "width": float("inf")},
            prediction=np.str_("7"),
            confidence=np.float64(0.5),
        )
        monitor.record(inputs={"when": dt.date(2026, 11, 24), "scores": [float("nan"), 1.0]}, confidence=float("nan"))
        assert monitor.flush()
    first, second = exporter.events()
    assert first["inputs"] == {"image": [[1, 0], [0, 1]], "age": 41, "height": None, "width": "inf"}
    assert (first["prediction"], first["confidence"]) == ("7", 0.5)
    assert second["inputs"] == {"when": "2026-11-24", "scores": [None, 1.0]}
    assert second["confidence"] is None


def test_an_event_that_cannot_be_encoded_is_dropped() -> None:
    """A circular value or an invalid time is counted and raises nothing."""
    with monitoring(nobody()) as monitor:
        circle: dict = {}
        circle["circle"] = circle
        assert monitor.record(id="a", inputs=circle) == "a"
        assert monitor.record(id="b", time="noon") == "b"  # type: ignore[arg-type]
        assert monitor.dropped == 2


@pytest.mark.parametrize("status", [202, 400])
def test_an_unreadable_response_does_not_stop_the_sender(exporter: Exporter, status: int) -> None:
    """A batch whose response cannot be read counts as dropped, and the next one is sent."""
    exporter.answers = [(status, {}, b"[" * 200_000)]
    with monitoring(exporter.url) as monitor:
        monitor.record()
        assert monitor.flush()
        assert (monitor.sent, monitor.dropped) == (0, 1)
        monitor.record(id="good")
        assert monitor.flush()
        assert (monitor.sent, monitor.dropped) == (1, 1)
    assert [event["id"] for event in exporter.events()] == ["good"]


def test_close_sends_the_queue(exporter: Exporter) -> None:
    """close() delivers the queue, may be called twice, and ends the thread."""
    monitor = Monitor(exporter.url, "digits", interval=60)
    monitor.record()
    monitor.close()
    monitor.close()
    assert (monitor.sent, monitor.dropped) == (1, 0)
    assert "version" not in exporter.events()[0]
    assert eventually(lambda: not any(thread.name == "monitor digits" for thread in threading.enumerate()))


def _python(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout


def _ids_of(exporter: Exporter, code: str) -> list[str]:
    """Record in a process of its own, and return the identifiers that arrived, sorted."""
    head = "import os, sys, warnings; from exporter import Monitor\nwarnings.simplefilter('ignore')\n"
    _python(f"{head}monitor = Monitor(sys.argv[1], 'digits', interval=60)\n{code}", exporter.url)
    return sorted(event["id"] for event in exporter.events())


def test_the_queue_is_sent_at_exit(exporter: Exporter) -> None:
    """A process that ends without close() still delivers."""
    assert _ids_of(exporter, "monitor.record(id='last')") == ["last"]


def test_exit_does_not_wait_for_an_unreachable_exporter(exporter: Exporter) -> None:
    """A process ends after two seconds, however many of its exporters are unreachable; the others get their events."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections, and never answers
        seconds = _python(
            "import atexit, sys, time; ends = []\n"
            "atexit.register(lambda: print(time.monotonic() - ends[0]))  # the first to register is the last to run\n"
            "from exporter.client import Monitor\n"
            "monitors = [Monitor(url, 'digits', interval=60) for url in sys.argv[1:]]\n"
            "for monitor in monitors: monitor.record(id='last')\n"
            "ends.append(time.monotonic())",
            nobody(),
            f"http://127.0.0.1:{silent.getsockname()[1]}",
            nobody(),
            exporter.url,
        )
    assert 1.5 < float(seconds) < 4
    assert [event["id"] for event in exporter.events()] == ["last"]


def test_fork_starts_empty(exporter: Exporter) -> None:
    """After a fork the child sends only its own events, over its own connection; the parent's are sent once."""
    code = (
        "monitor.record(id='before'); monitor.flush(); monitor.record(id='parent')\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    assert (monitor.sent, monitor.dropped) == (0, 0)\n"
        "    monitor.record(id='child'); monitor.close(); os._exit(monitor.sent != 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
        "monitor.close(); assert monitor.sent == 2"
    )
    assert _ids_of(exporter, code) == ["before", "child", "parent"]
    peers = {event["id"]: request["peer"] for request in exporter.requests for event in request["events"]}
    assert peers["before"] == peers["parent"] != peers["child"]


def test_many_threads(exporter: Exporter) -> None:
    """Events from many threads arrive, each once."""
    with monitoring(exporter.url) as monitor:
        in_parallel(*[lambda: [monitor.record(prediction="7") for _ in range(200)]] * 8)
        assert monitor.flush()
        assert (monitor.sent, monitor.dropped) == (1600, 0)
    assert len({event["id"] for event in exporter.events()}) == 1600


def test_feedback_returns_the_response(exporter: Exporter) -> None:
    """Feedback is one POST with a key, and returns the response."""
    with monitoring(exporter.url) as monitor:
        assert monitor.feedback("r-17", "corrected", label=np.int64(1), user="teacher-4") == {"id": "f-1"}
    request = exporter.requests[0]
    assert request["path"] == "/v1/feedback"
    assert request["headers"]["Idempotency-Key"]
    assert request["events"] == [{"prediction_id": "r-17", "verdict": "corrected", "label": 1, "user": "teacher-4"}]


def test_a_label_is_sent_with_its_model(exporter: Exporter) -> None:
    """A label is one POST, and returns the response; one that was refused is an error with the reason."""
    problem = {"detail": "the body is wrong", "errors": [{"pointer": "/label", "detail": "is required"}]}
    with monitoring(exporter.url) as monitor:
        assert monitor.label("r-17", np.array([1]), time=1764000000.0) == {"accepted": 1, "joined": 1}
        assert exporter.requests[0]["path"] == "/v1/labels"
        exporter.answers = [(400, {}, problem)]
        with pytest.raises(ExporterError, match="label refused: 400 the body is wrong; /label: is required"):
            monitor.label("r-17", None)
        exporter.answers = [(400, {}, {**problem, "detail": "/label: is required"})]
        with pytest.raises(ExporterError, match=r"label refused: 400 /label: is required$"):
            monitor.label("r-17", None)
        exporter.answers = [(400, {}, {"detail": "is no JSON", "errors": [{"pointer": "", "detail": "is no JSON"}]})]
        with pytest.raises(ExporterError, match=r"label refused: 400 is no JSON$"):
            monitor.label("r-17", None)
    label = exporter.requests[0]["events"][0]
    assert label.pop("model") == exporter.requests[1]["events"][0]["model"]
    assert label == {"prediction_id": "r-17", "label": 1, "time": "2025-11-24T16:00:00Z"}


def test_feedback_raises_when_it_is_not_stored(exporter: Exporter) -> None:
    """Feedback that was not stored is never reported as stored; the error has the reason."""
    problem = {"detail": "the body is wrong", "errors": [{"pointer": "/verdict", "detail": "is not possible"}]}
    exporter.answers = [(400, {}, problem), (503, {"Retry-After": "1"}, {}), None, (200, {}, {"id": "f-1"})]
    with monitoring(exporter.url) as monitor:
        with pytest.raises(ExporterError, match="400 the body is wrong; /verdict: is not possible"):
            monitor.feedback("r-17", "corected")
        with pytest.raises(ExporterError, match="503"):
            monitor.feedback("r-17", "corrected")
        with pytest.raises(ExporterError, match="not delivered"):
            monitor.feedback("r-17", "corrected")
        assert monitor.feedback("r-17", "corrected") == {"id": "f-1"}
    with monitoring(nobody()) as monitor, pytest.raises(ExporterError, match="not delivered"):
        monitor.feedback("r-17", "corrected")


LARGE = [
    (b"HTTP/1.1 200 OK\r\n" + head + b"\r\n", b"x" * (8 << 20), 1, "IncompleteRead")
    for head in (b"", b"Content-Length: 8388608\r\n")
]


@pytest.mark.parametrize(
    ("begin", "again", "times", "reason"), [*((*drip, 10**6, "timed out") for drip in DRIPS), *LARGE]
)
def test_a_response_ends_within_the_timeout_and_a_bounded_memory(
    begin: bytes, again: bytes, times: int, reason: str
) -> None:
    """A server that sends a byte now and then does not hold the service's thread, and many bytes are an error."""
    with (
        dripping_server(begin, again, times=times) as url,
        monitoring(url, timeout=0.1 if times > 1 else 5) as monitor,
        pytest.raises(ExporterError, match=reason),
    ):
        monitor.feedback("r-1", "accepted")


def test_prefix_and_basic_authentication(exporter: Exporter) -> None:
    """A path in the URL is a prefix, user and password become basic authentication and are not shown."""
    url = exporter.url.replace("//", "//ada:l%40ce@") + "/monitoring/"
    with monitoring(url) as monitor:
        monitor.record()
        assert monitor.flush()
        exporter.answers = [(401, {}, {"detail": "who are you?"})]
        with pytest.raises(ExporterError) as caught:
            monitor.feedback("r-17", "accepted")
    assert exporter.requests[0]["path"] == "/monitoring/v1/predictions"
    assert exporter.requests[0]["headers"]["Authorization"] == "Basic " + base64.b64encode(b"ada:l@ce").decode()
    assert "l@ce" not in str(caught.value)
    assert "l%40ce" not in str(caught.value)


def test_a_token_from_a_file(exporter: Exporter, tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    """Every request has the token of the file, a changed one from the next request on, and no log contains it."""
    file = tmp_path / "token"
    file.write_text("mex_first\n")
    with monitoring(exporter.url, token_file=file, give_up=0.5) as monitor:
        monitor.record()
        assert monitor.flush()
        file.write_text("mex_second=")
        monitor.feedback("r-17", "accepted")
        sent = [request["headers"]["Authorization"] for request in exporter.requests]
        assert sent == ["Bearer mex_first", "Bearer mex_second="]
        file.write_bytes(b"mex_half\xff and\nmore")
        monitor.record()
        assert eventually(lambda: monitor.dropped == 1 and "expected one bearer token" in caplog.text)
        with pytest.raises(ExporterError, match="expected one bearer token and nothing else") as caught:
            monitor.feedback("r-17", "accepted")
    assert "mex_" not in caplog.text + str(caught.value)


def test_a_token_from_the_environment(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """MODEL_EXPORTER_TOKEN is the token where neither a file nor a user is given."""
    monkeypatch.setenv("MODEL_EXPORTER_TOKEN", "mex_of-here")
    for url in (exporter.url, exporter.url.replace("//", "//ada:love@")):
        with monitoring(url) as monitor:
            monitor.feedback("r-17", "accepted")
    sent = [request["headers"]["Authorization"] for request in exporter.requests]
    assert sent == ["Bearer mex_of-here", "Basic " + base64.b64encode(b"ada:love").decode()]


def test_an_invalid_token_is_refused_at_once(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or empty token file is refused by the constructor, and so are two kinds of credentials."""
    (tmp_path / "empty").touch()
    for url, file in (("http://h", "none"), ("http://h", "empty"), ("http://ada:love@h", "empty")):
        with pytest.raises(ExporterError, match="token"):
            Monitor(url, "digits", token_file=tmp_path / file)
    monkeypatch.setenv("MODEL_EXPORTER_TOKEN", "two words")
    with pytest.raises(ExporterError, match="MODEL_EXPORTER_TOKEN") as caught:
        Monitor("http://h", "digits")
    assert "two words" not in str(caught.value)


@pytest.mark.parametrize("url", ["", "127.0.0.1:9877", "ftp://127.0.0.1", "http://", "http://h:port", "http://h:99999"])
def test_invalid_url(url: str) -> None:
    """An invalid URL is refused by the constructor, not later in a thread."""
    with pytest.raises(ExporterError):
        Monitor(url, "digits")


def test_https(exporter: Exporter, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https exporter is verified against the certificates that the system trusts."""
    certificate(tmp_path, "server")
    exporter.serve_tls(tmp_path / "server.crt", tmp_path / "server.key")
    url = exporter.url
    untrusted = r"not trusted \(self-signed certificate\): .*ca_file"
    with monitoring(url) as monitor, pytest.raises(ExporterError, match=untrusted):
        monitor.feedback("r-17", "accepted")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.crt"))
    with monitoring(url) as monitor:
        monitor.record()
        assert monitor.flush()
        assert monitor.feedback("r-17", "accepted") == {"id": "f-1"}


def test_a_daemonizing_parent_sends_its_events(exporter: Exporter) -> None:
    """Events from before a fork are sent although the parent ends without `close`, as daemons do."""
    _ids_of(exporter, "monitor.record(id='parent')\nif os.fork(): os._exit(0)\nmonitor.record(id='child')")
    assert eventually(lambda: sorted(event["id"] for event in exporter.events()) == ["child", "parent"])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing(exporter: Exporter, method: str, tmp_path) -> None:
    """A worker sends its events before it ends, however it was started, though such processes skip atexit."""
    (tmp_path / "work.py").write_text(
        "import multiprocessing, sys, warnings\n"
        "from exporter import Monitor\n"
        "warnings.simplefilter('ignore')\n"
        "monitor = Monitor(sys.argv[1], 'digits', interval=60)\n"
        "def work(number):\n"
        "    for _ in range(10): monitor.record(id=f'{number}-{_}')\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context(sys.argv[2])\n"
        "    workers = [context.Process(target=work, args=(n,)) for n in range(3)]\n"
        "    for one in workers: one.start()\n"
        "    for one in workers: one.join()\n"
    )
    subprocess.run([sys.executable, tmp_path / "work.py", exporter.url, method], check=True, timeout=60)
    assert sorted(event["id"] for event in exporter.events()) == sorted(f"{n}-{i}" for n in range(3) for i in range(10))


def test_a_fork_in_a_request_duplicates_nothing(exporter: Exporter) -> None:
    """A fork in the middle of a recorded call duplicates nothing: the child's own records are sent at once."""
    code = (
        "@monitor.watch\n"
        "def work():\n"
        "    monitor.record(id='parent')\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        assert monitor.prediction_id is None\n"
        "        monitor.record(id='child')\n"
        "    else: os.waitpid(child, 0)\n"
        "work()"
    )
    assert _ids_of(exporter, code) == ["child", "parent"]


def test_a_signal_that_records_while_recording(exporter: Exporter) -> None:
    """A signal handler may record in the middle of a record: nothing hangs or is lost."""
    _python(
        "import signal, sys; from exporter import Monitor\n"
        "monitor = Monitor(sys.argv[1], 'digits', interval=0.01, capacity=50_000)\n"
        "seen = []\n"
        "signal.signal(signal.SIGALRM, lambda *_: seen.append(monitor.record()))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.02)\n"  # not so often that handlers nest without end
        "own = [monitor.record() for _ in range(20_000)]\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
        "assert monitor.flush(20) and seen\n"
        "assert monitor.sent == len(own) + len(seen) == len({*own, *seen}), (monitor.sent, len(own), len(seen))",
        exporter.url,
    )


def test_the_package_exports_the_monitor() -> None:
    """`from exporter import Monitor` is all a service needs, and nothing else is public there."""
    import exporter as package

    assert package.__all__ == ["Monitor"]
    assert package.Monitor is Monitor


def test_the_client_works_without_dependencies(tmp_path, exporter: Exporter) -> None:
    """Installed without dependencies the client works, and the command says what the server needs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True, timeout=60)
    python = tmp_path / "bare" / "bin" / "python"
    bare = {"PYTHONPATH": str(Path(client.__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    code = "import sys; from exporter import Monitor; m = Monitor(sys.argv[1], 'digits'); m.record(id='bare')"
    subprocess.run([python, "-W", "error", "-c", code, exporter.url], check=True, timeout=30, env=bare)
    assert [event["id"] for event in exporter.events()] == ["bare"]
    (metadata,) = (tmp_path / "bare" / "lib").glob("*/site-packages")
    installed = metadata / "prometheus_model_exporter-0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Name: prometheus-model-exporter\nVersion: 0\n")
    for command in (["serve"], ["check-config"], ["profile", "x.csv"]):
        line = [python, "-W", "error", "-m", "exporter.cli", *command]
        result = subprocess.run(line, capture_output=True, text=True, timeout=30, env=bare, check=False)
        assert result.returncode == 1, command
        expected = r'model-exporter: \w+ is not installed: pip install "prometheus-model-exporter\[server\]"\n'
        assert re.fullmatch(expected, result.stderr), result.stderr


def test_the_examples_of_the_client_page(exporter: Exporter) -> None:
    """The Python of docs/client.md runs in order against an exporter."""
    page = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    _python("\n".join(blocks).replace("http://127.0.0.1:9877", exporter.url))
    events = [event for event in exporter.events() if "shadow" not in event]
    (shadow,) = (event for event in exporter.events() if "shadow" in event)
    person = {"age": 41, "country": "NL"}
    assert [event["inputs"] for event in events] == [person, person, {"age": 41, "income": 2500}, person]
    assert (shadow["id"], shadow["version"]) == (events[-1]["id"], "4")
    assert all(event["prediction"] in {"yes", "no"} and event["confidence"] > 0.5 for event in events)


def test_an_exporter_on_a_unix_socket(tmp_path) -> None:
    """`--web.unix-socket` accepts events and feedback as the port does, and only its user can access the file."""
    write_config(tmp_path)
    path = tmp_path / "exporter.sock"
    served = Served(tmp_path, f"--web.unix-socket={path}").start()
    monitor = Monitor(f"unix://{path}", "credit", "3")
    monitor.record(id="r-1", inputs={"age": 41}, prediction="yes", confidence=0.9)
    assert monitor.flush()
    assert monitor.sent == 1
    assert monitor.feedback("r-1", "corrected", label="no")["verdict"] == "corrected"
    monitor.close()
    assert eventually(lambda: served.samples("model_requests_total"))
    assert served.samples("model_requests_total") == {'model_requests_total{model="credit",version="3",code="200"}': 1}
    folder = tmp_path / "second"
    folder.mkdir()
    write_config(folder)
    assert "another process already does" in Served(folder, f"--web.unix-socket={path}").refused()
    assert served.stop(signal.SIGKILL) != 0
    assert served.start().stop() == 0  # what is left of a socket is in nobody's way
    assert not path.exists()
    (tmp_path / "notes.txt").write_text("mine")
    assert "not a socket" in Served(tmp_path, f"--web.unix-socket={tmp_path / 'notes.txt'}").refused()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_fork_while_a_response_arrives() -> None:
    """The child of a process whose thread waits for the rest of a response goes on, and the parent gets the rest."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = (
            "import os, sys, time; from exporter import Monitor\n"
            "monitor = Monitor(sys.argv[1], 'digits', interval=0.01)\n"
            "monitor.record(id='1')\n"
            "child = os.fork()\n"
            "if not child: os._exit(0)\n"
            "deadline = time.monotonic() + 30\n"
            "while not (ended := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < deadline: time.sleep(0.01)\n"
            "if not ended: os.kill(child, 9)\n"
            "print('ended' if ended else 'hangs', flush=True)\n"
            "assert monitor.flush(20) and monitor.sent == 1, monitor.sent"
        )
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with subprocess.Popen([sys.executable, "-c", code, url], stdout=subprocess.PIPE, text=True) as process:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 15\r\n\r\n")
                assert process.stdout is not None
                assert process.stdout.readline() == "ended\n"
                connection.sendall(b'{"accepted": 1}')
                assert process.wait(30) == 0
