"""The jobs of a run, for ARC tasks and for puzzles. `start`, `arc` and `puzzles` import no torch when they are imported."""
