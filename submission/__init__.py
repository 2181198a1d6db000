"""submission.json, the generated Kaggle notebook and its settings, and the Kaggle client. No torch."""
