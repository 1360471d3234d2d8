"""The archive on a server of S3: moto's, behind a proxy that cuts connections."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from peer import serving_peer
from support.batches import stored_batch
from support.servers import ask

from exporter.config import StoreConfig
from exporter.errors import StoreError
from exporter.profiles.sources import StoreSource
from exporter.storage import Store, StoredPredictions, archive
from exporter.wire.events import Prediction

SIGNED = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"


class Cut:
    """Forwards connections to a port, and ends each after some bytes of the client's."""

    def __init__(self, port: int) -> None:
        self._port, self.most = port, 2**40
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                self._threads.append(threading.Thread(target=self._forward, args=(client,)))
                self._threads[-1].start()

    def _forward(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            answers = threading.Thread(target=self._copy, args=(server, client, 2**40))
            answers.start()
            self._copy(client, server, self.most)
            answers.join()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket, most: int) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and (most := most - len(data)) > 0:
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a server with a bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    with serving_peer("moto", ["moto_server", "-p", "{port}"], "/moto-api/", tmp_path) as url:
        assert ask(f"{url}/bucket", b"", "PUT", Authorization=SIGNED).status == 200
        yield url


@pytest.fixture
def cut(s3: str) -> Iterator[Cut]:
    """Between the archive and the server."""
    with closing(Cut(int(s3.rpartition(":")[2]))) as cut:
        yield cut


def test_nothing_stays_of_an_upload_that_is_cut(s3: str, cut: Cut, tmp_path: Path) -> None:
    """Once the server can be written again, each prediction is in the archive once, and no upload is incomplete."""
    location = f"s3://bucket/folder?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{cut.port}"
    config = StoreConfig(url=f"sqlite:///{tmp_path}/model-exporter.db", retention="36h", archive=location)
    numbers = range(12_000)
    received = (time.time() // 86400 - 2.5) * 86400
    with closing(Store(config, lambda _: None)) as store:
        for start in numbers[::500]:
            rows = range(start, start + 500)
            events = [Prediction("m", id=f"p-{number}", version="1", prediction="7") for number in rows]
            noise = [[random.random() for _ in range(100)] for _ in rows]
            inputs = [json.dumps({"number": n, "noise": row}).encode() for n, row in zip(rows, noise, strict=True)]
            store.add(stored_batch(events, [True] * 500, inputs, received))
        assert store.flush(60)
    cut.most = 3_000_000
    with pytest.raises(StoreError, match="cannot be written"):
        archive(config, lambda _, text: text)
    cut.most = 2**40
    assert archive(config, lambda _, text: text) == (len(numbers), 0)
    read = StoreSource(StoredPredictions(config, "m", None, 0.0), "m")
    assert sorted(n for batch in read.batches() for n in batch.columns["number"]) == list(numbers)
    uploads = ask(f"{s3}/bucket?uploads", Authorization=SIGNED).text
    assert "<Upload>" not in uploads
    listed = ask(f"{s3}/bucket?list-type=2", Authorization=SIGNED).text
    assert max(map(int, re.findall(r"<Size>(\d+)", listed))) < 10 * 2**20
