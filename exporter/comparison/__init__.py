"""Two versions of a model side by side, or two periods of one, and which differences are proven."""
