import os
import signal
from contextlib import nullcontext, suppress

import psutil
import pytest
import ray

from tune_sam.cluster import connection
from tune_sam.cluster.signals import interruptible
from tune_sam.errors import Refused, Stopped


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "fits"),
    [
        ({"CPU": 4}, 1, 0, 4),
        ({"CPU": 5}, 2, 0, 2),
        ({"CPU": 8, "GPU": 1}, 1, 0.25, 4),
        ({"CPU": 2, "GPU": 1}, 1, 0.25, 2),
        ({"CPU": 8, "GPU": 1}, 1, 0.1, 8),
        ({"CPU": 16, "GPU": 2}, 1, 0.4, 4),  # what is left of two GPUs does not make one more share
        ({"CPU": 16, "GPU": 3}, 1, 2, 1),
        ({"CPU": 4}, 1, 0.25, 0),
        ({"CPU": 2}, 0.5, 0, 4),
        ({"CPU": 2}, 0.1, 0, 20),
        ({"CPU": 2, "GPU": 1}, 0.5, 0.25, 4),
    ],
)
def test_trials_that_fit_on_a_node(node, cpus, gpus, fits):
    assert connection.fitting_trials(node, cpus, gpus) == fits


def test_a_cluster_runs_as_many_as_fit_or_fewer_if_asked(cluster):
    assert connection.concurrency(1, 0, None) == 4
    assert connection.concurrency(1, 0, 2) == 2
    assert connection.concurrency(1, 0, 9) == 4
    connection.check_offer(4, 0, None)
    with pytest.raises(Refused, match="--cpus-per-trial 5 cannot be met.*cluster.*4 CPUs"):
        connection.check_offer(5, 0, None)
    with pytest.raises(Refused, match="--gpus-per-trial 2 cannot be met.*1 GPUs"):
        connection.check_offer(1, 2, None)
    with connection.connected(None) as others:
        assert ray.is_initialized()
        assert others, "somebody else's cluster may have more nodes, to which data must be sent"
    assert ray.is_initialized(), "a cluster that was there before stays"


def test_one_node_must_have_both(monkeypatch):
    monkeypatch.setattr(connection, "is_there", lambda _: True)
    monkeypatch.setattr(connection, "connected", lambda _: nullcontext())
    monkeypatch.setattr(connection, "_nodes", lambda: [{"CPU": 8}, {"CPU": 2, "GPU": 1}])
    connection.check_offer(2, 0.5, None)
    with pytest.raises(Refused, match="--cpus-per-trial 8 with --gpus-per-trial 0.5 cannot be met by any one node"):
        connection.check_offer(8, 0.5, None)


def test_this_machine_is_asked_before_ray_starts():
    connection.check_offer(os.cpu_count(), 0, None)
    with pytest.raises(Refused, match=f"--cpus-per-trial {os.cpu_count() + 1} cannot be met, this machine"):
        connection.check_offer(os.cpu_count() + 1, 0, None)
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_does_not_answer_is_named(address):
    with pytest.raises(Refused, match=f"no Ray cluster answers at --address {address} "):
        connection.check_offer(1, 0, address)


@pytest.mark.slow
def test_a_ray_that_is_begun_ahead_is_connected_to_or_ended():
    ray.shutdown()  # of the tests before
    with interruptible(), connection.ahead(None) as begin:
        begin()
        connection.check_offer(1, 0, None)  # of this machine, whether Ray has started or not
        with connection.connected(None) as others:
            assert not others
            assert ray.get(ray.remote(lambda: 7).remote()) == 7
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
        assert not ray.is_initialized()
    mine = psutil.Process()
    before = set(mine.children(recursive=True))
    with suppress(Refused), connection.ahead(None) as begin:
        begin()
        raise Refused("the workload cannot be trained")
    assert not ray.is_initialized()
    _, left = psutil.wait_procs(set(mine.children(recursive=True)) - before, timeout=10)
    assert not left


@pytest.mark.slow
def test_a_ray_that_cannot_be_started_ahead_is_told_where_it_is_needed_and_nowhere_else(monkeypatch):
    ray.shutdown()  # of the tests before

    def fails(**_):
        raise RuntimeError("the node timed out")

    monkeypatch.setattr(ray, "init", fails)
    with connection.ahead(None) as begin:
        begin()
    with connection.ahead(None) as begin:
        begin()
        with pytest.raises(Stopped, match="started on this machine .the node timed out"), connection.connected(None):
            pytest.fail("there is no Ray")


def test_nothing_is_begun_ahead_of_a_cluster_that_is_named(monkeypatch):
    monkeypatch.setattr(connection, "Start", lambda _: pytest.fail("a Ray is started here"))
    with connection.ahead("127.0.0.1:1") as begin:
        begin()
