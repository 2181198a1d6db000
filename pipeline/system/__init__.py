"""The machine: time limit, signals, lock of a folder, launch of processes, progress bars. No torch."""
