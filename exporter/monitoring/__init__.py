"""The live state of each model version: windows, counters, drift, and snapshots that survive a restart."""
