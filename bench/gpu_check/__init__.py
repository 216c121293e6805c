"""Runs everything once that needs a GPU, in a few minutes: `make gpu-check`."""
