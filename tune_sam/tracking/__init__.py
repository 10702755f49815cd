"""MLflow: its stores, the runs of a study and of its trials, and how they get what they lack."""
