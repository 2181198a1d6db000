"""Training: the loop, optimizers, averages, checkpoints, metrics, trackers."""
