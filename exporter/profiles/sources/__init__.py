"""Training data in batches: files of any size, and live predictions from the store.

A source is read several times, each time from the start, and never holds more than a batch in memory.
"""
