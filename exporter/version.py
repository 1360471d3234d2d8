"""The version of this program, and the commit that it was built from."""

from __future__ import annotations

import functools
import re
from importlib import metadata
from pathlib import Path

DISTRIBUTION = "prometheus-model-exporter"
_PACKAGE = Path(__file__).resolve().parent


@functools.cache
def version() -> str:
    """Return the version: the tag's, else one that ends in the commit; ``0+unknown`` where it is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0+unknown"


@functools.cache
def revision() -> str:
    """Return the commit: of the checkout, else the one that is written into a package or an image; else `unknown`."""
    for read in (_of_checkout, _written):
        try:
            if re.fullmatch("[0-9a-f]{7,64}", found := read()):
                return found
        except (OSError, StopIteration):
            continue
    return "unknown"


def _of_checkout() -> str:
    git = _PACKAGE.parent / ".git"
    if git.is_file():  # a work tree of another checkout
        git = git.parent / git.read_text().removeprefix("gitdir:").strip()
    head = (git / "HEAD").read_text().strip()
    name = head.removeprefix("ref: ")
    if name == head:
        return head
    common = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
    if (common / name).exists():
        return (common / name).read_text().strip()
    lines = (common / "packed-refs").read_text().splitlines()
    return next(line.partition(" ")[0] for line in lines if line.endswith(f" {name}"))


def _written() -> str:
    return (_PACKAGE / "REVISION").read_text().strip()
