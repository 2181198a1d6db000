"""Fuzzing of every reader: thousands of damaged files, each read or refused in one line.

`python -m tests.fuzz` is the long version; `tests/test_fuzz.py` runs a few thousand inputs.
"""
