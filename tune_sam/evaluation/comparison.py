"""Studies side by side: the best of each optimizer, where they cannot be compared, and what differs between refits.

A difference is only of pairs: two rows of the same data in which the same seeds were trained. All of them are one
family, whose p-values are corrected by Holm's method.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from tune_sam.display import html_table
from tune_sam.errors import Refused
from tune_sam.evaluation.claims import OF_OTHER_LOSSES, Claim, claims, with_flatness
from tune_sam.evaluation.measured import Measured, measured_of
from tune_sam.evaluation.names import names_of, optimizer_names
from tune_sam.evaluation.refit import Refit, tested_refit
from tune_sam.evaluation.statistics import Mean, with_interval
from tune_sam.scores import in_words, written
from tune_sam.space import IN_WORDS, Configuration, text_of_value
from tune_sam.study.records import Study, Trial

if TYPE_CHECKING:
    from pandas import DataFrame

OTHER_DATA = ("workload", "dataset", "split_seed", "score", "score_direction")
"""The settings in which studies have to agree, for otherwise their scores are of other samples, or other measures."""

TOLD = (
    "data",
    "preset",
    "train_subset",
    "label_noise",
    "objective",
    "epochs",
    "trials",
    "budget",
    "sampler",
    "scheduler",
    "from_study",
    "compile",
)
"""The settings that a difference may come from as well as from the optimizer."""


@dataclass(frozen=True)
class Row:
    """The best of one optimizer of a study.

    Attributes:
        study, optimizer: whose.
        name: of the optimizer, as tables call it; where a refit has several of its configurations, which.
        config: what was refitted, or without a refit by validation the best of the search; None if none is complete.
        validation: its score on the validation split, of one training; None if it was not searched.
        test: the score of its refit on the test set, over the seeds; None if it is not refitted.
        gap: test minus training loss of the refit.
        lambda_max: of the refit's networks that were measured and in which it is resolved.
        trials, seconds, gradients: of all trials of the optimizer that trained: how many, the seconds of their epochs,
            and gradients of single samples.
        row: in the table of the refit; empty if there is none.
    """

    study: str
    optimizer: str
    name: str
    config: Configuration | None
    validation: float | None
    test: Mean | None
    gap: Mean | None
    lambda_max: Mean | None
    trials: int
    seconds: float
    gradients: int
    row: str

    def to_json(self) -> dict[str, Any]:
        """Give the row as JSON holds it, flat: of a mean its value, half of its 95 % interval, and how many seeds."""
        point = self.config.point if self.config else {}
        means = {"test": self.test, "gap": self.gap, "lambda_max": self.lambda_max}
        return {
            "study": self.study,
            "optimizer": self.optimizer,
            "row": self.row or None,
            **{name: point.get(name) for name in ("rho", "lr", "batch_size")},
            **(self.config.more if self.config else {}),
            "validation": self.validation,
            **{
                f"{name}{end}": getattr(mean, part) if mean else None
                for name, mean in means.items()
                for end, part in (("", "value"), ("_half", "half"), ("_n", "n"))
            },
            "trials": self.trials,
            "seconds": self.seconds,
            "gradients": self.gradients,
        }


@dataclass(frozen=True)
class Differing:
    """A setting that is not the same in all studies.

    Attributes:
        name: as `epochs`.
        values: of each study, as they are written.
        excludes: whether it makes scores of other things, so that nothing is compared.
    """

    name: str
    values: tuple[str, ...]
    excludes: bool


@dataclass(frozen=True, repr=False)
class Comparison:
    """What several studies found, side by side.

    Attributes:
        studies: in the order in which they were named.
        refits: of each, once it is tested; None where there is none.
        rows: the best of each optimizer of each study.
        differing: the settings that are not the same in all studies; those that exclude a comparison first.
        claims: the differences in the test score between rows of two studies with seeds in common, `row` minus `to`;
            both are named as `STUDY: ROW`.
        notes: what else a reader has to know, a sentence each.
    """

    studies: tuple[Study, ...]
    refits: tuple[Refit | None, ...]
    rows: tuple[Row, ...]
    differing: tuple[Differing, ...]
    claims: tuple[Claim, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(study.name for study in self.studies)}>"

    def _repr_html_(self) -> str:
        of_study = {study.name: written(study.settings.score) for study in self.studies}
        rows = []
        for row in self.rows:
            how = of_study[row.study]
            validation = None if row.validation is None else how.factor * row.validation
            rows.append(
                (row.study, row.name, validation, with_interval(row.test, how.factor, how.decimals) if row.test else "")
            )
        columns = ("study", "optimizer", f"validation {self.score_in_words}", f"test {self.score_in_words}")
        return html_table("The best of each optimizer", columns, rows)

    @property
    def scores(self) -> list[str]:
        """What the studies are judged by, each once."""
        return list(dict.fromkeys(study.settings.score for study in self.studies))

    @property
    def score_in_words(self) -> str:
        """The score and its unit, as the head of a column; of several scores, none by its name."""
        return in_words(self.scores[0]) if len(self.scores) == 1 else "score"

    @property
    def comparable(self) -> bool:
        """Whether the scores are of the same samples and the same measure."""
        return not any(one.excludes for one in self.differing)

    def table(self) -> "DataFrame":
        """Tabulate :attr:`rows`."""
        import pandas

        return pandas.DataFrame([row.to_json() for row in self.rows])

    def to_json(self) -> dict[str, Any]:
        """Give all of it as JSON holds it."""
        return {
            "studies": [study.name for study in self.studies],
            "comparable": self.comparable,
            "differing": [asdict(one) for one in self.differing],
            "rows": [row.to_json() for row in self.rows],
            "differences": [_claim(claim) for claim in self.claims],
            "notes": list(self.notes),
        }


def compared(studies: Sequence[Study]) -> Comparison:
    """Put searches side by side.

    Raises:
        Refused: these are not two studies or more, or the record of one names code that is not installed.
    """
    names = [study.name for study in studies]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise Refused(f"compare needs two studies or more, each once, and got {', '.join(names) or 'none'}.")
    refits = tuple(map(tested_refit, studies))
    measured = [measured_of(refit.of, refit) if refit else None for refit in refits]
    tables = [refit and _table(refit, one) for refit, one in zip(refits, measured, strict=True)]
    differing = tuple(_differing(studies, refits, measured))
    rows = tuple(
        row for one, refit, table in zip(studies, refits, tables, strict=True) for row in _rows(one, refit, table)
    )
    found = () if any(one.excludes for one in differing) else _claims(studies[0].settings.score, rows, tables)
    notes = tuple(_notes(studies, refits, differing, rows))
    return Comparison(tuple(studies), refits, rows, differing, found, notes)


def _table(refit: Refit, measured: Measured | None) -> "DataFrame":
    """Tabulate a refit's own rows, without controls and equal compute, with λ_max where it was measured."""
    table = with_flatness(refit.table(), measured.table() if measured else None)
    return table[table["kind"] == "refit"]


