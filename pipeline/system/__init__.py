"""The machine: time limit, signals, folder lock, launch of processes, progress bars. Imports no torch."""
