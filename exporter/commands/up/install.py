"""Find Prometheus and Alertmanager, or install their Debian packages."""

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
    # Debian's binary has the name of the package, that of the project's archive does not.
    "prometheus-alertmanager": ("prometheus-alertmanager", "alertmanager"),
}
"""Names of the binaries, by Debian package."""

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = b"#!/bin/sh\n# model-exporter up: packages must not start their services\nexit 101\n"


def find(report: Callable[[str], None]) -> tuple[str, str]:
    """Return the paths of Prometheus and Alertmanager; install those that are missing with ``apt-get``.

    Raises
    ------
    StackError
        When one is missing and cannot be installed here; the message says what to install.
    """
    missing = [package for package in BINARIES if not _which(package)]
    if missing:
        _refuse_elsewhere(missing)
        report(f"Installing {' and '.join(missing)} with apt-get; this takes most of the first start ...")
        _install(missing)
        if still := [package for package in missing if not _which(package)]:
            raise StackError(f"apt-get installed {', '.join(still)}, but no such program is on the PATH")
    return _which("prometheus") or "", _which("prometheus-alertmanager") or ""


def _which(package: str) -> str | None:
    return next((path for name in BINARIES[package] if (path := shutil.which(name))), None)


def is_debian(package: str) -> bool:
    """Return whether the program is the one of Debian's package, which lacks the web pages."""
    path = _which(package)
    if path is None or not shutil.which("dpkg-query"):
        return False
    return not subprocess.run(["dpkg-query", "--search", path], capture_output=True, check=False).returncode


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
            # The output goes to the terminal, to show what takes the time.
            status = subprocess.run(command, env=environment, check=False).returncode
            if status:
                raise StackError(f"'{' '.join(command)}' failed with status {status}; see its output above")
    for package in packages:
        # The services of the packages would use the ports of this stack after a reboot.
        for tidy in (
            ["deb-systemd-helper", "disable", f"{package}.service"],
            ["update-rc.d", package, "disable"],
            ["invoke-rc.d", package, "stop"],
        ):
            with contextlib.suppress(FileNotFoundError):
                subprocess.run(tidy, env=environment, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Prevent packages from starting their services when they are installed."""
    try:
        handle = os.open(_POLICY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:  # the machine has its own policy
        yield
        return
    try:
        os.fchmod(handle, 0o755)
        os.write(handle, _POLICY_TEXT)
        os.close(handle)
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
