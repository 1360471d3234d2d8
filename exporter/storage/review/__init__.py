"""The review of corrections: the queue and its orders, decisions, second opinions, samples and their statistics."""
