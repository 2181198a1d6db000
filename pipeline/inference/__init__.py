"""Prediction: test views through a trained network, candidates, votes."""
