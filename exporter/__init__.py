"""Monitoring of deployed machine-learning models for Prometheus.

A model service imports `Monitor` from here and gets nothing but the standard library.
"""

from exporter.client import Monitor

__all__ = ["Monitor"]
