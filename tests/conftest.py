import logging
import os
from pathlib import Path

import odd_workload
import pytest
import ray
import torch

import tune_sam

pytest.register_assert_rewrite("tune_sam.testing")


@pytest.fixture(autouse=True)
def numbers_below_the_smallest_normal_one():
    """A training in the test's own process takes them for zero from then on; the next test must not."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def the_log_as_it_was():
    """A command line in the test's own process prints the log from then on; what the next test prints is its own."""
    log = logging.getLogger("tune_sam")
    before = log.handlers
    yield
    log.handlers = before


@pytest.fixture(scope="session")
def real_data(tmp_path_factory):
    """The folder that holds the three real data sets; for tests marked `data`. Beats are cached for this run alone."""
    if not (named := os.environ.get("TUNE_SAM_DATA")):
        pytest.skip("$TUNE_SAM_DATA names no folder of real data")
    root = Path(named)
    for folder in ("Mutagenicity/raw", "mitdb", "cifar-10-batches-py"):
        assert (root / folder).is_dir(), f"$TUNE_SAM_DATA names a folder without {folder}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNE_SAM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield root


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A home with the study `one`: two optimizers on the digits, three complete trials each. Ray is up meanwhile."""
    # Workers import the tests' own workloads by their names, as they would a user's.
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": odd_workload.PYTHONPATH}},
    )
    home = tmp_path_factory.mktemp("home")
    tune_sam.search(
        "gcn", dataset="digits", optimizers=["base", "sam"], trials=3, epochs=2, scheduler="none", name="one", home=home
    )
    yield home
    ray.shutdown()
