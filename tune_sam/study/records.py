"""Study and Trial: the records of a search in Optuna's storage, and the questions that they answer."""

import logging
import os
from collections.abc import Container, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from operator import ge
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tune_sam.display import html_table, text_of
from tune_sam.errors import NothingComplete, Refused, masked
from tune_sam.home import Home, Place, folder_of, inside
from tune_sam.logins import of_results, same_place, with_login, without_login
from tune_sam.optimizers import known_optimizer
from tune_sam.plugins import naming
from tune_sam.settings import is_name
from tune_sam.space import Configuration
from tune_sam.study.checkpoints import checkpoints_in
from tune_sam.study.epochs import GRADIENTS, adopted_attribute, epochs_in
from tune_sam.study.lock import is_going
from tune_sam.study.optuna_internals import attributes_of_studies, enqueued_point
from tune_sam.study.reading import check_fields, reading
from tune_sam.study.settings import ENDINGS, STATES, Kind, StudySettings, trial_key
from tune_sam.study.storage import exists, open_storage
from tune_sam.study.upgrade import FORMAT, upgraded
from tune_sam.tracking import content
from tune_sam.tracking.client import StudyRun
from tune_sam.workload import Setting, Workload, known_workload

if TYPE_CHECKING:
    import pandas
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, TrialState
    from torch import nn


log = logging.getLogger(__name__)

_RUN = "mlflow_run_id:"


def _run_attribute(number: int) -> str:
    """Name the attribute of an Optuna study that holds a trial's MLflow run."""
    return f"{_RUN}{number}"


def is_run_attribute(name: str) -> bool:
    """Say whether an attribute of an Optuna study holds a trial's MLflow run."""
    return name.startswith(_RUN)


CONFIGURATION = {"rho": "ρ", "lr": "lr", "batch_size": "batch size"}
"""What a representation calls the values of a trial's configuration; a further one is called by its name."""


PLACES = ("checkpoint", "log")
"""Columns of a table of trials that say where something lies now; a file that may be moved or passed on has none."""


