"""ARC grids, tasks and their symmetries. Imports numpy only; everything else in the project builds on it."""
