"""What a run does with tasks and with puzzles, from the first second to the score. Imports no torch at start."""
