"""The pictures of a page: what to see in each, what is seen, and which of them stand in one section."""

from collections.abc import Sequence
from pathlib import Path

from tune_sam.reporting.sections import Picture

CAPTIONS = {
    "differences": "Differences in test {score} with their 95 % intervals. {Right} of the line the row is better than "
    "what it is compared with. An interval is of one difference alone, while a difference is shown by its p, corrected "
    "for all: so one whose interval leaves out 0 may not be shown. Without an interval, there are too few seeds.",
    "seeds": "Test {score} of each row: a dot for each seed, and the mean with its 95 % interval, where there are "
    "seeds enough. Beside it is what a training cost, in gradients of a sample: compare SAM with the row "
    "that cost as much.",
    "f1": "F1 of each class on the test set, a small dot for each seed and a large one for their mean. A rare class "
    "that one optimizer loses does not show in the accuracy.",
    "history": "Each trial in its order, and the best so far of each optimizer. A line that still {rises} at its end "
    "says that more trials may find better ones. Hollow points did not end complete and are at their last value.",
    "over-rho": "Validation {score} and loss over ρ, a point for each trial, hollow where it did not end complete. An "
    "optimizer that ρ helps {rises} {above} the base optimizer's line somewhere; a level cloud says that ρ does "
    "not matter here.",
    "importance": "How much of the variance of the objective (of two objectives the first) each hyperparameter "
    "explains by itself, by fANOVA; what is missing to 1 is of several together. Where the learning rate has most of "
    "it, ρ is a detail.",
    "pareto": "Validation {score} against the sharpness of the validation loss, a point for each trial. The "
    "line is the Pareto front: no complete trial lies {above} it and to its left. A network that has learned nothing "
    "is flat too, so read the front from its right end.",
    "lr-rho": "Validation {score} over learning rate and ρ. See whether the best trials share one ρ, or whether the "
    "best ρ moves with the learning rate.",
    "parallel-coordinates": "Each trial as a line through its hyperparameters to its {score}. Where the best run "
    "together, the search has found a region. In a browser, drag along an axis to choose lines.",
    "accuracy-compute": "Validation {score} of the best trial of each optimizer over what it has cost so far. SAM "
    "takes two gradients of each sample in an epoch: read {upwards} from one cost, not from one epoch.",
    "learning-curves": "Loss and {score} of the best trial of each optimizer over its epochs. A validation loss that "
    "rises while the training loss falls is overfitting.",
    "gap-flatness": "The generalisation gap against each measure of flatness. If flat minima generalise better, "
    "points rise to the right; τ says how well they do. The ratio of the eigenvalues measures no flatness.",
    "radius": "Test {score}, gap and curvature over ρ, with learning rate and batch size fixed: means and 95 % "
    "intervals over the seeds, and the base optimizer's as a line and a band. A λ_max that falls where the {score} "
    "stays level says that ρ flattens the minimum and does not make it better.",
    "batch-size": "Curvature, sharpness and gap over the batch size, with means and 95 % intervals. Large batches are "
    "said to find sharper minima: the lines would rise. Where the points are a search's trials, learning "
    "rate and ρ vary, too, and nothing can be said about a cause.",
    "contours": "The loss around one network of each optimizer, the first of its best configuration, along the same "
    "two filter-normalised random directions and with one colour scale. A wider bowl is a flatter minimum, in these "
    "two directions only.",
    "surfaces": "The same as surfaces, at one scale. In a browser, drag to turn them.",
    "near-minimum": "The loss close to each minimum along both directions, on a linear axis.",
    "lines": "The loss on the straight line from the first optimizer's minimum to the others'. A barrier says that the "
    "minima lie in different valleys.",
    "spectral-density": "The density of the Hessian's eigenvalues, with the largest one dashed. A flatter minimum has "
    "a shorter tail to the right. The curve is smoothed: each eigenvalue is drawn a hundredth of the span wide to both "
    "sides, those at zero, too, so the smallest eigenvalue, not the curve, says how much curvature is negative.",
}
"""What to see in each figure, by its file's name, in the order of the page.

`{score}` is the study's, and the other words are those of :data:`MORE` or :data:`LESS`.
"""

MORE = {"Right": "Right", "rises": "rises", "above": "above", "upwards": "upwards"}
"""Where a caption shows what is better, for a score of which more is better."""

LESS = {"Right": "Left", "rises": "falls", "above": "below", "upwards": "downwards"}
"""The same for one of which less is better."""

BY_OBJECTIVE = ("history", "lr-rho", "parallel-coordinates")
"""Figures of what trials are judged by, where that is not the score but the loss."""

ANSWER = ("differences",)

RESULTS = ("seeds", "f1")

CHOOSING = (
    "history",
    "over-rho",
    "pareto",
    "importance",
    "lr-rho",
    "parallel-coordinates",
    "learning-curves",
    "accuracy-compute",
)

RADIUS = ("radius",)

GAP = ("gap-flatness",)

BATCH_SIZE = ("batch-size",)

LANDSCAPE = ("contours", "surfaces", "near-minimum", "lines", "spectral-density")


def pictures_in(folder: Path, names: Sequence[str]) -> tuple[Picture, ...]:
    """Make pictures of those of the named figures that lie in the folder's `figures/`."""
    files = ((name, folder / "figures" / f"{name}.png") for name in names)
    return tuple(picture(name, file) for name, file in files if file.exists())


def picture(name: str, file: Path) -> Picture:
    """Make a picture of a figure, with what is seen in the data beside it."""
    from pandas import read_csv

    from tune_sam.reporting.alternatives import alternative  # these need matplotlib, which a refusal does not wait for
    from tune_sam.reporting.interactive import interactive
    from tune_sam.reporting.style import less_is_better, objective_in, score_in

    # A class or a choice may be called None or NA.
    frame = read_csv(file.with_suffix(".csv"), keep_default_na=False, na_values=[""])
    value = objective_in(frame) if name in BY_OBJECTIVE else f"val/{score_in(frame)}"
    words = LESS if less_is_better(value, frame) else MORE
    caption = CAPTIONS[name].format(score=value.removeprefix("val/"), **words)
    return Picture(name, caption, file, alternative(name, frame), interactive(name, frame))
