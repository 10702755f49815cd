"""The answer of a study in three short lines: does SAM help, with which ρ, and is the minimum flatter?

Where several optimizers were compared, the lines speak of the one whose best trial is best by validation, which no test
result chose. Of a grid, whose rows nothing chose, they say what all rows show together, and of which: yes where one is
shown to help, with p-values that are corrected for all of them, and no only where all are shown to harm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from tune_sam.evaluation.claims import Answers, Claim, EqualLoss, Question, Radius, answers
from tune_sam.evaluation.measured import measured_of
from tune_sam.evaluation.names import optimizer_names, row_names
from tune_sam.evaluation.refit import Refit, equal_epochs, tested_refit
from tune_sam.evaluation.statistics import FEWEST, p_value
from tune_sam.scores import decimal, signed, written
from tune_sam.settings import SEEDS
from tune_sam.space import LogRange, Space, Values, each_once, ends
from tune_sam.study.records import Study
from tune_sam.study.settings import StudySettings
from tune_sam.study.spent import ended_by
from tune_sam.tuning.recipe import as_command

Sign = Literal["yes", "no", "not shown", "not known"]

SYMBOLS: dict[Sign, str] = {"yes": "✓", "no": "✗", "not shown": "≈", "not known": "?"}

FEW = 5
"""Complete trials of an optimizer below which little was searched."""

BEYOND = 10
"""How far, as a factor, a search beyond the smallest or the largest ρ goes."""


@dataclass(frozen=True)
class Line:
    """The answer to one question.

    Attributes:
        question: as `Help?`.
        sign: `yes` or `no` where a difference is shown, in favour of SAM or against it; `not shown` where it was
            measured and is not; `not known` where it was not measured, or with too few seeds. Of ρ, `yes` where the
            best one lies between others that were tried, and `not shown` where it lies at an open end, see
            :attr:`tune_sam.evaluation.claims.Radius.is_open`.
        word: what stands beside the symbol: the sign, or the value of ρ.
        sentence: the numbers.
    """

    question: str
    sign: Sign
    word: str
    sentence: str

    @property
    def symbol(self) -> str:
        """One character for the sign."""
        return SYMBOLS[self.sign]

    def __str__(self) -> str:
        return f"{self.symbol} {self.question} {self.word}: {self.sentence}"


@dataclass(frozen=True)
class NextStep:
    """What to do next, and the command that does it."""

    why: str
    command: str

    def __str__(self) -> str:
        return f"{self.why}: {self.command}"


@dataclass(frozen=True)
class Answer:
    """The three lines, and what to do next; None where nothing is left to do."""

    help: Line
    rho: Line
    flatter: Line
    next_step: NextStep | None

    @property
    def lines(self) -> tuple[Line, Line, Line]:
        """The lines in their order."""
        return self.help, self.rho, self.flatter

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.lines, *([self.next_step] if self.next_step else []))))


def answer_of(study: Study) -> Answer:
    """Answer from all that was finished of a search: its trials, its latest tested refit, and the newest analysis."""
    refit = tested_refit(study)
    return answer_of_refit(refit) if refit else short_answer(study, None, answers(study, None, None))


def answer_of_refit(refit: Refit) -> Answer:
    """Answer as :func:`answer_of` does, from this refit."""
    measured = measured_of(refit.of, refit)
    return short_answer(refit.of, refit, answers(refit.of, refit, measured.table() if measured else None))


def short_answer(study: Study, refit: Refit | None, found: Answers) -> Answer:
    """Shorten the answers about a study to three lines.

    Args:
        study: a search.
        refit: its tested refit; None if there is none.
        found: what :func:`tune_sam.evaluation.claims.answers` says of both.
    """
    optimizers = optimizer_names(study)
    names = row_names(refit.table(), optimizers) if refit else {}
    best = _best_by_validation(study, refit)
    helps = _headline(found.help, best.row if best else None, _better(study))
    row = best.row if best else helps.row if helps else None
    return Answer(
        _help(study, refit, found, names, best, helps),
        _rho(refit, found.radii, optimizers, best),
        _flatter(study, refit, found, names, row, best),
        next_step(study, refit, found),
    )


@dataclass(frozen=True)
class _Best:
    """What validation chose among the optimizers that have a ρ.

    Attributes:
        optimizer: whose best trial is the best.
        row: of its refit; that of an earlier best where the search has another since, empty if it was not refitted.
    """

    optimizer: str
    row: str


def _best_by_validation(study: Study, refit: Refit | None) -> _Best | None:
    ranked = study.ranked(study.records())
    trial = next((trial for trial in ranked if trial.config and trial.config.rho is not None), None)
    if trial is None or trial.config is None:
        return None
    row = ""
    if refit:
        table = refit.table()
        same = (table["kind"] == "refit") & (table["optimizer"] == trial.optimizer)
        for name, value in trial.config.point.items():
            same &= table[name] == value if name in table else False  # another's further hyperparameter
        row = next(iter(table[same]["row"]), "") or refit.best_rows.get(trial.optimizer, "")
    return _Best(trial.optimizer, str(row))


def _headline(claims: Sequence[Claim], row: str | None, better: int) -> Claim | None:
    """Choose the comparison that a line speaks of: that of a row or, without one, what the rows show together.

    Points of a grid are each tried for itself, and corrected for all: one that is shown to be better is a yes, and no
    is said only where all are shown to be worse. A radius that ruins the training is the clearest, and says nothing of
    others.
    """
    if row is not None:
        return next((claim for claim in claims if claim.row == row), None)

    def order(claim: Claim) -> tuple[int, float, float]:
        p = [math.inf if math.isnan(one) else one for one in (claim.difference.corrected, claim.difference.p)]
        return ORDER.index(_sign(claim, better)), p[0], p[1]

    return min(claims, key=order, default=None)


ORDER: tuple[Sign, ...] = ("yes", "not shown", "no", "not known")
"""Of signs, that of the first of which a question is answered by, of several rows."""


def _better(study: Study) -> int:
    """1 where a larger test score is better, -1 where a smaller one is."""
    return 1 if study.settings.score_direction == "maximize" else -1


def _sign(claim: Claim, better: int) -> Sign:
    """Judge a comparison in which `better` is 1 where more is better, and -1 where less is."""
    if claim.difference.mean.n < FEWEST:
        return "not known"
    if not claim.difference.shown:
        return "not shown"
    return "yes" if claim.difference.mean.value * better > 0 else "no"


def _line(question: str, sign: Sign, sentence: str) -> Line:
    return Line(question, sign, sign, sentence)


def _help(
    study: Study,
    refit: Refit | None,
    found: Answers,
    names: Mapping[str, str],
    best: _Best | None,
    claim: Claim | None,
) -> Line:
    if claim is None or refit is None:
        return _line(
            "Help?", "not known", _not_compared(study, refit, found, best) or why_not_known(study, refit, "use")
        )
    dear = next((one for one in found.help_at_equal_compute if one.row == claim.row), None)
    how = written(study.settings.score)
    numbers = partial(_numbers, unit=how.factor, form=how.difference, of=how.points)
    at_equal_compute = f"; at equal compute, against {names[dear.to]}, {numbers(dear)}" if dear else ""
    return _line(
        "Help?",
        _sign(claim, _better(study)),
        f"{names[claim.row]} against {names[claim.to]} in test {study.settings.score} at equal epochs: "
        f"{numbers(claim)}{at_equal_compute}."
        f"{_of_another_size(refit, claim, names)}{_since(refit, claim.row, claim.to)}",
    )


def _of_another_size(refit: Refit, claim: Claim, names: Mapping[str, str]) -> str:
    """Say what the base optimizer's best is where rows of one batch size were compared, and it has another one."""
    best = refit.best_rows.get("base")
    if not refit.choice.each_batch_size or best in (None, claim.to):
        return ""
    return f" Both have one batch size; by validation {names[best]} is better than {names[claim.to]}."


