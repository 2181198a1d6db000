"""Checks and benchmarks on a GPU, and a first training there (`make gpu`)."""

FASTEST = "fastest.txt"
"""In the folder of the results: the settings of the fastest training that is right."""
