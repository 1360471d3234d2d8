"""Metric families of the models, the machine and the exporter, and the text of ``/metrics``."""
