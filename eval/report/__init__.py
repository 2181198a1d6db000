"""report.html: what a run did, on one page that needs nothing else. Beside the score and the pictures; no torch."""
