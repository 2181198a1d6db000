"""Faults on purpose: runs that are killed, stopped, slowed down, without disk or memory. `python -m tests.torture --help`."""
