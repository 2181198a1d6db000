"""What runs inside a Kaggle notebook, without torch, and its rehearsal."""
