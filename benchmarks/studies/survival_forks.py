"""Count the events lost or duplicated by two hundred forked workers and reloads under load.

    python benchmarks/studies/survival_forks.py [WORKERS]

gunicorn serves the requests of a model with four workers. Each worker is replaced after some requests, and the master
reloads repeatedly. Every answered request must be one event with the identifier in its response. Then the same runs
with workers that are killed (SIGKILL). These may lose what they have not sent: at most what a worker records in an
`interval`.
"""

from __future__ import annotations

import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

sys.path.append(str(Path(__file__).parents[1]))

from timing import free_port

SERVICE = """
import os
from exporter import Monitor
monitor = Monitor(os.environ["EXPORTER"], "m", "1", interval=0.2)

@monitor.wsgi
def app(environ, start_response):
    monitor.record(inputs={"age": 41}, prediction="yes", confidence=0.9)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"""


class Taker(http.server.BaseHTTPRequestHandler):
    """Accepts events, once for each key. A tenth of its responses are lost after the events were accepted."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[Counter[str]] = Counter()
    keys: ClassVar[set[str]] = set()
    lock = threading.Lock()
    asked = 0

    def do_POST(self) -> None:
        """Accept a batch."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with Taker.lock:
            Taker.asked += 1
            lose = Taker.asked % 10 == 0
            if self.headers["Idempotency-Key"] not in Taker.keys:
                Taker.keys.add(self.headers["Idempotency-Key"])
                Taker.seen.update(json.loads(line)["id"] for line in body.splitlines())
        if lose:
            self.close_connection = True
            return
        self.send_response(202)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(http.server.ThreadingHTTPServer):
    """Ignores workers that disconnect before the response."""

    def handle_error(self, *_: object) -> None:
        """Ignore the error."""


def load(port: int, stop: threading.Event, answered: list[str], workers: dict[str, None]) -> None:
    """Send requests without pause, and record the identifier in each response."""
    while not stop.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            workers[answer.read().decode()] = None
            answered.append(answer.headers["X-Request-ID"])
        except (OSError, http.client.HTTPException):
            time.sleep(0.01)
        finally:
            connection.close()


def survive(many: int, killed: bool, preload: bool) -> None:
    """Serve until this number of workers has been replaced, and report."""
    Taker.seen.clear()
    Taker.keys.clear()
    server = Server(("127.0.0.1", 0), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port, stop = free_port(), threading.Event()
    answered: list[str] = []
    workers: dict[str, None] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "service.py").write_text(SERVICE)
        command = [sys.executable, "-m", "gunicorn", "--workers=4", f"--bind=127.0.0.1:{port}", "--log-level=critical"]
        command += ["--max-requests=60", "--graceful-timeout=10", *(["--preload"] if preload else []), "service:app"]
        root = str(Path(__file__).parents[2])
        environment = os.environ | {
            "EXPORTER": f"http://127.0.0.1:{server.server_port}",
            "PYTHONPATH": root,
            "HOME": folder,
        }
        master = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
        clients = [threading.Thread(target=load, args=(port, stop, answered, workers)) for _ in range(3)]
        for client in clients:
            client.start()
        deadline, reloads, kills = time.monotonic() + 300, 0, 0
        while not answered and time.monotonic() < deadline:  # the signal would end a master that is not ready yet
            time.sleep(0.1)
        while (kills if killed else len(workers)) < many and time.monotonic() < deadline:
            time.sleep(0.7 if killed else 1.5)  # a reload ends before the next one starts
            if killed and workers:
                try:
                    os.kill(int(list(workers)[-1]), signal.SIGKILL)
                    kills += 1
                except ProcessLookupError:
                    pass
            else:
                master.send_signal(signal.SIGHUP)
                reloads += 1
        stop.set()
        for client in clients:
            client.join()
        master.terminate()
        master.wait(120)
    time.sleep(1)
    server.shutdown()
    server.server_close()
    lost = sum(1 for name in answered if name not in Taker.seen)
    doubled = sum(1 for times in Taker.seen.values() if times > 1)
    how = f"{kills} kills" if killed else f"{reloads} reloads"
    print(f"{len(workers)} workers{', preloaded' if preload else ''}, {how}: {len(answered)} requests answered, "
          f"{lost} events lost, {doubled} doubled", flush=True)  # fmt: skip


def main() -> None:
    """Print the figures."""
    many = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    survive(many, killed=False, preload=True)
    survive(many, killed=False, preload=False)
    survive(many // 4, killed=True, preload=True)


if __name__ == "__main__":
    main()
