"""Whether a workload's samples fit its network, loss and metrics, and the sentence where they do not.

torch's own errors are of a kernel that got something else than it takes. What a person did is here.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tune_sam.calling import lacking, takes_several
from tune_sam.store import TensorStore
from tune_sam.trees import differing, rows
from tune_sam.workload import Splits, Store, Workload


def said_by(error: Exception) -> str:
    """Give an error as the beginning of a sentence: one that is meant for a person as it is, others by their class."""
    said = " ".join(str(error).split())
    return said if isinstance(error, ValueError) and said else f"{type(error).__name__}: {said}".rstrip(": ")


@contextmanager
def taking(network: nn.Module, inputs: Any) -> Iterator[None]:
    """Say of what a network raises what it may be about: inputs that it has no argument for, or texts.

    Raises:
        ValueError: it raised something, and the inputs have such.
    """
    try:
        yield
    except Exception as error:
        if lacks := lacking(network, inputs):
            why = f"its forward() has no argument {lacks!r}, which a batch has; leave that out in pair(), or add it"
        elif texts := [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, str)]:
            why = f"a batch has texts, such as {texts[0]!r}; give tensors, as of a tokenizer, in splits()"
        else:
            raise
        raise ValueError(f"{said_by(error)}; {why}") from error


def check_texts(targets: Any) -> None:
    """Expect targets without texts.

    Raises:
        ValueError: there is one.
    """
    leaves = tree_leaves(targets)
    if texts := [leaf for leaf in leaves if isinstance(leaf, str)]:
        if len(texts) < len(leaves):
            raise ValueError(f"the targets have texts beside numbers, such as {texts[0]!r}; leave those out in pair()")
        raise ValueError(f"the targets are texts, such as {texts[0]!r}; give tensors, of classes their numbers from 0")


def check_inputs(network: nn.Module, few: Store) -> None:
    """Expect of a network of several arguments that it is given no sequence with an input for each sample.

    Batches of as few samples as it has arguments would be spread over these.

    Raises:
        ValueError: it is.
    """
    if takes_several(network) and _is_of_each(few, lambda batch: batch[0]):
        raise ValueError(
            "a batch is a sequence with an input for each sample, which could be taken for forward()'s several "
            "arguments; give a mapping from the argument's name to it in pair()"
        )


def _is_of_each(few: Store, part: Callable[[Any], Any]) -> bool:
    """Whether a part of each batch is a tuple with something for each sample."""
    samples = len(few)
    found = part(few.batch(torch.arange(samples)))
    if type(found) is not tuple or len(found) != samples or samples < 2:  # lists are one argument
        return False
    return len(part(few.batch(torch.arange(samples - 1)))) == samples - 1


def check_rows(workload: Workload, few: Store) -> None:
    """Expect that the default count is of samples where targets are a list with one for each, or several within others.

    Raises:
        ValueError: it counts what the first has, or how many there are.
    """
    is_default = getattr(workload.count, "__func__", None) is Workload.count and workload.ignored is None
    samples, targets = len(few), few.batch(torch.arange(len(few)))[1]
    if not is_default or type(targets) is not tuple or rows(targets) == samples:
        return
    if not isinstance(targets[0], Tensor) or _is_of_each(few, lambda batch: batch[1]):
        raise ValueError(
            f"it is {rows(targets)} for {samples} samples, for by default targets in turn are several of each sample; "
            "count what the loss is the mean of, such as the samples"
        )


def check_finite(network: nn.Module, splits: Splits) -> None:
    """Expect of inputs in memory that are not finite that the network knows what to do with them.

    Raises:
        ValueError: its outputs for the first of them are not finite either.
    """
    network.eval()
    for name, split in (("training", splits.train), ("validation", splits.validation)):
        if not isinstance(split, TensorStore) or not split.x.is_floating_point():
            continue
        if torch.stack(split.x.aminmax()).isfinite().all():  # a NaN is both; no copy of all inputs is made
            continue
        first = int(split.x.isfinite().reshape(len(split), -1).all(1).int().argmin())
        with torch.no_grad():
            outputs = network(split.batch(torch.tensor([first]))[0])
        if not all(leaf.isfinite().all() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)):
            raise ValueError(
                f"the inputs of {name} sample {first} are not finite, nor are the network's outputs for it; leave "
                "it out, or put numbers in place of what is missing"
            )


def check_labels(workload: Workload, outputs: Tensor, labels: Iterable[Tensor]) -> None:
    """Expect that a classifier has an output for each label.

    Args:
        workload: for the value of labels that do not count.
        outputs: [n, …, classes].
        labels: of all samples that are at hand.

    Raises:
        ValueError: a label is no number of an output.
    """
    classes = outputs.shape[-1]
    for some in labels:
        kept = some if workload.ignored is None else some[differing(some, workload.ignored)]
        if not len(kept) or 0 <= kept.min() <= kept.max() < classes:
            continue
        low, high = f"{kept.min():g}", f"{kept.max():g}"
        padding = f", or, if {low} marks what does not count, set `ignored = {low}`" if low.startswith("-") else ""
        raise ValueError(
            f"labels go from {low} to {high}, and the network has {classes} outputs, for classes 0 to {classes - 1}; "
            f"number the classes from 0, and give the network an output for each{padding}"
        )