def _not_compared(study: Study, refit: Refit | None, found: Answers, best: _Best | None) -> str:
    """Say why what the lines speak of has nothing to be compared with, where others have; empty otherwise."""
    if refit is None or best is None:
        return ""
    names = optimizer_names(study)
    if best.row and refit.choice.each_batch_size and "base" in refit.studies[0].settings.optimizers:
        of = names[best.optimizer]
        return f"{names['base']} was not refitted with the batch size of {of}, the best by validation."
    if found.help and not best.row:
        return f"{names[best.optimizer]}, the best by validation, is not in the refit."
    return ""


def _since(refit: Refit, *rows: str) -> str:
    """Say which of some rows is not what the search has as best by now; empty if all are."""
    earlier = [row for row in rows if row in refit.earlier]
    return f" The search has another best by now than {' and '.join(earlier)}." if earlier else ""


def _rho(refit: Refit | None, radii: Sequence[Radius], optimizers: Mapping[str, str], best: _Best | None) -> Line:
    if best is None or not radii:
        if refit and refit.choice.planned:
            return _line("Which ρ?", "not known", "Nothing was searched: the configurations were given.")
        return _line("Which ρ?", "not known", "No trial of an optimizer that has a ρ is complete.")
    first = next((radius for radius in radii if radius.optimizer == best.optimizer), radii[0])
    sign: Sign = "not known" if first.tried < 2 else "not shown" if first.is_open else "yes"
    among = {"smallest": "≤ ", "largest": "≥ "}[first.end] if first.is_open else ""
    ordered = sorted(radii, key=lambda radius: radius is not first)
    sentences = " ".join(f"{optimizers[radius.optimizer]}: {_radius(radius)}." for radius in ordered)
    return Line("Which ρ?", sign, f"{among}{first.value:.3g}", sentences)


