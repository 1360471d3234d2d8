"""``compare``: two versions of a model side by side, or two periods of one, read from Prometheus."""
