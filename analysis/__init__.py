"""How flat a trained model is. Knows neither Ray nor MLflow."""

from analysis.curvature import Eigenpairs, Estimate, Hessian, Spectrum, spectrum, top_eigenvalues

__all__ = ["Eigenpairs", "Estimate", "Hessian", "Spectrum", "spectrum", "top_eigenvalues"]
