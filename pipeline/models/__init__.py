"""The networks and their losses: pure modules that use no files and no clock."""
