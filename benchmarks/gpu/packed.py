"""Graph networks packed into one training: `torch.vmap` over their weights, each on the same batches.

A prototype that says what packing could give. It trains with the base optimizer, whose step is elementwise, so that one
Adam over the stacked weights is an Adam for each; SAM would need a norm for each network.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from tune_sam.training import Trainer, outputs

from .cases import Case
from .timing import batches, rate


def packed_rate(count: int, seconds: float, *, tiny: bool = False) -> float:
    """Measure the graphs a second that a number of graph networks train on in all.

    Raises:
        ValueError: a network's first losses are not those that it has alone.
    """
    case = Case.of("gcn", tiny=tiny)
    trainers = [case.trainer("base", seed=seed) for seed in range(count)]
    step = _stepping(case, trainers[0], [copy.deepcopy(trainer.model) for trainer in trainers])
    _check(case, trainers)
    source = batches(trainers[0])
    for _ in range(3):
        step(next(source))
    return rate(lambda: step(next(source)), seconds) * case.setting.batch_size * count


def _stepping(case: Case, one: Trainer, models: list[nn.Module]) -> Callable[[Any], Tensor]:
    """Give what takes a step of all networks with a batch, and returns their losses [networks]."""
    weights, buffers = stack_module_state(models)
    base = case.workload.base_optimizer
    optimizer = base.make(weights.values(), **{"lr": case.setting.lr, **base.options})
    empty = copy.deepcopy(models[0]).to("meta")

    def step(batch: Any) -> Tensor:
        [[(inputs, targets)]] = batch

        def of_one(own: dict[str, Tensor], kept: dict[str, Tensor]) -> Tensor:
            network = partial(functional_call, empty, (own, kept))
            return outputs(lambda given: network((given,)), inputs, one.precision, one.device)

        optimizer.zero_grad()
        logits = torch.vmap(of_one, randomness="different")(weights, buffers)
        losses = torch.stack([case.workload.loss(logits[index], targets) for index in range(len(models))])
        losses.sum().backward()
        optimizer.step()
        return losses.detach()

    return step


def _check(case: Case, trainers: list[Trainer], steps: int = 3, close: float = 0.05) -> None:
    """Compare each network's first losses with those that it has alone, without dropout, which is drawn otherwise.

    Raises:
        ValueError: they differ.
    """
    given = list(islice(batches(trainers[0]), steps))
    models = [copy.deepcopy(trainer.model).eval() for trainer in trainers]
    together = _stepping(case, trainers[0], models)
    found = torch.stack([together(batch) for batch in given])
    for index in {0, len(trainers) - 1}:
        expected = torch.stack(list(_alone(case, trainers[0], trainers[index].model.eval(), given)))
        if not torch.allclose(found[:, index], expected, rtol=close):
            packed = found[:, index].tolist()
            raise ValueError(f"packed, network {index} has the losses {packed}, alone {expected.tolist()}")


def _alone(case: Case, one: Trainer, model: nn.Module, given: list[Any]) -> Iterator[Tensor]:
    """Take the steps that a network takes alone, and yield their losses."""
    base = case.workload.base_optimizer
    optimizer = base.make(model.parameters(), **{"lr": case.setting.lr, **base.options})
    for [[(inputs, targets)]] in given:
        optimizer.zero_grad()
        loss = case.workload.loss(outputs(model, inputs, one.precision, one.device), targets)
        loss.backward()
        optimizer.step()
        yield loss.detach()