@dataclass(frozen=True, repr=False)
class Trial:
    """One training with one configuration.

    Attributes:
        key: `study/optimizer/number`.
        study, workload, dataset, optimizer: where it belongs.
        preset, train_subset: the preset it was trained with, and on how many samples; None for none and for all.
        number: from 0, in the order in which the optimizer's trials were suggested; Optuna's number too.
        state: one of :data:`STATES`.
        reason: why it did not end complete; empty otherwise.
        config: what it is given; None while nothing is decided yet.
        value: the objective's after its last epoch, such as the validation accuracy, 0 to 1; the first of two; None
            unless complete.
        epochs: trained so far.
        metrics: of the last epoch, as :class:`tune_sam.training.Epoch` names them; empty until it ended.
        seconds: spent in its epochs, over all attempts; None until it ended.
        precision: of the network's passes, `bf16` or `fp32`; None until it ended.
        device: the name of the GPU, or `CPU`; None until it ended, and of a trial of an earlier release.
        compile: whether the network ran through torch.compile.
        node, pid: Ray's node id and the process that trained it last.
        started, ended: ISO 8601, UTC.
        mlflow_run_id: its run; None until the tracking server has given one.
        optuna_trial_number: its number in the Optuna study `study/optimizer`.
        checkpoint: folder or URI of its last checkpoint.
        heard: when its last epoch ended, or this attempt was launched, ISO 8601, UTC; None before.
        log: file or URI of what it printed and raised, see :meth:`read_log`; None before it began.
    """

    key: str
    study: str
    workload: str
    dataset: str
    preset: str | None
    train_subset: int | None
    optimizer: str
    number: int
    state: str
    reason: str
    config: Configuration | None
    value: float | None
    epochs: int
    metrics: dict[str, float]
    seconds: float | None
    precision: str | None
    device: str | None
    compile: bool
    node: str | None
    pid: int | None
    started: str | None
    ended: str | None
    mlflow_run_id: str | None
    optuna_trial_number: int
    checkpoint: str | None
    heard: str | None
    log: str | None

    def __repr__(self) -> str:
        found = [self.state, f"value {text_of(self.value)}"] if self.value is not None else [self.state]
        return f"<Trial {self.key}: {', '.join(found + self._configured())}>"

    def _repr_html_(self) -> str:
        more = [*self.config.more] if self.config else []
        columns = ("state", "value", *CONFIGURATION.values(), *more, "seed", "epochs", "seconds")
        seed = self.config.seed if self.config else None
        row = (self.state, self.value, *self._cells(more), seed, self.epochs, self.seconds)
        return html_table(f"Trial {self.key}", columns, [row])

    def _cells(self, more: Sequence[str]) -> list[object]:
        """Return the values of :data:`CONFIGURATION`, and of further hyperparameters; None for what it has not."""
        point = self.config.point if self.config else {}
        return [point.get(name) for name in (*CONFIGURATION, *more)]

    def _configured(self) -> list[str]:
        point = self.config.point if self.config else {}
        return [f"{CONFIGURATION.get(name, name)} {text_of(value)}" for name, value in point.items()]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be trained in it."""
        return self.state in ENDINGS

    @property
    def log_command(self) -> str:
        """The command that shows the trial's log."""
        return f"tune-sam logs {self.study} {self.optimizer}/{self.number}"

    def to_json(self) -> dict[str, Any]:
        """Give the record as JSON holds it; `config` has its hyperparameters by name, and the seed."""
        record = asdict(self)
        if self.config:
            del record["config"]["optimizer"]
            record["config"] |= record["config"].pop("more")
        return record

    def read_log(self) -> str:
        """Read what the processes of the trial printed, and the traceback of what it raised, attempt after attempt.

        Raises:
            Refused: there is no log, or it may not be read here.
        """
        from tune_sam.study.logs import is_hidden, read_log

        if self.log and is_hidden(self.log):
            raise Refused(
                f"the log {masked(self.log)} of trial {self.key} is for the user alone whose training wrote it; ask "
                "for it."
            )
        if not self.log or (text := read_log(self.log)) is None:
            raise Refused(
                f"trial {self.key} has no log{f' in {masked(self.log)}' if self.log else ''}, it is {self.state}; "
                "one is kept from a trial's first epoch on, by release 0.2 and later."
            )
        return text

    def load_model(self, workload: Workload | None = None) -> "nn.Module":
        """Load the network with the weights of the last epoch, in eval mode, on the CPU.

        Args:
            workload: the study's; found by the name in the record by default, which is not possible in another process
                than the program or notebook that defined it.

        Raises:
            Refused: the trial has no checkpoint, or it is gone, damaged, or of another network.
        """
        return load(self, workload).model


@dataclass(frozen=True)
class Loaded:
    """A trial's network, and what made it: its loss and metrics may read what the workload has of the network.

    Attributes:
        model: with the weights of the last epoch, in eval mode, on the CPU.
        workload: configured as the trial was.
        setting: with those of the trial's hyperparameters that it takes.
    """

    model: "nn.Module"
    workload: Workload
    setting: Setting


def load(trial: Trial, workload: Workload | None = None) -> Loaded:
    """Load a trial's network as :meth:`Trial.load_model` does; torch's random state is left as it was."""
    import torch
    from ray.tune import Checkpoint

    from tune_sam.checkpoint import Checkpoint as State
    from tune_sam.checkpoint import Damaged

    kept = f"the checkpoint {trial.checkpoint} of trial {trial.key}"
    if not trial.checkpoint:
        raise Refused(
            f"trial {trial.key} has no checkpoint in its study's results, it is {trial.state}; choose one that "
            "trained an epoch."
        )
    try:
        with Checkpoint(trial.checkpoint).as_directory() as folder:
            state = State.read(folder)
    except OSError:
        raise Refused(f"{kept} is gone; search again.") from None
    except Damaged:
        raise Refused(f"{kept} is damaged; search again.") from None
    except ValueError as error:
        raise Refused(f"{kept} cannot be read: {error}.") from None
    workload = workload or known_workload(trial.workload)
    workload = workload.configured(trial.config) if trial.config else workload
    setting = workload.placed(workload.setting(state.dataset, state.preset))
    with torch.random.fork_rng(devices=[]):
        model = workload.build(setting)
    try:
        model.load_state_dict(state.weights)
    except RuntimeError:
        raise Refused(
            f"{kept} is of another network than workload {trial.workload} makes now; give it the network it had, or "
            "search again."
        ) from None
    return Loaded(model.eval(), workload, setting)


