"""How flat a trained model is. Knows neither Ray nor MLflow."""

from tune_sam.analysis.curvature import Eigenpairs, Estimate, Hessian, Spectrum, spectrum, top_eigenvalues

__all__ = ["Eigenpairs", "Estimate", "Hessian", "Spectrum", "spectrum", "top_eigenvalues"]
