"""Weights: how they are read and written, and those that come with the program, a folder each."""
