"""A rehearsal of the Kaggle notebook on this machine: hidden tasks, a sandbox, faults. Not part of what is sent to Kaggle."""
