import pytest
import ray

import tune_sam


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A home with the study `one`: two optimizers on the digits, three complete trials each. Ray is up meanwhile."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    home = tmp_path_factory.mktemp("home")
    tune_sam.search("gcn", dataset="digits", optimizers=["base", "sam"], trials=3, epochs=2, scheduler="none",
                    name="one", home=home)
    yield home
    ray.shutdown()