@dataclass(frozen=True, repr=False)
class Study:
    """The search of one workload over one or more optimizers. Open one with :func:`open_study`.

    Attributes:
        name: the study's.
        home: where it lives.
        settings: what was asked for.
        created: ISO 8601, UTC.
        tracking_uri: the MLflow server or database its trials are logged to.
        experiment_id, mlflow_run_id: MLflow's experiment and the study's parent run.
        storage: folder or URI of Ray's results.
        versions: of what its numbers depend on, when it was made, and the commit; empty of a study of release 0.1.
        folder: that its results have in the storage; empty where it bears the name of the MLflow run.
    """

    name: str
    home: Home
    settings: StudySettings
    created: str
    tracking_uri: str
    experiment_id: str
    mlflow_run_id: str
    storage: str
    versions: dict[str, str] = field(default_factory=dict)
    folder: str = ""

    def __getstate__(self) -> dict[str, Any]:
        """Give what is pickled, as for Ray's workers: addresses without logins, which the driver alone has use for."""
        storage = self.home.study_storage
        home = replace(self.home, study_storage=storage and without_login(storage))
        return {**vars(self), "home": home, "tracking_uri": without_login(self.tracking_uri)}

    def __repr__(self) -> str:
        counts, best = self._so_far()
        values = ", ".join(
            f"{trial.optimizer} {text_of(trial.value)} ({', '.join(trial._configured())})" for trial in best
        )
        return f"<Study {self._in_words(counts)}{f'; best {self.settings.judged_by}: {values}' if best else ''}>"

    def _repr_html_(self) -> str:
        counts, best = self._so_far()
        more = self.settings.more
        columns = ("optimizer", f"best {self.settings.judged_by}", *CONFIGURATION.values(), *more, "trial")
        rows = [(trial.optimizer, trial.value, *trial._cells(more), trial.number) for trial in best]
        return html_table(f"Study {self._in_words(counts)}", columns, rows)

    def _in_words(self, counts: Mapping[str, int]) -> str:
        states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no trials"
        return f"{self.name}: {self.settings.workload} on {self.settings.dataset}, {states}"

    def _so_far(self) -> "tuple[dict[str, int], list[Trial]]":
        """Return how many trials are in each state, and the best of each optimizer that has a complete one.

        A representation is asked for in the middle of an error, too: where the records cannot be read, there are none.
        """
        if not exists(self.home):
            return {}, []
        try:
            counts = self.counts()
            best = {trial.optimizer: trial for trial in best_of_each(self.ranked(self.records()))}
        except Exception:
            return {}, []
        return counts, [best[optimizer] for optimizer in self.settings.optimizers if optimizer in best]

    @property
    def data(self) -> Path:
        """The folder that holds its data set; $TUNE_SAM_DATA, where this machine has that and not the record's."""
        recorded, here = self.settings.data, os.environ.get("TUNE_SAM_DATA")
        if recorded and here and not os.path.exists(recorded) and os.path.exists(here):
            return folder_of(here, "TUNE_SAM_DATA")
        return Path(recorded) if recorded else self.home.data

    @property
    def workload(self) -> Workload:
        """What its trials train.

        Raises:
            Refused: its record names code that is neither installed nor named by the person.
        """
        return known_workload(self.settings.workload).split_by(self.settings.split_seed)

    @property
    def loss_unit(self) -> str:
        """The unit of its losses: `nats` of a classifier, by whatever it is judged; empty of a loss of its own kind.

        A workload is a classifier where its targets are classes, or an accuracy may judge it.

        Raises:
            Refused: as for :attr:`workload`.
        """
        workload = self.workload
        return "nats" if "accuracy" in workload.scores or workload.datasets[self.settings.dataset].classes else ""

    @property
    def results(self) -> str:
        """Folder or URI of Ray's results, for who reads them; it has a folder for each attempt of a trial.

        Homes that share a storage may have studies of one name: the run's id tells their folders apart.
        """
        return inside(self.storage, self._own_results)

    @property
    def own_storage(self) -> str:
        """The storage, for who writes there.

        Raises:
            Refused: it is not the home's, and nothing but the study's record names it.
        """
        if not self._may_use(self.storage, self.home.storage, self.home.named_storage):
            where = masked(self.storage)
            raise Refused(
                f"Ray's results of study {self.name} are in {where}, outside its home, which only its record names; "
                f"give --storage {where} if it may write there."
            )
        return self.storage

    @property
    def own_results(self) -> str:
        """Folder or URI of Ray's results, for who writes there; as :attr:`own_storage`."""
        return inside(self.own_storage, self._own_results)

    @staticmethod
    def _may_use(place: str, own: str, named: str | None) -> bool:
        """Say whether a place that a record names is the home's, or one that the person names, too."""
        return place == own or (named is not None and same_place(place, named))

    @property
    def mlflow(self) -> str:
        """MLflow's URI, for who connects to it.

        Raises:
            Refused: it is not the home's, and nothing but the study's record names it.
        """
        if not self._may_use(self.tracking_uri, self.home.tracking_uri, self.home.named_tracking_uri):
            where = masked(self.tracking_uri)
            raise Refused(
                f"study {self.name} is logged to MLflow at {where}, outside its home, which only its record names; "
                f"give --tracking-uri {where} if it may be logged there."
            )
        return self.tracking_uri

    def command(self, what: str, *options: str) -> str:
        """Compose the command that does something with the study, with the code that a person has to name in it.

        Args:
            what: `resume`, `refit`, `analyze` or `report`.
            options: of the command, written out.
        """
        trains = what in ("resume", "refit")
        code = [
            *naming("workload", [self.settings.workload]),
            *(naming("optimizer", self.settings.optimizers) if trains else []),
        ]
        return " ".join(["tune-sam", what, self.name, *options, *code])

    def refuse_unnamed(self) -> None:
        """Refuse what nothing but the record names, before anything starts that would use it.

        Raises:
            Refused: it names code, a place of results or an MLflow that are neither the home's nor the person's.
        """
        _ = self.workload, self.own_storage, self.mlflow

    def refuse_unnamed_optimizers(self) -> None:
        """Refuse an optimizer that nothing but the record names, before anything starts that would train with it.

        Raises:
            Refused: there is no such optimizer, or its code is neither installed nor named by the person.
        """
        for optimizer in self.settings.optimizers:
            known_optimizer(optimizer)

    @property
    def mlflow_run(self) -> StudyRun:
        """Its run in MLflow."""
        own = self.tracking_uri == self.home.tracking_uri
        return StudyRun(self.experiment_id, self.mlflow_run_id, self.home.artifacts if own else None)

    @property
    def results_folder(self) -> str:
        """Name of the folder of its results, below the study's in the storage."""
        given = self.folder.removeprefix("ray-") or self.mlflow_run_id[:8]
        return f"ray-{''.join(filter(str.isalnum, given))}"  # a record may say anything

    @property
    def _own_results(self) -> str:
        return f"{self.name}/{self.results_folder}"

    def below_results(self, place: str) -> str | None:
        """Give the path below this study's results of what a record, or Ray, says of a checkpoint.

        Args:
            place: such a path; or, as an earlier release kept it and as Ray names it, an absolute path or a URI, from
                wherever the results were then.

        Returns:
            The path; None where the place is outside, so that it is not this study's to read or to remove.
        """
        path = urlsplit(place).path if "://" in place else place
        if path.startswith("/"):
            path = path.partition(f"/{self._own_results}/")[2]
        # The last three mean something else in a URI: `%2e%2e` is `..` there.
        plain = not {"", ".", ".."} & {*path.split("/")} and not {"%", "?", "#"} & {*path}
        return path if plain else None

    def checkpoint(self, kept: str | None) -> str | None:
        """Give the folder or URI of a checkpoint that a record names; None if it names none of this study's."""
        path = self.below_results(kept) if kept else None
        return inside(self.results, path) if path else None

    def checkpoints(self) -> dict[str, list[str]]:
        """Read the folders or URIs of the checkpoints that are kept of each trial, the last first, by its key."""
        return {
            trial_key(self.name, optimizer, frozen.number): [
                place for kept in checkpoints_in(frozen.user_attrs) if (place := self.checkpoint(kept))
            ]
            for optimizer in self.settings.optimizers
            for frozen in trials_in(self, optimizer)
        }

    def log_place(self, optimizer: str, number: int) -> str:
        """Give the file or URI of a trial's log: what it printed, and what it raised."""
        return inside(self.results, f"{optimizer}-{number:04}.log")

    def records(self, optimizer: str | None = None) -> list[Trial]:
        """Read the trials of one optimizer or of all, in the order in which they were suggested.

        Raises:
            Refused: the optimizer is not one of the study's.
        """
        if optimizer and optimizer not in self.settings.optimizers:
            raise Refused(
                f"study {self.name} did not search {optimizer!r}; it has {', '.join(self.settings.optimizers)}."
            )
        going = is_going(self.home, self.name)
        records: list[Trial] = []
        for name in (optimizer,) if optimizer else self.settings.optimizers:
            runs = attributes_in(self, name)
            with reading(f"the records of the trials of {self.name}/{name}"):
                there = trials_in(self, name)
            records += [
                self.trial_of(name, frozen, runs.get(_run_attribute(frozen.number)), going=going) for frozen in there
            ]
        return records

    def trial(self, name: str) -> Trial:
        """Find a trial by its optimizer and number, as `sam/3`, or by its key.

        Raises:
            Refused: there is none.
        """
        found = {f"{trial.optimizer}/{trial.number}": trial for trial in self.records()}
        short = name if name in found else name.removeprefix(f"{self.name}/")  # it may be called as its optimizer
        if short not in found:
            there = f"{next(iter(found))} to {list(found)[-1]}" if found else "none yet"
            raise Refused(f"study {self.name} has no trial {name!r}, it has {there}; name one as sam/3.")
        return found[short]

    def history(self, trial: Trial) -> dict[int, dict[str, float]]:
        """Read the metrics of each epoch of a trial, in their order."""
        storage, study = stored(self, trial.optimizer)
        frozen = storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study, trial.number))
        if found := epochs_in(frozen.user_attrs):
            return {number: epoch.metrics for number, epoch in found.items()}
        adopted = storage.get_study_user_attrs(study).get(adopted_attribute(trial.number), {})
        return {int(number): metrics for number, metrics in adopted.items()}

    def gradients(self, trial: Trial, samples: int) -> int:
        """Give the gradients of single samples that a trial took.

        Args:
            trial: of the study.
            samples: that it trains on in an epoch, from which they are estimated where they were not counted: before
                its end, where it diverged, and in an earlier release.
        """
        estimated = trial.epochs * samples * self.settings.gradients_of(trial.optimizer)
        return round(trial.metrics.get(GRADIENTS) or estimated)

    def adopt(self, trial: Trial, history: dict[int, dict[str, float]]) -> None:
        """Keep the metrics of each epoch of an ended trial that release 0.1 trained."""
        storage, study = stored(self, trial.optimizer)
        kept = {str(number): metrics for number, metrics in history.items()}
        storage.set_study_user_attr(study, adopted_attribute(trial.number), kept)

    def run_ids(self) -> dict[str, str]:
        """Read the MLflow run of each trial that has one, by the trial's key."""
        return {
            trial_key(self.name, optimizer, int(name.removeprefix(_RUN))): run
            for optimizer in self.settings.optimizers
            for name, run in attributes_in(self, optimizer).items()
            if name.startswith(_RUN)
        }

    def trials(self) -> "pandas.DataFrame":
        """Give all trials as a table, a row each; what is in `config` and `metrics` has columns of its own."""
        return trial_frame(self.records())

    def best(self, optimizer: str | None = None) -> Trial:
        """Find the complete trial with the best value; the earlier one where two are equal.

        Raises:
            Refused: the optimizer is not one of the study's.
            NothingComplete: no trial is complete.
        """
        return self.complete(optimizer)[0]

    def complete(self, optimizer: str | None = None) -> list[Trial]:
        """Read the complete trials of one optimizer or of all, the best value first; of equal ones the earlier.

        Raises:
            Refused: the optimizer is not one of the study's.
            NothingComplete: no trial is complete.
        """
        trials = self.records(optimizer)
        complete = self.ranked(trials)
        if not complete:
            raise self.nothing_complete(*([optimizer] if optimizer else []))
        return complete

    def nothing_complete(self, *optimizers: str) -> NothingComplete:
        """Say that no trial of some optimizers, or of all, is complete, and what makes some."""
        settings, some = self.settings, optimizers or self.settings.optimizers
        ended = sum(trial.has_ended for trial in self.records() if trial.optimizer in some)
        whole = settings.sampler != "grid" and ended >= sum(map(settings.trials_of, some))
        which = f"complete trial of {' or '.join(optimizers)}" if optimizers else "complete trial"
        command = self.command("resume", *(["--trials N"] if whole else []))
        return NothingComplete(f"study {self.name} has no {which}{'' if whole else ' yet'}; run `{command}`.")

    def ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """Take the complete ones of some of its trials, the best value first; of equal ones the earlier."""
        complete = [trial for trial in trials if trial.value is not None]
        return sorted(complete, key=lambda trial: -self.settings.sign * (trial.value or 0))

    def pareto(self, optimizer: str | None = None) -> list[Trial]:
        """Read the Pareto front of one optimizer or of all, the highest accuracy first.

        These are the complete trials than which no other is better in one objective and as good or better in the other.

        Raises:
            Refused: the study has one objective, or the optimizer is not one of its.
            NothingComplete: no trial is complete.
        """
        signs = {name: 1 if way == "maximize" else -1 for name, way in self.settings.directions.items()}
        if len(signs) < 2:
            raise Refused(
                f"study {self.name} has one objective, {self.settings.objective}, so it has no Pareto front; "
                "leave --pareto out, or search with --objective two under another --name."
            )
        complete = self.complete(optimizer)
        points = [tuple(sign * trial.metrics[name] for name, sign in signs.items()) for trial in complete]
        return [
            trial
            for trial, point in zip(complete, points, strict=True)
            if not any(other != point and all(map(ge, other, point)) for other in points)
        ]

    def counts(self) -> dict[str, int]:
        """Count the trials in each state that occurs."""
        states = [trial.state for trial in self.records()]
        return {state: states.count(state) for state in STATES if state in states}

    def to_json(self) -> dict[str, Any]:
        """Give what `tune-sam studies --json` prints: the settings without spaces, and how the trials stand."""
        settings = self.settings.to_json()
        left_out = ("spaces", "gradients", "choice", "asked", "data", "trials")
        return {
            "name": self.name,
            **{name: value for name, value in settings.items() if name not in left_out},
            "trials_asked": self.settings.trials,
            "counts": self.counts(),
            "created": self.created,
            "mlflow_run_id": self.mlflow_run_id,
        }

    def to_record(self) -> dict[str, Any]:
        """Give the study's record, in which places in the home are kept so that the home can be moved."""
        settings = self.settings.to_json()
        return {
            "format": FORMAT,
            "settings": settings | {"data": settings["data"] and self.home.kept(settings["data"])},
            "created": self.created,
            "tracking_uri": without_login(self.home.kept(self.tracking_uri)),
            "experiment_id": self.experiment_id,
            "mlflow_run_id": self.mlflow_run_id,
            "storage": without_login(self.home.kept(self.storage)),
            "versions": self.versions,
            **({"folder": self.folder} if self.folder else {}),
        }

    @classmethod
    def from_record(cls, name: str, home: Home, record: dict[str, Any]) -> "Study":
        """Read what :meth:`to_record` gave, also that of an earlier release or of a home that has been moved.

        Raises:
            Refused: it is of a later release, damaged or no record; the text says what is wrong.
        """
        with reading(f"the record of study {name}"):
            record = upgraded(record, name, home)
            settings = record["settings"]
            settings["data"] = settings["data"] and home.found(settings["data"])
            found = {
                "name": name,
                "home": home,
                "settings": StudySettings.from_json(settings),
                "created": record["created"],
                "tracking_uri": with_login(home.found(record["tracking_uri"])),
                "experiment_id": record["experiment_id"],
                "mlflow_run_id": record["mlflow_run_id"],
                "storage": of_results(home.found(record["storage"])),
                "versions": record["versions"],
                "folder": record.get("folder", ""),
            }
            check_fields(cls, found)
        return cls(**found)

    def trial_of(self, optimizer: str, frozen: "FrozenTrial", run_id: str | None = None, *, going: bool) -> Trial:
        """Read the record of one Optuna trial.

        Args:
            optimizer: whose trial it is.
            frozen: Optuna's.
            run_id: of its MLflow run.
            going: whether a process drives the study now; without one, a running trial waits.

        Raises:
            Refused: it is damaged; the text says what is wrong.
        """
        with reading(f"the record of trial {trial_key(self.name, optimizer, frozen.number)}"):
            found = self._fields_of(optimizer, frozen, run_id, going)
            check_fields(Trial, found)
        return Trial(**found)

    def _fields_of(self, optimizer: str, frozen: "FrozenTrial", run_id: str | None, going: bool) -> dict[str, Any]:
        given, told = frozen.user_attrs, frozen.user_attrs.get("record", {})
        if given.get("retried") and not frozen.state.is_finished():
            told = {"reason": told["reason"]}  # of the time before; the rest is not over
        steps = frozen.intermediate_values
        return {
            "key": trial_key(self.name, optimizer, frozen.number),
            "study": self.name,
            "workload": self.settings.workload,
            "dataset": self.settings.dataset,
            "preset": self.settings.preset,
            "train_subset": self.settings.train_subset,
            "optimizer": optimizer,
            "number": frozen.number,
            "state": _state(frozen, going),
            "reason": told.get("reason", ""),
            "config": self._configuration(optimizer, frozen),
            "value": frozen.values[0] if frozen.state.name == "COMPLETE" else None,
            "epochs": told.get("epochs", max([*epochs_in(given), *steps, given.get("epoch", 0)])),
            "metrics": renamed(told.get("metrics", {})),
            "seconds": told.get("seconds"),
            "precision": told.get("precision"),
            "device": told.get("device"),
            "compile": self.settings.compile,
            "node": told.get("node"),
            "pid": told.get("pid"),
            "started": given.get("started"),
            "ended": told.get("ended"),
            "mlflow_run_id": run_id,
            "optuna_trial_number": frozen.number,
            "checkpoint": self.checkpoint(given.get("checkpoint")),
            "heard": _heard(given),
            "log": self.log_place(optimizer, frozen.number) if "attempt" in given else None,
        }

    def _configuration(self, optimizer: str, frozen: "FrozenTrial") -> Configuration | None:
        given = enqueued_point(frozen)
        point = frozen.params or given
        if not {"lr", "batch_size", *self.settings.spaces[optimizer].domains_of(given)} <= point.keys():
            return None
        return Configuration.at(optimizer, point, self.settings.seed + frozen.number)


