"""Refits whose trainings were made elsewhere: they are entered into the ledger as if they had been made here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tune_sam.cluster.tasks import write_result
from tune_sam.errors import Refused
from tune_sam.evaluation.refit import file_of_test, row_name
from tune_sam.space import Configuration
from tune_sam.study.lock import study_lock
from tune_sam.study.reading import reading
from tune_sam.study.records import Study
from tune_sam.study.settings import StudySettings
from tune_sam.study.storage import open_storage
from tune_sam.tuning.delivery import tracked
from tune_sam.tuning.listener import SearchListener
from tune_sam.tuning.plan import store

if TYPE_CHECKING:
    from tune_sam.trained import Trained


@dataclass(frozen=True)
class Elsewhere:
    """The trainings in a file.

    Attributes:
        file: that has them.
        trainings: each complete, and tested.
    """

    file: Path
    trainings: "Sequence[Trained]"

    @classmethod
    def read(cls, file: Path) -> "Elsewhere":
        """Read a file of trainings.

        Raises:
            Refused: it is not there, or no such file.
        """
        from tune_sam.trained import read

        with reading(f"the trainings in {file}", "have them written again"):
            try:
                return cls(file, read(file))
            except OSError as error:
                raise Refused(f"--trained {file} cannot be read ({error.strerror}); give another file.") from None

    def find(self, settings: StudySettings, configuration: Configuration) -> "Trained":
        """Find the training of a study with a configuration.

        Raises:
            Refused: there is none.
        """
        trial = settings.trial(configuration)
        for one in self.trainings:
            if one.is_of(settings.workload, trial):
                return one
        raise Refused(
            f"{self.file} has no training of {row_name(configuration, 3)} with seed {configuration.seed} for "
            f"{settings.epochs} epochs and the other settings of the refit; train it, or choose --seeds that are there."
        )

    def refuse_missing(self, studies: Sequence[StudySettings]) -> None:
        """Refuse studies some of whose trainings are not here, or which have other precisions than others.

        Raises:
            Refused: one is missing, or two are of different precisions.
        """
        found = [
            self.find(settings, Configuration.at(optimizer, point, int(point["seed"])))
            for settings in studies
            for optimizer, space in settings.spaces.items()
            for point in space.grid
        ]
        if len(precisions := sorted({one.precision for one in found})) > 1:
            raise Refused(
                f"{self.file} has trainings in {' and in '.join(precisions)}, whose difference would be taken for that "
                "of the optimizers; train all at one precision."
            )

    def enter(self, study: Study, listener: SearchListener) -> None:
        """Enter the trainings of a study into its ledger, and their tests beside it, but for those that are there.

        What trained each stays with it: the device's name, and the versions of its packages.
        """
        from tune_sam.tuning.ledger import Ledger, Outcome

        settings = study.settings
        with study_lock(study.home, study.name):
            store(study)
            storage = open_storage(study.home)
            ledgers = [Ledger(storage, study.name, optimizer, settings) for optimizer in settings.optimizers]
            with tracked(study), listener.following(study):
                for ledger in ledgers:
                    while suggested := ledger.suggest(f"from {self.file.name}"):
                        number = suggested.number
                        if suggested.resume_from:
                            raise Refused(
                                f"the training {ledger.key(number)} was begun here; end it by the same command without "
                                "--trained, or enter all of them under another name with --name."
                            )
                        one = self.find(settings, suggested.configuration)
                        listener.started(ledger.optimizer, number)
                        ledger.note_elsewhere(number, dict(one.versions), dict(one.machine))
                        for epoch, metrics in enumerate(one.epochs, start=1):
                            ledger.report(number, epoch, metrics)
                        # First: a training that has ended is tested.
                        file = file_of_test(study, ledger.optimizer, number)
                        write_result(file, ledger.began(number), dict(one.test), dict(one.versions))
                        outcome = Outcome(
                            state="complete",
                            reason="",
                            epochs=len(one.epochs),
                            metrics=dict(one.epochs[-1]),
                            seconds=one.seconds,
                            node=None,
                            pid=None,
                            precision=one.precision,
                            device=one.device,
                        )
                        ledger.end(number, outcome)
                        listener.ended(ledger.optimizer, number, outcome)
