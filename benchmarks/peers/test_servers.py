"""Model servers behind the proxy: what clients send and get is what the exporter stores."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

import pytest
from peer import serving_peer
from support.processes import ForkedCommand
from support.servers import Served, ask, eventually, free_port, serving, write_config

from exporter.profiles.builder import build_file
from exporter.profiles.profile import save

COLUMNS = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
"""In the order of training, which is not the alphabet's."""
LABELS = "['long' if row[0] > 6 else 'short' for row in rows]"


class Peer(NamedTuple):
    """A model server: its program, the paths of its probe and of requests, their body, and the proxy's options."""

    program: str
    ready: str
    path: str
    body: Any
    flags: tuple[str, ...] = ()


ROW = "the row"
PEERS = {
    "mlserver": Peer(
        f"""
        import json, os, sys
        from pathlib import Path

        settings = {{"host": "127.0.0.1", "http_port": int(sys.argv[1]), "grpc_port": 0, "metrics_endpoint": None}}
        Path("settings.json").write_text(json.dumps({{**settings, "parallel_workers": 0}}))
        Path("model-settings.json").write_text(
            '{{"name": "iris", "implementation": "served.Iris", "parameters": {{"version": "3"}}}}')
        Path("served.py").write_text('''
        from mlserver import MLModel
        from mlserver.codecs import NumpyCodec, StringCodec
        from mlserver.types import InferenceResponse

        class Iris(MLModel):
            async def predict(self, payload):
                rows = NumpyCodec.decode_input(payload.inputs[0])
                outputs = [StringCodec.encode_output("predict", {LABELS})]
                return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
        ''')
        os.execv(f"{{sys.prefix}}/bin/mlserver", ["mlserver", "start", "."])
        """,
        "/v2/models/iris/ready",
        "/v2/models/iris/infer",
        {"inputs": [{"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": ROW}]},
    ),
    "litserve": Peer(
        f"""
        import sys
        import litserve

        class Iris(litserve.LitAPI):
            def setup(self, device): pass
            def decode_request(self, request): return request["instances"]
            def predict(self, rows): return {LABELS}
            def encode_response(self, labels): return {{"predictions": labels}}

        if __name__ == "__main__":
            server = litserve.LitServer(Iris(), accelerator="cpu")
            server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False)
        """,
        "/health",
        "/predict",
        {"instances": [ROW]},
        ("--record.path=/predict", "--model=iris"),
    ),
    "kserve": Peer(
        f"""
        import sys
        import kserve

        class Iris(kserve.Model):
            def predict(self, payload, headers=None, response_headers=None):
                rows = payload["instances"]
                return {{"predictions": {LABELS}}}

        iris = Iris("iris")
        iris.ready = True
        kserve.ModelServer(http_port=int(sys.argv[1]), enable_grpc=False).start([iris])
        """,
        "/v1/models/iris",
        "/v1/models/iris:predict",
        {"instances": [ROW]},
    ),
    "mlflow": Peer(
        f"""
        import os, sys
        import mlflow

        class Iris(mlflow.pyfunc.PythonModel):
            def predict(self, context, model_input, params=None):
                rows = model_input[['sepal_length']].to_numpy()
                return {LABELS}

        mlflow.pyfunc.save_model("model", python_model=Iris())
        options = ["-m", "model", "-p", sys.argv[1], "-h", "127.0.0.1", "--env-manager", "local"]
        os.environ["PATH"] = f"{{sys.prefix}}/bin:{{os.environ['PATH']}}"
        os.execvp("mlflow", ["mlflow", "models", "serve", *options])
        """,
        "/ping",
        "/invocations",
        {"dataframe_split": {"columns": COLUMNS[::-1], "data": [ROW[::-1]]}},
        ("--model=iris",),
    ),
}


def filled(body: Any, row: list[float]) -> Any:
    """A body with a row in its place, reversed where the columns are."""
    if isinstance(body, dict):
        return {name: filled(value, row) for name, value in body.items()}
    if isinstance(body, list):
        return [filled(value, row) for value in body]
    return {ROW: row, ROW[::-1]: row[::-1]}.get(body, body)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("exporter")
    with (folder / "iris.csv").open("w") as file:
        csv.writer(file).writerows([COLUMNS, *([n, n / 2, n / 3, n / 4] for n in range(1, 101))])
    save(build_file(folder / "iris.csv", name="iris"), folder / "iris.json")
    write_config(folder, {"models": [{"name": "iris", "profile": "iris.json"}]})
    with serving(folder) as served:
        yield served


@pytest.mark.parametrize("name", PEERS)
def test_what_a_server_gets_is_what_is_stored(served: Served, tmp_path: Path, name: str) -> None:
    """Each row has its columns, its label and its identifier, whatever the format names."""
    peer, port = PEERS[name], free_port()
    (tmp_path / "server.py").write_text(dedent(peer.program))
    with serving_peer(name, ["python", "server.py", "{port}"], peer.ready, tmp_path) as url:
        flags = [f"--listen-address=127.0.0.1:{port}", f"--web.listen-address=127.0.0.1:{free_port()}", *peer.flags]
        proxy = ForkedCommand(
            ["proxy", f"--upstream={url}", f"--exporter={served.url}", *flags], tmp_path / "proxy.log"
        )
        try:
            eventually(lambda: b"a proxy to" in (tmp_path / "proxy.log").read_bytes())
            for number in range(20):
                row = [5.0 + number % 3, 3.5 + number, 1.25, 0.5 + number]
                sent = {"X_Request_Id": f"{name}-{number}"}
                answer = ask(f"http://127.0.0.1:{port}{peer.path}", filled(peer.body, row), **sent)
                assert (answer.status, answer.headers["X-Request-Id"]) == (200, f"{name}-{number}"), answer.text
                stored = eventually(lambda: served.get(f"/v1/predictions/{name}-{number}").json.get("inputs"))  # noqa: B023
                assert stored == dict(zip(COLUMNS, row, strict=True))
                prediction = served.get(f"/v1/predictions/{name}-{number}").json["prediction"]
                assert prediction == ("long" if row[0] > 6 else "short")
        finally:
            proxy.terminate()
            proxy.wait(timeout=40)
