"""Tasks that `serve` repeats in threads of their own, such as archiving and the comparison of versions."""
