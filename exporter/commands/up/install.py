"""Find Prometheus and Alertmanager, or install Debian's packages of them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from exporter.errors import StackError

BINARIES = {
    "prometheus": ("prometheus",),
    # Debian names it after its package; the project's own archive does not.
    "prometheus-alertmanager": ("prometheus-alertmanager", "alertmanager"),
}
"""Names of the binaries, by Debian's name of the package."""

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = b"#!/bin/sh\n# model-exporter up: the packages it installs shall not start their services\nexit 101\n"


def find(say: Callable[[str], None]) -> tuple[str, str]:
    """Paths of Prometheus and Alertmanager, installed by ``apt-get`` where they are missing.

    Raises
    ------
    StackError
        When one is missing and cannot be installed here; the text says what to install.
    """
    missing = [package for package in BINARIES if not _which(package)]
    if missing:
        _refuse_elsewhere(missing)
        say(f"Installing {' and '.join(missing)} with apt-get; this is the long part of a first start ...")
        _install(missing)
        if still := [package for package in missing if not _which(package)]:
            raise StackError(f"apt-get installed {', '.join(still)}, but no such program is on the PATH")
    return _which("prometheus") or "", _which("prometheus-alertmanager") or ""


def _which(package: str) -> str | None:
    return next((path for name in BINARIES[package] if (path := shutil.which(name))), None)


def _refuse_elsewhere(missing: list[str]) -> None:
    names = " and ".join(BINARIES[package][-1] for package in missing)
    debian = Path("/etc/debian_version").exists() and shutil.which("apt-get")
    if debian and os.geteuid() == 0:
        return
    how = (
        f"install them as root with 'apt-get install {' '.join(missing)}', or run this command as root once"
        if debian
        else "install this system's packages of them, or https://prometheus.io/download/, and put them on the PATH"
    )
    raise StackError(f"{names} not found on the PATH: {how}")


def _install(packages: list[str]) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # a root shell by `su` lacks these
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "PATH": path}
    commands = (
        ["apt-get", "-q", "update"],
        ["apt-get", "-q", "install", "--yes", "--no-install-recommends", *packages],
    )
    with _no_services():
        for command in commands:
            # Its output goes to the terminal, so that the wait shows what it waits for.
            status = subprocess.run(command, env=environment, check=False).returncode
            if status:
                raise StackError(f"'{' '.join(command)}' failed with status {status}; what it said stands above")
    for package in packages:
        # At boot the packages' services would take the ports of this stack.
        for tidy in (
            ["deb-systemd-helper", "disable", f"{package}.service"],
            ["update-rc.d", package, "disable"],
            ["invoke-rc.d", package, "stop"],
        ):
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(tidy, env=environment, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """While it lasts, packages that are installed do not start their services."""
    try:
        handle = os.open(_POLICY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:  # the machine has a policy of its own
        yield
        return
    try:
        os.fchmod(handle, 0o755)
        os.write(handle, _POLICY_TEXT)
        os.close(handle)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