def _radius(radius: Radius) -> str:
    if radius.tried < 2:
        return f"{radius.value:.3g}, the only one whose trial is complete"
    end = at_end(radius)
    if math.isnan(radius.low):
        return f"{radius.value:.3g}, {end or f'of {radius.tried} tried'}"
    near = (
        f"within one standard error of the best in validation are {radius.low:.3g} to {radius.high:.3g}"
        if radius.low < radius.high
        else "no other is within one standard error in validation"
    )
    return f"{radius.value:.3g}, {end or f'of {radius.tried} tried'}; {near}"


def at_end(radius: Radius) -> str:
    """Say that a best ρ is the smallest or the largest, and what is known beyond it; empty if it is neither."""
    if not radius.end:
        return ""
    where = f"the {radius.end} of the {radius.tried} values of complete trials"
    if radius.is_open:
        return f"{where}, so a better one may lie beyond"
    more = {"smallest": "smaller", "largest": "larger"}[radius.end]
    others = f"one {more} was" if radius.beyond == 1 else f"{radius.beyond} {more} ones were"
    return f"{where}; {others} tried, and pruned or diverged"


def _flatter(
    study: Study, refit: Refit | None, found: Answers, names: Mapping[str, str], row: str | None, best: _Best | None
) -> Line:
    claims = [claim for claim in found.flatter if claim.measure == "lambda_max"]
    claim = _headline(claims, row, -1)
    if claim is None or refit is None:
        of = f"{optimizer_names(study)[best.optimizer]}, the best by validation," if best else names.get(row or "", "")
        return _line("Flatter?", "not known", _why_not_flat(study, refit, found, row, of))
    same_loss = next((one for one in found.flatter_at_equal_loss if one.row == claim.row), None)
    at_equal_loss = f" {_at_equal_loss(same_loss)}" if same_loss else ""
    base, one, other = optimizer_names(study)["base"], claim.values.value, claim.others.value
    times = f", {decimal(one / other, 2)} times as large" if other > 0 else ""
    return _line(
        "Flatter?",
        _sign(claim, -1),
        f"λ_max of {names[claim.row]} is {one:.3g} against {other:.3g} of {base} with the same learning rate and batch "
        f"size, over {_seeds(claim)}{times}; difference {_numbers(claim, 1, '+.3g')}.{at_equal_loss}"
        f"{_since(refit, claim.row)}",
    )


def _seeds(claim: Claim) -> str:
    n = claim.difference.mean.n
    return f"{n} seed{'s' * (n > 1)}"


def _at_equal_loss(one: EqualLoss) -> str:
    if not one.overlap:
        return "At equal training loss nothing can be said: their losses do not overlap."
    if math.isnan(one.factor):
        return "At equal training loss nothing can be said: too few networks."
    verdict = "" if one.shown else ", not shown"
    return (
        f"At equal training loss {decimal(one.factor, 2)} times (95 % interval {decimal(one.low, 2)} to "
        f"{decimal(one.high, 2)}, {_p(one.corrected)}{verdict}), by {one.common} of {one.networks} networks with a "
        "loss in the range of both."
    )


def _numbers(claim: Claim, unit: float, form: str, of: str = "") -> str:
    """Write a difference with its interval, its corrected p-value, and whether it is shown."""
    difference, mean = claim.difference, claim.difference.mean
    value, low, high = (signed(unit * one, unit * mean.half, form) for one in (mean.value, mean.low, mean.high))
    written = value + of
    if mean.n < FEWEST:
        return f"{written} (of {_seeds(claim)}, too few for an interval)"
    if math.isnan(mean.half):
        return f"{written} (the same with each seed, which shows nothing)"
    verdict = "shown" if difference.shown else "not shown"
    return f"{written} (95 % interval {low} to {high}, {_p(difference.corrected)}, {verdict})"


def _p(p: float) -> str:
    text = p_value(p)
    return f"corrected p {text if text.startswith('<') else f'= {text}'}"


