"""The networks and their losses: pure modules that use no files, no clock and no other package of the project."""
