"""Monitoring of deployed machine-learning models for Prometheus.

A model service imports `Monitor` from here and gets nothing but the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.client import Monitor

__all__ = ["Monitor"]


def __getattr__(name: str) -> Any:
    """Import the client on first use: the exporter itself does without it."""
    if name != "Monitor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from exporter.client import Monitor

    globals()[name] = Monitor
    return Monitor
