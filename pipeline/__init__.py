"""The stages: data, training, prediction, and the run that joins them."""
