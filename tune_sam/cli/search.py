"""Commands that train the trials of a study: search, resume and run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tune_sam.cli.console import err, out, resumable
from tune_sam.cli.evaluate import show_page
from tune_sam.cli.options import (
    PLACES,
    SEARCH,
    AddressOption,
    ConcurrentOption,
    ConfigOption,
    ControlsOption,
    RefitEpochsOption,
    SampleOption,
    SeedsOption,
    StudyArgument,
    TrustedOptimizersOption,
    TrustedWorkloadOption,
    WorkloadArgument,
    parse_seeds,
    takes,
)
from tune_sam.cli.output import Output, prints
from tune_sam.cli.results import show_best
from tune_sam.cli.tables import show_answer
from tune_sam.home import Home
from tune_sam.settings import LIMITS, SAMPLE, SEEDS

if TYPE_CHECKING:
    from tune_sam.evaluation.answer import Answer
    from tune_sam.study.records import Study
    from tune_sam.tuning.progress import Progress

OF_A_WHOLE_RUN = (
    "optimizers",
    "trials",
    "budget",
    "epochs",
    "dataset",
    "label_noise",
    "preset",
    "data",
    "name",
    "seed",
    "gpus_per_trial",
    "max_concurrent",
    *LIMITS,
    "address",
    "storage",
    "tracking_uri",
    "home",
    "study_storage",
)
"""The options of a search that `tune-sam run` takes on its command line; it takes the others from a file."""


@prints
@takes(*SEARCH)
def search(workload: WorkloadArgument, *, config: ConfigOption = None, output: Output, **options: Any) -> None:
    """Search ρ, learning rate and batch size of a workload; resume the study if it exists.

    Example: [bold]tune-sam search gcn --optimizer base --optimizer sam --trials 12 --epochs 30[/bold]
    """
    from tune_sam.tuning.progress import Progress

    listener = Progress(err)
    with resumable(lambda: _resume(listener.first)), listener:
        from tune_sam.tuning.runner import search as run

        found = run(workload, config=config, listener=listener, **options)
        answer = _answer_of(found, output, listener)
    show_best(found, output)
    _show_answer(answer)


@prints
@takes(*PLACES)
@takes(*LIMITS, show_default="as before")
def resume(
    study: StudyArgument,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="New budget of each optimizer, in all, not on top.", show_default="as before"),
    ] = None,
    max_concurrent: ConcurrentOption = None,
    address: AddressOption = None,
    workload: TrustedWorkloadOption = None,
    optimizer: TrustedOptimizersOption = None,
    *,
    output: Output,
    **options: Any,
) -> None:
    """Resume a study that was interrupted or whose budget was spent, or give it more trials or other limits.

    Example: [bold]tune-sam resume gcn-2026-11-24T101500 --trials 40[/bold]
    """
    from tune_sam.tuning.progress import Progress

    with resumable(lambda: "the same command resumes it"), Progress(err) as listener:
        from tune_sam.tuning.runner import resume as run

        found = run(
            study,
            home=Home.at(**{name: options.pop(name) for name in PLACES}),
            trials=trials,
            max_concurrent=max_concurrent,
            address=address,
            listener=listener,
            **options,
        )
        answer = _answer_of(found, output, listener)
    show_best(found, output)
    _show_answer(answer)


@prints
@takes(*OF_A_WHOLE_RUN)
def run(
    workload: WorkloadArgument,
    *,
    config: ConfigOption = None,
    seeds: SeedsOption = str(SEEDS),
    refit_epochs: RefitEpochsOption = None,
    controls: ControlsOption = True,
    sample: SampleOption = SAMPLE,
    output: Output,
    **options: Any,
) -> None:
    """Search, refit, analyze and report in one; the same command with the study's --name resumes it.

    Example: [bold]tune-sam run gcn --name mutagenicity --trials 20 --seeds 5[/bold]

    Other options of `tune-sam search` go into a YAML file, --config.
    """
    asked = parse_seeds(seeds)
    from tune_sam.tuning.progress import Progress

    listener = Progress(err)
    with resumable(lambda: _run_again(listener.first)), listener:
        from tune_sam.operations.run import run as run_all

        found = run_all(
            workload,
            config=config,
            seeds=asked,
            refit_epochs=refit_epochs,
            controls=controls,
            sample=sample,
            listener=listener,
            **options,
        )
        answer = _answer_of(found.study, output, listener)
    show_page(found, output)
    _show_answer(answer)


def _answer_of(study: "Study", output: Output, listener: "Progress") -> "Answer | None":
    """Give what a study says by now, if a person reads it."""
    if not output.for_a_person:
        return None
    listener.stage("Reading the answer")
    from tune_sam.evaluation.answer import answer_of

    return answer_of(study)


def _show_answer(answer: "Answer | None") -> None:
    if answer:
        out.print()
        show_answer(answer, out)


def _resume(study: "Study | None") -> str:
    return f"resume it with `{study.command('resume')}`" if study else "nothing was begun"


def _run_again(study: "Study | None") -> str:
    return f"the same command with --name {study.name} resumes it" if study else "nothing was begun"
