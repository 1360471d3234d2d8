"""Input types: from the values that a client sends to columns of scalar features, in training and serving alike."""
