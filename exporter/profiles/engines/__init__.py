"""Profiles of tables where they are: in a database, a lake, or files that DuckDB reads.

The engine computes aggregates, and only these are read; the same expressions run on every engine that Ibis knows. All
sums are of whole numbers, so that the result does not depend on the order in which an engine adds them.
"""
