"""Published TRM and HRM checkpoints, converted to weights files of ours. Start with `checkpoint`."""
