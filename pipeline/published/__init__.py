"""Published TRM, HRM and URM checkpoints, converted to weights files of ours. Start with `checkpoint`."""
