"""Sudoku and mazes: files, generators, and the dataset made of them."""
