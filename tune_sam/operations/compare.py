"""Studies side by side, as a table and as a page."""

from collections.abc import Sequence
from pathlib import Path

from tune_sam.evaluation.comparison import Comparison, compared
from tune_sam.home import Home, Place
from tune_sam.study.records import open_search


def compare(names: Sequence[str], *, home: Place = None, output: str | Path | None = None) -> Comparison:
    """Put the best of each optimizer of several studies side by side, and compare their refits.

    The home is only read. Where studies cannot be compared, because they are of other data or other measures, it says
    so; what else is not the same is named. Differences are of refits with the same seeds, and corrected for how many
    there are.

    Args:
        names: of two studies or more.
        home: where they live; $TUNE_SAM_HOME, else ~/.tune_sam.
        output: a new folder for a page, or that of an earlier one; none is written by default.

    Returns:
        The rows, what is not the same, and the differences.

    Raises:
        Refused: there is no such study, it is a refit, they are fewer than two, or `output` cannot be used.
    """
    place = Home.at(home)
    found = compared([open_search(name, place) for name in names])
    if output is not None:
        from tune_sam.reporting.page import output_folder
        from tune_sam.reporting.side_by_side import write_comparison

        write_comparison(found, output_folder(output))
    return found
