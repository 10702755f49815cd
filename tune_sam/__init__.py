"""tune_sam: searches the hyperparameters of sharpness-aware minimization with Ray Tune, Optuna and MLflow.

The names here are imported on first use, so that `import tune_sam` needs neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_sam.analysis import spectrum
    from tune_sam.errors import NothingComplete, Refused
    from tune_sam.evaluation.analysis import Analysis
    from tune_sam.evaluation.refit import Refit
    from tune_sam.operations.analyze import analyze
    from tune_sam.operations.check import check
    from tune_sam.operations.compare import compare
    from tune_sam.operations.delete import delete
    from tune_sam.operations.doctor import doctor
    from tune_sam.operations.enqueue import enqueue
    from tune_sam.operations.export import export
    from tune_sam.operations.import_ import import_
    from tune_sam.operations.refit import refit, refit_grid
    from tune_sam.operations.rename import rename
    from tune_sam.operations.run import run
    from tune_sam.operations.status import status
    from tune_sam.optim import ASAM, SAM, ASAMAll
    from tune_sam.reporting.page import Report, report
    from tune_sam.study.records import Study, Trial, open_study, studies
    from tune_sam.tuning.runner import resume, search
    from tune_sam.workload import Workload, workloads

    __version__: str

# Where each name is. No module of tune_sam may bear one: once imported, it would stand in the name's place.
_MODULES = {
    "ASAM": "optim",
    "ASAMAll": "optim",
    "Analysis": "evaluation.analysis",
    "NothingComplete": "errors",
    "Refit": "evaluation.refit",
    "Refused": "errors",
    "Report": "reporting.page",
    "SAM": "optim",
    "Study": "study.records",
    "Trial": "study.records",
    "Workload": "workload",
    "analyze": "operations.analyze",
    "check": "operations.check",
    "compare": "operations.compare",
    "delete": "operations.delete",
    "doctor": "operations.doctor",
    "enqueue": "operations.enqueue",
    "export": "operations.export",
    "import_": "operations.import_",
    "open_study": "study.records",
    "refit": "operations.refit",
    "refit_grid": "operations.refit",
    "rename": "operations.rename",
    "report": "reporting.page",
    "resume": "tuning.runner",
    "run": "operations.run",
    "search": "tuning.runner",
    "spectrum": "analysis",
    "status": "operations.status",
    "studies": "study.records",
    "workloads": "workload",
}

# Written out, for type checkers read it.
__all__ = [
    "ASAM",
    "SAM",
    "ASAMAll",
    "Analysis",
    "NothingComplete",
    "Refit",
    "Refused",
    "Report",
    "Study",
    "Trial",
    "Workload",
    "__version__",
    "analyze",
    "check",
    "compare",
    "delete",
    "doctor",
    "enqueue",
    "export",
    "import_",
    "open_study",
    "refit",
    "refit_grid",
    "rename",
    "report",
    "resume",
    "run",
    "search",
    "spectrum",
    "status",
    "studies",
    "workloads",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tune-sam")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tune_sam.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
