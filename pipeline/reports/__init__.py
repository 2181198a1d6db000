"""A run directory, read back and shown on one page."""
