"""Monitoring of deployed machine-learning models for Prometheus."""
