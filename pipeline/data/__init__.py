"""From sources of tasks to packs of tokens."""
