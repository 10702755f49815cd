"""tune_sam: searches the hyperparameters of sharpness-aware minimization with Ray Tune, Optuna and MLflow.

The names here are imported on first use, so that `import tune_sam` needs neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_sam.errors import Refused
    from tune_sam.evaluation.analysis import Analysis
    from tune_sam.operations.analyze import analyze
    from tune_sam.study.records import Study, Trial, open_study, studies
    from tune_sam.tuning.runner import resume, search
    from tune_sam.workload import Workload

_HOME = {
    "analyze": "operations.analyze",
    "Analysis": "evaluation.analysis",
    "search": "tuning.runner",
    "resume": "tuning.runner",
    "Refused": "errors",
    "Study": "study.records",
    "Trial": "study.records",
    "open_study": "study.records",
    "studies": "study.records",
    "Workload": "workload",
}

__all__ = ["Analysis", "Refused", "Study", "Trial", "Workload", "analyze", "open_study", "resume", "search", "studies"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tune_sam.{_HOME[name]}"), name)
