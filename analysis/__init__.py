"""How flat a trained model is. Knows neither Ray nor MLflow."""
