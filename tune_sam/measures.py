"""The names of the measures of flatness, which the tables that hold them have as columns."""

SPECTRUM = ("lambda_max", "lambda_min", "ratio", "lambda_max_over_lambda_5", "trace")

MEASURES = (
    *SPECTRUM,
    "batch_lambda_max",
    "worst_case",
    "worst_case_adaptive",
    "worst_case_own_rho",
    "average_case",
    "average_case_adaptive",
)
"""The names of all measures, of which a network need not have each."""

SUFFIXES = ("", "_error", "_resolved")
"""How the names of a measure's columns end, after the measure's."""

COLUMNS = ("key", "samples", *(f"{name}{suffix}" for name in MEASURES for suffix in SUFFIXES))
"""Those of :func:`tune_sam.flatness.columns`."""
