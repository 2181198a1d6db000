"""Fault injection: runs that are killed, stopped, slowed down, or short of disk or memory. `python -m tests.torture --help`."""
