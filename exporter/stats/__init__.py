"""Statistics in numpy: divergences and their noise, distances, intervals and tests. No input or output."""