def _differing(
    studies: Sequence[Study], refits: Sequence[Refit | None], measured: Sequence[Measured | None]
) -> Iterator[Differing]:
    """Find what is not the same, in the trainings, in the refits, and in what λ_max was measured on."""
    for name in (*OTHER_DATA, *TOLD):
        values = [getattr(study.settings, name) for study in studies]
        if len(set(values)) > 1:
            yield Differing(name.replace("_", " "), tuple(map(_written, values)), excludes=name in OTHER_DATA)
    yield from _ranges(studies)
    known: dict[str, Sequence[object]] = {
        "precision": [
            _precisions(refit.studies[0] if refit else one) for one, refit in zip(studies, refits, strict=True)
        ],
        "epochs of the refit": [refit and refit.epochs for refit in refits],
        "samples of λ_max": [one and f"{one.about['samples']} of the {one.about['of']}" for one in measured],
    }
    for what, of_each in known.items():
        if len({one for one in of_each if one is not None}) > 1:
            yield Differing(what, tuple(map(_written, of_each)), excludes=False)


def _precisions(study: Study) -> str | None:
    """Name the precision that trainings had, which `auto` leaves to the device; None where none is known."""
    return " and ".join(sorted({trial.precision for trial in study.records() if trial.precision})) or None


def _ranges(studies: Sequence[Study]) -> Iterator[Differing]:
    """Find where an optimizer that two studies have was not searched in the same ranges, or at the same values."""
    of_all = [{name: _tried(study, name) for name in study.settings.spaces} for study in studies]
    for optimizer in dict.fromkeys(name for of_one in of_all for name in of_one):
        searched = [of_one.get(optimizer, {}) for of_one in of_all]
        for name in dict.fromkeys(name for tried in searched for name in tried):
            values = [tried.get(name, "–") for tried in searched]
            if len({value for value, tried in zip(values, searched, strict=True) if tried}) > 1:
                yield Differing(f"{IN_WORDS.get(name, name)} of {optimizer}", tuple(values), excludes=False)


