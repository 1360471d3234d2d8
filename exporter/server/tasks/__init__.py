"""Tasks that `serve` repeats in threads of their own, such as snapshots and the comparison of versions."""
