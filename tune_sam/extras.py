"""Packages that only some need: pip installs them where an extra of this one is asked for."""

from importlib.util import find_spec

from tune_sam.errors import Refused


def need(package: str, extra: str) -> None:
    """Expect that a package of an extra is installed; it is not imported.

    Args:
        package: as it is imported.
        extra: of this package, as in `pip install 'tune-sam[images]'`.

    Raises:
        Refused: it is not installed.
    """
    if find_spec(package) is None:
        raise Refused(f"{package} is not installed; install it with `pip install 'tune-sam[{extra}]'`.")