def _tried(study: Study, optimizer: str) -> dict[str, str]:
    """Write where each hyperparameter of an optimizer was searched, or at which values by a plain grid."""
    space = study.settings.spaces[optimizer]
    if study.settings.sampler != "grid":
        return {name: str(domain) for name, domain in space.domains.items()}
    return {
        name: ", ".join(dict.fromkeys(text_of_value(point[name], 3) for point in space.grid)) for name in space.domains
    }


def _written(value: Any) -> str:
    return "–" if value is None else str(value)


def _rows(study: Study, refit: Refit | None, table: "DataFrame | None") -> Iterator[Row]:
    """Give the best of each optimizer; of a refit with several points of which nothing chose one, each of them."""
    settings = study.settings
    samples = settings.train_subset or study.workload.datasets[settings.dataset].train
    trials, optimizers = study.records(), optimizer_names(study)
    names = names_of(refit) if refit else {}
    for optimizer in settings.optimizers:
        own = [trial for trial in trials if trial.optimizer == optimizer and trial.epochs]
        cost = (
            len(own),
            sum(trial.seconds or 0 for trial in own),
            sum(study.gradients(trial, samples) for trial in own),
        )
        complete = study.ranked([trial for trial in trials if trial.optimizer == optimizer])
        found = [] if table is None else list(table[table["optimizer"] == optimizer].groupby("row", sort=False))
        if refit and optimizer in refit.best_rows:
            found = [(row, part) for row, part in found if row == refit.best_rows[optimizer]]
        for row, part in found or [("", None)]:
            config = refit.studies[0].trial(str(part["key"].iloc[0])).config if refit and part is not None else None
            trial = _searched(complete, config)
            yield Row(
                study.name,
                optimizer,
                names.get(str(row), optimizers[optimizer]),
                trial.config if trial else config,
                trial.metrics.get(f"val/{settings.score}") if trial else None,
                _mean(part, f"test/{settings.score}"),
                _mean(part, "gap/loss"),
                _mean(part, "lambda_max"),
                *cost,
                str(row),
            )


def _searched(complete: Sequence[Trial], config: Configuration | None) -> Trial | None:
    """Find the trial that a configuration was searched in; of none the best. None where there is no such trial."""
    same = [trial for trial in complete if config is None or (trial.config and trial.config.point == config.point)]
    return next(iter(same), None)


def _mean(part: "DataFrame | None", column: str) -> Mean | None:
    """Average over the seeds; None where it was not measured or is not resolved."""
    values = [] if part is None or column not in part else part[column].dropna().tolist()
    return Mean.of(values) if values else None


