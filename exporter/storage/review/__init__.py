"""The review of corrections: the queue and its orders, decisions, samples and their statistics."""
