"""How flat a trained model is: spectrum of the Hessian, sharpness, loss landscape.

The package needs a model, a loss and a sample, and knows neither Ray nor MLflow.
"""

from tune_sam.analysis.curvature import Eigenpairs, Estimate, Hessian, Spectrum, spectrum, top_eigenvalues

__all__ = ["Eigenpairs", "Estimate", "Hessian", "Spectrum", "spectrum", "top_eigenvalues"]
