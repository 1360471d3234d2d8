"""The pages for people: home, drift and review."""
