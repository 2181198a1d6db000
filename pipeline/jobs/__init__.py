"""The jobs of a run, for ARC tasks and for puzzles. `arc` and `puzzles` import no torch when they are imported."""
