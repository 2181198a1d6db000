"""Fuzzing of every reader: what comes from outside, damaged in thousands of ways, is read or refused in one line.

`python -m tests.fuzz` is the long version; `tests/test_fuzz.py` runs a few thousand inputs among the other tests.
"""
