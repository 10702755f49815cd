"""What a study is, its records in Optuna's storage, and who may drive it."""
