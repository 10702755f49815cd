"""The view of a workload's runs in MLflow's pages: its columns and its order.

It is one of MLflow's shared views: a tag of the experiment holds it, and the address of the page names the tag. So
nothing of a person's own browser is needed, and what a person changes there is not lost.
"""

import json
from collections.abc import Iterable
from urllib.parse import urlencode

from tune_sam.tracking.client import connect, refusing, tag_experiment

NAME = "tune_sam"
"""Of the view, in the experiment's tag `mlflow.sharedViewState.tune_sam`."""

_COLUMNS = (
    "metrics.`val/{score}`",
    "metrics.`test/{score}`",
    "params.`optimizer`",
    "params.`rho`",
    "params.`lr`",
    "params.`batch_size`",
    "tags.`tune_sam.state`",
    "metrics.`gap/{score}`",
    "metrics.`flatness/lambda_max`",
    "metrics.`flatness/all/lambda_max`",
)

_OF_STUDIES = (
    "best/{optimizer}/val_{score}",
    "refit/{optimizer}/test_{score}",
    "refit/{optimizer}/difference",
    "flatness/{optimizer}/lambda_max",
)

_WIDTH = 110  # pixels of a column, for which a number is short


def prepare_view(
    uri: str, experiment_id: str, optimizers: Iterable[str], more: Iterable[str] = (), score: str = "accuracy"
) -> str:
    """Store the view with its experiment: the newest study first, and its trials and refits nested below it.

    Args:
        uri: MLflow's; see :func:`tune_sam.tracking.client.check`.
        experiment_id: the workload's.
        optimizers: whose numbers studies have.
        more: further hyperparameters of their trials; none by default.
        score: of the newest study.

    Returns:
        The page's address after that of the server.

    Raises:
        Refused: MLflow does not take it.
    """
    names = [name.format(optimizer=one, score=score) for name in _OF_STUDIES for one in optimizers]
    fixed = [*(column.format(score=score) for column in _COLUMNS), *(f"params.`{name}`" for name in more)]
    columns = [*fixed, *(f"metrics.`{name}`" for name in names if name != "refit/base/difference")]
    state = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(fixed, _WIDTH),
        "orderByKey": "attributes.start_time",  # the order in which MLflow nests runs
        "orderByAsc": False,
    }
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{NAME}": json.dumps(state, separators=(",", ":")),
    }
    with refusing(uri, "does not take the view of its pages"):
        tag_experiment(connect(uri), experiment_id, tags)
    query = urlencode({"viewStateShareKey": NAME, "workflowType": "machine_learning"})
    return f"/#/experiments/{experiment_id}/runs?{query}"