def renamed(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics by today's names: release 0.1 called `train/lr` by the name of the configuration's `lr`."""
    return {content.renamed(name): value for name, value in metrics.items()}


def _heard(attributes: Mapping[str, Any]) -> str | None:
    """Give when a trial's last epoch ended or its last attempt began, whichever was later."""
    ended = [datetime.fromtimestamp(epoch.time / 1000, UTC) for epoch in epochs_in(attributes).values()]
    begun = [datetime.fromisoformat(attributes["launched"])] if "launched" in attributes else []
    return max([*ended, *begun]).isoformat(timespec="seconds") if ended or begun else None


def _state(frozen: "FrozenTrial", going: bool) -> str:
    """Give our word for the state of an Optuna trial; without a driver, a running trial waits to be resumed."""
    if frozen.state.name == "WAITING" or (frozen.state.name == "RUNNING" and not going):
        return "waiting"
    state: str = frozen.user_attrs["state"] if frozen.state.is_finished() else "running"
    if state not in STATES:
        raise ValueError(f"its state is {state!r:.60}")
    return state


def open_search(name: str, home: Place = None) -> Study:
    """Open the search called `name`.

    Args:
        name: as `tune-sam studies` lists it.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Raises:
        Refused: there is none of that name, or it is a refit.
    """
    study = open_study(name, home)
    if study.settings.kind != "search":
        raise Refused(f"study {name} is a refit itself; give the study that it is of, {study.settings.refit_of}.")
    return study


def refits_of(study: Study, kind: Kind | None = None) -> list[Study]:
    """Find the studies that train a search's configurations again, the one that was asked for last at the end.

    Args:
        study: the search.
        kind: `refit` for those that compare the optimizers, `equal-compute` or `control` for the base optimizer's that
            they are compared with; all by default.
    """
    found = [
        other
        for other in every_study(study.home)
        if other.settings.refit_of == study.name and kind in (None, other.settings.kind)
    ]
    return sorted(found, key=lambda other: other.settings.asked or other.created)


def best_of_each(trials: Sequence[Trial]) -> list[Trial]:
    """Take the first trial of each optimizer, in their order; of the base optimizer there may be controls behind it."""
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(trial.optimizer, trial)
    return list(found.values())


def stored(study: Study, optimizer: str) -> "tuple[RDBStorage, int]":
    """Open Optuna's storage, and find the study there that has the trials of an optimizer."""
    storage = open_storage(study.home)
    return storage, storage.get_study_id_from_name(f"{study.name}/{optimizer}")


def trials_in(study: Study, optimizer: str, states: "Container[TrialState] | None" = None) -> "list[FrozenTrial]":
    """Read the trials of an optimizer as Optuna has them, those in some states or all."""
    storage, one = stored(study, optimizer)
    return storage.get_all_trials(one, deepcopy=False, states=states)


def attributes_in(study: Study, optimizer: str) -> dict[str, Any]:
    """Read what is kept in Optuna's storage with the trials of an optimizer."""
    storage, one = stored(study, optimizer)
    return storage.get_study_user_attrs(one)


def note_run(storage: "RDBStorage", key: str, run_id: str) -> None:
    """Keep a trial's MLflow run. It may become known after the trial ended, so the study's attributes hold it."""
    study, _, number = key.rpartition("/")
    storage.set_study_user_attr(storage.get_study_id_from_name(study), _run_attribute(int(number)), run_id)


def trial_frame(trials: "Sequence[Trial]") -> "pandas.DataFrame":
    """Tabulate trials, a row each; see :meth:`Study.trials`."""
    import pandas

    rows = []
    for trial in trials:
        row = trial.to_json()
        config, metrics = row.pop("config") or {}, row.pop("metrics")
        rows.append(row | config | metrics)
    return pandas.DataFrame(rows)


def studies(home: Place = None) -> list[Study]:
    """List the searches of a home, the oldest first. A warning names each study whose record cannot be read."""
    for found in _found(home).values():
        if isinstance(found, Refused):
            log.warning("%s", found)
    return [study for study in every_study(home) if study.settings.kind == "search"]


def every_study(home: Place = None) -> list[Study]:
    """List the studies of a home whose records can be read, refits too, the oldest first."""
    found = [study for study in _found(home).values() if isinstance(study, Study)]
    return sorted(found, key=lambda study: study.created)


def study_names(home: Place = None) -> set[str]:
    """Name the studies of a home, also those whose records cannot be read."""
    return set(_found(home))


def find_study(name: str, home: Place = None) -> Study | None:
    """Find the study called `name`; None if there is none.

    Raises:
        Refused: its record cannot be read.
    """
    found = _found(home).get(name)
    if isinstance(found, Refused):
        raise found
    return found


def _found(home: Place) -> dict[str, Study | Refused]:
    """Read the studies of a home, or why one of them cannot be read, by their names: each stands alone."""
    place = Home.at(home)
    if not exists(place):
        return {}
    records: dict[str, Any] = {}
    there: dict[str, set[str]] = {}
    for full_name, attributes in attributes_of_studies(open_storage(place)).items():
        name, _, optimizer = full_name.rpartition("/")
        if not is_name(name):
            continue
        if isinstance(attributes, ValueError):
            records[name] = attributes
        elif "record" in attributes:  # a study that lacks its record is one whose creation was cut short
            there.setdefault(name, set()).add(optimizer)
            records.setdefault(name, attributes["record"])
    found: dict[str, Study | Refused] = {}
    for name, record in records.items():
        try:
            if isinstance(record, ValueError):
                raise Refused(f"the record of study {name} is no JSON ({record}); put back a copy of it.")
            study = Study.from_record(name, place, deepcopy(record))
        except Refused as error:
            found[name] = error
        else:
            if there[name] >= set(study.settings.optimizers):
                found[name] = study
    return found


def open_study(name: str, home: Place = None) -> Study:
    """Open the study called `name`, a search or a refit.

    Args:
        name: as `tune-sam studies` lists it.
        home: where it lives; $TUNE_SAM_HOME, else ~/.tune_sam.

    Raises:
        Refused: there is none of that name, or its record cannot be read.
    """
    if found := find_study(name, home):
        return found
    known = [study for study in every_study(home) if study.settings.kind == "search"]
    place = Home.at(home)
    if not place.study_storage and is_name(name) and any(place.study(name).glob("ray-*")):
        raise Refused(
            f"the results of study {name} are in {place.study(name)}, but its records are not in {place.optuna_file}; "
            "put back a copy of that file."
        )
    where = masked(place.study_storage) if place.study_storage else place.path
    there = f"it has {', '.join(study.name for study in known)}" if known else "it has none yet"
    raise Refused(
        f"there is no study {name!r} in {where} ({there}); name one of those, or give --home, or "
        "--study-storage for one whose records are in a database elsewhere."
    )
