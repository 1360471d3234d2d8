"""Slices: combinations of at most two bins that hold more than their share of corrections, errors, loss or drift."""