def why_not_known(study: Study, refit: Refit | None, question: Question) -> str:
    """Say why a question about the score on the test set has no comparisons."""
    base, optimizers = optimizer_names(study)["base"], study.settings.optimizers
    if optimizers == ("base",):
        return f"Only {base} was trained."
    if refit is None:
        return "Nothing is tested yet; the best of a search is chosen among many and looks better than it is."
    if question == "rho":
        return "No matched control of these seeds is complete." if refit.controls else "No matched controls are tested."
    table = refit.table()
    others = table[(table["kind"] == "refit") & (table["optimizer"] != "base")]
    if others.empty:
        return f"Only {base} was refitted, so there is nothing to compare it with."
    if "base" not in optimizers:
        return f"{base} was not searched, so there is nothing to compare with."
    if question == "compute" and "base" in refit.best_rows:
        settings = refit.studies[0].settings
        if table[table["kind"] == "equal-compute"]["base_epochs"].isin(others["base_epochs"]).any():
            return f"{base} at equal compute has a batch size that no other optimizer was refitted with."
        if equal_epochs(settings):
            return f"{base} at equal compute is not tested with these seeds."
        if all(settings.gradients_of(optimizer) == 1 for optimizer in others["optimizer"]):
            return f"Each optimizer takes as many gradients as {base}, so the comparison above is at equal compute."
        return f"In whole epochs {base} cannot cost what the others do; nearest are those that are compared above."
    if refit.choice.planned:
        return f"A grid with several points of {base} has no best one, so there is nothing to compare with."
    if "base" in refit.best_rows:
        return f"{base} was refitted with none of the batch sizes of the others."
    return f"{base} has no complete trial, so there is nothing to compare with."


NONE_COMPARED = "In the newest analysis no row can be compared with its matched control"
"""What is said of flatness that was measured, as of one optimizer alone, where nothing is compared."""


def _why_not_flat(study: Study, refit: Refit | None, found: Answers, row: str | None, of: str) -> str:
    """Say why flatness is not known of a row, called `of`: empty if it is not in the refit, None if there is none."""
    if refit is None and study.settings.optimizers != ("base",):
        return "It takes a refit with several seeds and matched controls, and an analysis of it."
    if not found.by_rho:
        return why_not_known(study, refit, "rho")
    if not found.flatter:
        return f"{NONE_COMPARED if found.measured else 'Not measured'}."
    if row is None or row in {claim.row for claim in found.flatter}:
        return "λ_max is not resolved with the sample that was measured."
    if not row:
        return f"{of} is not in the refit."
    if row in {claim.row for claim in found.by_rho}:
        return f"{of} was not measured together with its matched control."
    return f"{of} has no matched control that is complete."


def next_step(study: Study, refit: Refit | None, found: Answers) -> NextStep | None:
    """Say what is to be done next: what makes an answer possible first, then what makes it better."""
    names, settings = optimizer_names(study), study.settings
    if settings.optimizers == ("base",):
        return NextStep(f"Only {names['base']} was searched", f"tune-sam search {settings.workload} --name NAME")
    return (
        _search_more(study, refit, names)
        or _refit_more(study, refit, found)
        or _search_beyond(study, found.radii, names)
    )


def _search_more(study: Study, refit: Refit | None, names: Mapping[str, str]) -> NextStep | None:
    """Ask for more trials where an optimizer has few complete ones; the points of a grid are as many as they are."""
    settings = study.settings
    if settings.sampler == "grid" or (refit and refit.choice.planned):
        return None
    records = study.records()
    states = [(trial.optimizer, trial.value is not None) for trial in records]
    complete = {optimizer: states.count((optimizer, True)) for optimizer in settings.optimizers}
    fewest = min(complete, key=lambda optimizer: complete[optimizer])
    if (few := complete[fewest]) >= FEW:
        return None
    ended = [trial for trial in records if trial.optimizer == fewest and trial.has_ended]
    if ended and all(trial.state in ("failed", "diverged") for trial in ended):
        first = min(ended, key=lambda trial: trial.state != "failed")  # what diverged has no traceback
        why = f"All trials of {names[fewest]} failed or diverged ({first.reason}), so mend that before you search more"
        return NextStep(why, first.log_command if first.state == "failed" else f"tune-sam trials {study.name}")
    trials = math.ceil(settings.trials * FEW / max(few, 1))
    how_many = {0: "No trial", 1: "Only one trial"}.get(few, f"Only {few} trials")
    budget = ended_by(study)
    complete_of_it = f"{how_many} of {names[fewest]} {'are' if few > 1 else 'is'} complete"
    if budget:
        why = f"{complete_of_it}, and the search ended, for {budget.why}"
        return NextStep(why, study.command("resume", budget.more))
    return NextStep(
        f"{complete_of_it}, so search at least {trials} of each optimizer",
        study.command("resume", f"--trials {trials}"),
    )


