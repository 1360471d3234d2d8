"""Profiles of tables where they are: in a database, a lake, or files that DuckDB reads.

The engine computes aggregates. Of single rows, the values of some and the bins of others are read. The same expressions
run on every engine that Ibis knows. All sums are of whole numbers, so that the result does not depend on the order in
which an engine adds them.
"""
