"""How to make a study and its page again: seeds, data and commands."""

import os
import platform
from pathlib import Path

from tune_sam.evaluation.measured import Measured
from tune_sam.evaluation.refit import Refit
from tune_sam.reporting.sections import Section
from tune_sam.study.records import Study
from tune_sam.study.settings import now
from tune_sam.tuning.recipe import as_yaml


def again_section(
    study: Study, refit: Refit | None, close: Measured | None, wide: Measured | None, folder: Path
) -> Section:
    """Say by which seeds and commands the study and its page are made again; write `study.yaml`.

    Args:
        study: whose page it is.
        refit: its tested refit; None if there is none.
        close, wide: what was measured of the best networks and of all trials; None if nothing was.
        folder: of the page, to which `study.yaml` is written.
    """
    settings = study.settings
    (folder / "study.yaml").write_text(as_yaml(settings))
    searched = bool(study.records())
    # Code of one's own is found in the working folder where it is named on the command line, not in a file.
    own = "".join(f" --optimizer {one}" for one in settings.optimizers) if ":" in "".join(settings.optimizers) else ""
    search = f"tune-sam search {settings.workload} --config study.yaml --name {study.name}{own}"
    commands = [search] if searched else []
    seeds = (
        f"The search's seed is {settings.seed}, and trial number n trains with the seed {settings.seed} + n."
        if searched
        else ""
    )
    if refit:
        without = " --no-controls" if refit.lacks_controls and refit.controls is None else ""
        commands.append(f"{refit.command_anew} --seeds {refit.listed}{without}")
        seeds += f" The refit's seeds are {', '.join(map(str, refit.seeds))}."
        if refit.stale:
            seeds += " The search was resumed after its refit, whose command would choose other configurations now."
    commands += [*(measured.command for measured in (close, wide) if measured), study.command("report")]
    sizes = study.workload.datasets[settings.dataset]
    split = f", split by seed {settings.split_seed}" if sizes.by_seed else ""
    return Section(
        "How to make it again",
        (
            f"The study was made at {study.created}, this page at {now()} on {platform.platform()} with "
            f"{os.cpu_count()} CPUs and Python {platform.python_version()}. Its data are in {study.data}: of "
            f"{settings.dataset}, {settings.train_subset or sizes.train:,} samples train, {sizes.validation:,} "
            f"validate and {sizes.test:,} are the test set{split}.",
            seeds.strip(),
            "study.yaml, beside this page and below, holds the options of the study. In this home the commands resume "
            "it: give another --name or --home to make it anew, and on another machine the folder of your data.",
        ),
        code="\n".join(commands) + "\n\n# study.yaml\n" + (folder / "study.yaml").read_text(),
        folded=True,
    )