def _refit_more(study: Study, refit: Refit | None, found: Answers) -> NextStep | None:
    """Ask for the refit, its seeds, its controls and its analysis, as far as they are missing."""
    if refit is None:
        return NextStep("Train the best again with several seeds, and test them", study.command("refit"))
    if refit.stale:
        return NextStep("The search has other bests since this refit", f"{refit.command} --seeds {refit.listed}")
    if len(refit.seeds) < FEWEST:
        return NextStep(f"Fewer than {FEWEST} seeds give no verdict, so train more", f"{refit.command} --seeds {SEEDS}")
    if refit.lacks_controls:
        return NextStep(
            "Train the matched controls, which differ in ρ alone", f"{refit.command} --seeds {refit.listed}"
        )
    if refit.lacks_equal_compute:
        base = optimizer_names(study)["base"]
        return NextStep(f"Train {base} at equal compute with all seeds", f"{refit.command} --seeds {refit.listed}")
    if found.by_rho and not found.flatter:
        return NextStep("Measure how flat the minima are", study.command("analyze"))
    if _unmeasured(found):
        return NextStep("Some networks of the refit are not measured yet", study.command("analyze"))
    return None


def _unmeasured(found: Answers) -> bool:
    """Whether some row and its control have fewer networks measured in any way than they have tested."""
    measured: dict[tuple[str, str], int] = {}
    for claim in found.flatter:
        pair = claim.row, claim.to
        measured[pair] = max(measured.get(pair, 0), claim.difference.mean.n)
    return any(measured.get((claim.row, claim.to), 0) < claim.difference.mean.n for claim in found.by_rho)


def _search_beyond(study: Study, radii: Sequence[Radius], names: Mapping[str, str]) -> NextStep | None:
    """Ask for other values of ρ where the best one is the smallest or the largest that was tried."""
    radius = next((radius for radius in radii if radius.is_open), None)
    if radius is None:
        return None
    low, high = (
        (radius.value / BEYOND, radius.value) if radius.end == "smallest" else (radius.value, radius.value * BEYOND)
    )
    settings = _with_range(study, radius.optimizer, LogRange(float(f"{low:.3g}"), float(f"{high:.3g}")))
    if settings is None:
        return None
    return NextStep(
        f"The best ρ of {names[radius.optimizer]} is the {radius.end} that was tried, so search beyond it",
        as_command(settings, study.home),
    )


def _with_range(study: Study, optimizer: str, rho: LogRange) -> StudySettings | None:
    """Give the settings of the same search in another range of ρ, which is one optimizer's scale.

    Beside that optimizer it has the base optimizer alone, where both were searched in the same ranges, as on a command
    line. A plain grid has values of ρ that are spread over the range.

    Returns:
        The settings; None if a preset that is a plain grid has a network that nothing else has.
    """
    settings, presets = study.settings, study.workload.presets
    preset = settings.preset
    if preset and presets[preset].options.get("sampler") == "grid":  # to which no other values of ρ can be given
        setting = presets[preset].setting
        others = (None, *(name for name, one in presets.items() if one.options.get("sampler") != "grid"))
        same = [name for name in others if study.workload.setting(settings.dataset, name) == setting]
        if not same:
            return None
        preset = same[0]
    space, base, alone = settings.spaces[optimizer], settings.spaces.get("base"), settings.sampler == "grid"
    values = Values(rho.spread(4) if alone else study.workload.rho_grid(optimizer, rho))
    points = [{**point, "rho": value} for point in space.grid for value in values.points]
    spaces = {optimizer: replace(space, rho=ends(values) if alone else rho, grid=tuple(each_once(points)))}
    if base and _same_but_for_ascent(base, space):
        spaces = {"base": base, **spaces}
    return replace(settings, optimizers=tuple(spaces), spaces=spaces, preset=preset, from_study=None)


def _same_but_for_ascent(base: Space, space: Space) -> bool:
    """Whether the base optimizer was searched as another one was, as far as both have the same hyperparameters."""
    shared = {name: space.domains.get(name) for name in base.domains}
    points = [{name: point.get(name) for name in base.domains} for point in space.grid]
    return shared == base.domains and tuple(each_once(points)) == base.grid
