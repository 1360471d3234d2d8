"""The commands other than `serve`, one module or package each."""
