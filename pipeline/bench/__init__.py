"""The benchmark: every stage against the published way of doing it, in one process and run. Nothing else imports it."""
