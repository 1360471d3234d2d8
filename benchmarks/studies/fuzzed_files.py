"""The files that users write or pass to the exporter, each with its reader, for fuzzing."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

import bcrypt
import msgspec
from hostile import as_yaml, mutated, text

from exporter.errors import ConfigError
from exporter.monitoring.binner import Binner
from exporter.profiles import profile as profile_file
from exporter.server import access, model_files

CONFIG: Any = {
    "store": {"url": "sqlite:///data/x.db", "retention": "30d", "inputs": "sampled:0.1"},
    "queue": {"capacity": 1000},
    "links": {"grafana": "http://localhost:3000"},
    "models": [
        {
            "name": "credit",
            "profile": "credit.json",
            "confidence_threshold": 0.8,
            "windows": ["5m", "1h"],
            "redact": ["name"],
            "segment_by": "country",
            "segments": ["NL", "DE"],
            "alerts": {"ModelCorrectionRatioHigh": 0.02},
            "features": {"age": {"alerts": {"ModelFeatureDrift": 0.5}}, "photo": {"type": "image"}},
            "events": ["contracts"],
        },
        {"name": "other"},
    ],
}
TOKENS: Any = [{"name": "scorer", "sha256": "ab" * 32, "scopes": ["ingest", "read"]}]


class Files:
    """Five kinds of files in a folder with the valid profile ``credit.json``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._profile = msgspec.json.decode((folder / "credit.json").read_bytes())
        self._profile.pop("hash", None)
        self._web = {"basic_auth_users": {"alice": bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()}}
        self._tls = {"tls_server_config": {"cert_file": "no.crt", "key_file": "no.key"}}
        self._config = {**CONFIG, "models": [{**CONFIG["models"][0], "profile": str(folder / "credit.json")}]}
        (folder / "fuzzed-folder").mkdir()
        (folder / "fuzzed-folder.yml").write_text("models: [{name: own}]\nmodels_folder: fuzzed-folder")

    def one(self, rng: Random) -> tuple[str, bytes]:
        """Return a kind of file, and its content."""
        kind = rng.choice(("config", "models", "profile", "web", "tokens"))
        if kind == "profile":
            return kind, text(rng, mutated(rng, self._profile))
        web = self._web | self._tls if rng.random() < 0.5 else self._web
        models = {"models": self._config["models"]}
        return kind, as_yaml(rng, {"config": self._config, "models": models, "web": web, "tokens": TOKENS}[kind])

    def read(self, kind: str, content: bytes) -> tuple[bool, float]:
        """Return whether the exporter accepts the file, and the processor seconds that it took.

        Raises
        ------
        Exception
            Anything other than a `ConfigError` is a fault, and so is a message of several lines or of excessive length.
        """
        path = self._folder / ("fuzzed-folder/models.yml" if kind == "models" else f"fuzzed-{kind}")
        path.write_bytes(content)
        start = time.process_time()
        try:
            if kind == "config":
                model_files.load_monitors(path)
            elif kind == "models":
                model_files.load_monitors(self._folder / "fuzzed-folder.yml")
            elif kind == "profile":
                Binner(profile_file.load(path), frozenset({"name"}))
            elif kind == "web":
                access.load(path)
            else:
                access.load_tokens(path)
        except ConfigError as error:
            if len(str(error)) > 20_000:
                raise ValueError(f"a message of {len(str(error))} characters") from None
            return False, time.process_time() - start
        return True, time.process_time() - start
