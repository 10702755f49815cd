"""What is to be done on a machine with a GPU that is lent for half an hour, and has neither Ray, Optuna nor MLflow."""
