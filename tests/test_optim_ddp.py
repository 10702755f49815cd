"""`tune_sam.optim` under `DistributedDataParallel`, with two real processes over gloo, and what is refused."""

import copy
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from tune_sam.optim import ASAM, GSAM, SAM, FisherSAM, LookSAM, SharpnessAware, random_state, second_pass

RANKS = 2
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def samples() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(16, 5, generator=random, dtype=torch.float64), torch.randint(3, (16,), generator=random)


def build(name: str, model: nn.Module) -> SharpnessAware:
    options = {"rho": 0.3, "lr": 0.1, "momentum": 0.9}
    if name == "asam":
        return ASAM(model.named_parameters(), torch.optim.SGD, **options)
    if name == "look-sam":
        return LookSAM(model.parameters(), torch.optim.SGD, k=2, **options)
    kind = {"sam": SAM, "gsam": GSAM, "fisher-sam": FisherSAM}[name]
    return kind(model.parameters(), torch.optim.SGD, **options)


def closure(model: nn.Module, x: Tensor, y: Tensor, share: float = 1.0) -> Callable[[], None]:
    def run() -> None:
        (cross_entropy(model(x), y) * share).backward()

    return run


def whole(optimizer: SharpnessAware, ddp: DistributedDataParallel, x: Tensor, y: Tensor) -> None:
    optimizer.step(closure(ddp, x, y))


def by_rank(optimizer: SharpnessAware, ddp: DistributedDataParallel, x: Tensor, y: Tensor) -> None:
    """The recipe of the module's documentation."""
    rng = random_state("cpu")
    with ddp.no_sync():
        closure(ddp, x, y)()
    optimizer.first_step(zero_grad=True)
    try:
        with second_pass(ddp, rng):
            closure(ddp, x, y)()
    finally:
        optimizer.restore()
    optimizer.base_optimizer.step()
    optimizer.zero_grad()


def train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", timedelta(minutes=5), world_size=RANKS, rank=rank
    )
    found = {}
    for way, names in {whole: ("sam", "asam", "gsam", "look-sam", "fisher-sam"), by_rank: ("sam", "asam")}.items():
        for name in names:
            # Its gradients lie in buckets, into which the second pass writes: what is kept of the first must be a copy.
            ddp = DistributedDataParallel(net(), gradient_as_bucket_view=way is whole)
            optimizer = build(name, ddp.module)
            for _ in range(3):
                way(optimizer, ddp, *(part.chunk(RANKS)[rank] for part in samples()))
            found[way.__name__, name] = ddp.module.state_dict()
    torch.save(found, Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one_process(tmp_path: Path) -> None:
    multiprocessing.spawn(train, (str(tmp_path),), RANKS)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    x, y = samples()
    for (way, name), found in first.items():
        alone = copy.deepcopy(net())
        optimizer = build(name, alone)
        for _ in range(3):
            if way == "whole":
                optimizer.step(closure(alone, x, y))
            else:
                parts = zip(x.chunk(RANKS), y.chunk(RANKS), strict=True)
                optimizer.step_parts([closure(alone, *part, 1 / RANKS) for part in parts])
        assert all(torch.equal(found[key], second[way, name][key]) for key in found), "both ranks have the same weights"
        torch.testing.assert_close(found, dict(alone.state_dict()), **CLOSE)


def test_sharded_parameters_are_refused_before_a_weight_moves() -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = fully_shard(net(), mesh=init_device_mesh("cpu", (1,)))
        before = [parameter.full_tensor().clone() for parameter in model.parameters()]
        with pytest.raises(ValueError, match="whole parameters and got a sharded one: use DistributedDataParallel"):
            build("sam", model).step(closure(model, *samples()))
        after = [parameter.full_tensor() for parameter in model.parameters()]
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    finally:
        distributed.destroy_process_group()