def _claims(score: str, rows: Sequence[Row], tables: "Sequence[DataFrame | None]") -> tuple[Claim, ...]:
    """Compare each two studies: the same optimizer in both, or else with the base optimizer of the other one.

    Of a grid, the same points of both are compared. The order of the studies decides the sign alone.
    """
    from pandas import concat

    refitted: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row.row:
            refitted.setdefault(row.study, {}).setdefault(row.optimizer, []).append(row)
    there = [table for table in tables if table is not None]
    if len(refitted) < 2:
        return ()
    of_all = concat([_labelled(table, study) for table, study in zip(there, refitted, strict=True)], ignore_index=True)
    pairs = [
        (label(own), label(to))
        for first, later in combinations(refitted.values(), 2)
        for one, other in ((later, first), ({name: of_it for name, of_it in first.items() if name not in later}, later))
        for optimizer, of_it in one.items()
        for own in of_it
        if (to := _counterpart(own, of_it, other.get(optimizer)) or _only(other.get("base", []), optimizer in other))
    ]
    return claims(of_all, pairs, (f"test/{score}",))


def _counterpart(own: Row, beside: Sequence[Row], others: Sequence[Row] | None) -> Row | None:
    """Find which of another study's rows of its optimizer a row is compared with.

    Args:
        own: the row.
        beside: all of its study of its optimizer.
        others: those of the other study; None if it has none.

    Returns:
        The only one, where both studies have one, else that of the same point.
    """
    if others and len(beside) == len(others) == 1:
        return others[0]
    same = [other for other in others or () if other.config and own.config and other.config.point == own.config.point]
    return next(iter(same), None)


def _only(base: Sequence[Row], has_its_own: bool) -> Row | None:
    """Give the base optimizer's only row, for an optimizer that the other study has not."""
    return base[0] if len(base) == 1 and not has_its_own else None


def _labelled(table: "DataFrame", study: str) -> "DataFrame":
    return table.assign(row=[f"{study}: {row}" for row in table["row"]])


def label(row: Row) -> str:
    """Name a row of a refit among those of all studies."""
    return f"{row.study}: {row.row}"


def _notes(
    studies: Sequence[Study], refits: Sequence[Refit | None], differing: Sequence[Differing], rows: Sequence[Row]
) -> Iterator[str]:
    """Say where numbers are not what they seem."""
    if excluding := [one.name for one in differing if one.excludes]:
        yield (
            f"These studies cannot be compared, for they have not the same {' and '.join(excluding)}: their scores are "
            "of other samples, or other measures. They only stand side by side."
        )
    elif told := [one.name for one in differing if not one.excludes]:
        yield (
            f"The studies are not the same in {' and '.join(told)}: what differs between their scores may come from "
            "there, and not from the optimizer."
        )
    usual = {study.name: _smoothing(study) for study in studies}
    if len({row.config.more.get("label_smoothing", usual[row.study]) for row in rows if row.config}) > 1:
        yield OF_OTHER_LOSSES
    for study, refit in zip(studies, refits, strict=True):
        if refit is None:
            yield (
                f"Study {study.name} is not refitted: the validation score of the best of many trials looks better "
                f"than it is; `{study.command('refit')}` tests it."
            )
        elif refit.stale:
            yield (
                f"The refit of study {study.name} is of an earlier best, for it was searched on since; "
                f"`{refit.command}` trains the new one."
            )
    if excluding:
        return
    for first, later in combinations(filter(None, refits), 2):
        if not set(first.seeds) & set(later.seeds):
            seeds = "; ".join(f"{one.of.name}: {', '.join(map(str, one.seeds))}" for one in (first, later))
            yield (
                f"The refits of {first.of.name} and {later.of.name} have no seed in common ({seeds}), so there are no "
                "pairs of them to compare."
            )


def _smoothing(study: Study) -> float | None:
    """Give the label smoothing that a workload has where none is searched; None where it is not known here."""
    with suppress(Refused):
        return study.workload.label_smoothing
    return None


def _claim(claim: Claim) -> dict[str, Any]:
    difference, mean = claim.difference, claim.difference.mean
    return {
        "row": claim.row,
        "to": claim.to,
        "measure": claim.measure,
        "seeds": mean.n,
        "difference": mean.value,
        "low": mean.low,
        "high": mean.high,
        "p": difference.p,
        "corrected_p": difference.corrected,
        "shown": difference.shown,
    }
