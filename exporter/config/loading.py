"""Load ``exporter.yml`` into frozen, typed objects.

Unknown keys are refused, and every message names the file, the path of the key, what is wrong with it and what would be
right.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from exporter.config.checks import check_document
from exporter.config.types import Config
from exporter.config.yaml_file import load_yaml
from exporter.validation import convert


def load(path: Path) -> Config:
    """Read ``exporter.yml``. Relative paths in it are relative to its folder, as in Prometheus.

    Raises
    ------
    ConfigError
        At the first mistake.
    """
    config = convert(check_document(load_yaml(path), str(path)), Config, str(path))
    folder = path.absolute().parent
    models = tuple(
        msgspec.structs.replace(
            model,
            profile=str(folder / model.profile) if model.profile else None,
            profiles={version: str(folder / path) for version, path in model.profiles.items()},
        )
        for model in config.models
    )
    url = config.store.url
    if (relative := url.removeprefix("sqlite:///")) != url and not relative.startswith((":", "/")):
        url = f"sqlite:///{folder / relative}"
    secret = config.store.password_file
    store = msgspec.structs.replace(config.store, url=url, password_file=str(folder / secret) if secret else None)
    retrain = config.retrain
    if retrain:
        retrain = msgspec.structs.replace(retrain, secret_file=str(folder / retrain.secret_file))
    return msgspec.structs.replace(config, models=models, store=store, retrain=retrain)
