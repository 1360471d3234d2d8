"""Training data to a frozen reference profile: readers, sketches, bins and the file format."""
