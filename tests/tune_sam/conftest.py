import os

import odd_workload
import pytest
import ray

import tune_sam


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A home with the study `one`: two optimizers on the digits, three complete trials each. Ray is up meanwhile."""
    # Workers import the tests' own workloads by their names, as they would a user's.
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
             runtime_env={"env_vars": {"PYTHONPATH": os.path.dirname(odd_workload.__file__)}})
    home = tmp_path_factory.mktemp("home")
    tune_sam.search("gcn", dataset="digits", optimizers=["base", "sam"], trials=3, epochs=2, scheduler="none",
                    name="one", home=home)
    yield home
    ray.shutdown()
