"""The networks and their losses: pure modules that know no files, no clock and nothing else of the project."""
