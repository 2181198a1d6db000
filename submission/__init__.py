"""submission.json: its format and its checks. No torch."""
