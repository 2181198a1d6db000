"""Judging: votes, scores and pictures. No torch."""
