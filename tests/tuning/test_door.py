"""What a search refuses before Ray starts: one sentence that names the member of the workload to mend."""

import re
from functools import cached_property

import pytest
import torch
from foreign_workload import Regression, Tags, TwoTasks, Waves
from studies import INLINE
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset, default_collate

import tune_sam
from tune_sam.errors import Refused
from tune_sam.schedules import Schedule
from tune_sam.settings import SearchOptions
from tune_sam.space import Choice, LogRange, Range
from tune_sam.store import TensorStore
from tune_sam.tuning.door import try_out
from tune_sam.tuning.plan import define, home_of
from tune_sam.workload import BaseOptimizer, DataSet, Score, Setting, Splits, Workload


class NoSplits(Regression):
    def splits(self, dataset, root):
        raise KeyError("train")


class OtherSizes(Regression):
    datasets = {"waves": DataSet(train=81, validation=20, test=20)}


class Shaken(Regression):
    def splits(self, dataset, root):
        found = super().splits(dataset, root)

        class Noisy(type(found.validation)):
            def __getitem__(self, index):
                sample = super().__getitem__(index)
                return {**sample, "x": sample["x"] + torch.randn(1)}

        return Splits(Noisy(0, 80), found.validation)


class NoTargets(Regression):
    def splits(self, dataset, root):
        return Splits([{"x": torch.ones(1)}] * 80, [{"x": torch.ones(1)}] * 20)


class WrongShapes(Regression):
    def network(self, setting):
        return nn.Linear(7, 1)


class NoMean(Regression):
    def loss(self, outputs, targets):
        return (outputs - targets).square()


class OtherMetrics(Regression):
    scores = {"auroc": Score()}


class NoNumber(Regression):
    def count(self, targets):
        return torch.tensor(3.0)


class Unlike(Regression):
    """Its training samples are mappings, and its validation samples are tuples."""

    def splits(self, dataset, root):
        found = super().splits(dataset, root)
        samples = [found.validation[index] for index in range(len(found.validation))]
        return Splits(found.train, [tuple(sample.values()) for sample in samples])


class NotOneNumber(Regression):
    def metrics(self, setting):
        return {"r2": lambda outputs, targets: outputs, "mae": lambda *_: 0.0}


class NoSuchOptimizer(Regression):
    base_optimizer = BaseOptimizer("Lion")


class WrongOption(Regression):
    base_optimizer = BaseOptimizer("SGD", {"momentun": 0.9})


class NobodysKnob(Regression):
    hyperparameters = {"mixup": Range(0, 1)}


class SamsKnob(Regression):
    hyperparameters = {"mixup": {"sam": Range(0, 1)}}


class ReadKnob(NobodysKnob):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets) * (1 + self.given["mixup"])


class Summed(Regression):
    def loss(self, outputs, targets):
        return nn.functional.mse_loss(outputs, targets, reduction="sum")


class Paired(Regression):
    """Its targets are [n] beside outputs [n, 1]."""

    def pair(self, batch):
        return batch["x"], batch["labels"][:, 0]

    def loss(self, outputs, targets):
        return (outputs - targets).square().mean()


class CountsBatches(Regression):
    def count(self, targets):
        return 1


class ScoresTheLoss(Regression):
    def metrics(self, setting):
        return {**super().metrics(setting), "loss": lambda outputs, targets: 0.0}


def body():
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh())


TRUNK, FROZEN = body(), body()


class OnTrunk(Regression):
    """Its network has a trunk that was made once, and is trained."""

    trunk = TRUNK

    def network(self, setting):
        class Network(nn.Module):
            def __init__(self, trunk):
                super().__init__()
                self.trunk, self.head = trunk, nn.LazyLinear(1)

            def forward(self, x, scale=1.0):
                return self.head(self.trunk(x)) * scale

        return Network(self.trunk)


class OnFrozen(OnTrunk):
    """The same with a trunk that is not trained."""

    trunk = FROZEN

    def parameter_groups(self, network):
        return [{"params": network.head.parameters()}]


class Absolute:
    """A metric with a state, as those of torchmetrics."""

    error, samples = 0.0, 0

    def update(self, outputs, targets):
        self.error, self.samples = self.error + float((outputs - targets).abs().sum()), self.samples + len(targets)

    def compute(self):
        return self.error / self.samples


class OneMetric(Regression):
    r2 = Absolute()

    def metrics(self, setting):
        return {"r2": self.r2}


class FixedRates(Regression):
    def parameter_groups(self, network):
        first, _, last = network.layers
        return [{"params": first.parameters(), "lr": 0.01}, {"params": last.parameters(), "lr": 0.1}]


class FixedSchedule(Regression):
    schedule = Schedule(lambda optimizer, steps: OneCycleLR(optimizer, 0.1, total_steps=steps), each="step")


class FixedDecay(Regression):
    hyperparameters = {"weight_decay": LogRange(1e-5, 1e-1)}

    def parameter_groups(self, network):
        return [{"params": network.parameters(), "weight_decay": 0.01}]


class FixedMomentum(Regression):
    """A schedule that has the momentum as its own."""

    hyperparameters = {"momentum": Choice(0.8, 0.9)}
    schedule = Schedule(
        lambda optimizer, steps: OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], steps),
        each="step",
    )


class OwnState(Regression):
    """What `network()` has put on the workload is there for its groups and its loss."""

    def network(self, setting):
        self.made = super().network(setting)
        self.made.register_forward_hook(lambda network, _, outputs: setattr(network, "aux", outputs.square().mean()))
        return self.made

    def parameter_groups(self, network):
        return [{"params": self.made.parameters(), "lr_scale": 0.5}]

    def loss(self, outputs, targets):
        return super().loss(outputs, targets) + 0.1 * self.made.aux


class MadeOnce(Regression):
    """A network that each training makes once."""

    @cached_property
    def made(self):
        return super().network(self.settings["waves"])

    def network(self, setting):
        return self.made


class OutsideOfGroups(Regression):
    """A function that makes the optimizer and decays weights by itself, so that no group has the decay."""

    hyperparameters = {"weight_decay": LogRange(1e-5, 1e-1)}

    @property
    def base_optimizer(self):
        def decoupled(params, lr, weight_decay):
            made = torch.optim.SGD(params, lr)
            made.register_step_post_hook(lambda *_: [p.data.mul_(1 - lr * weight_decay) for p in params])
            return made

        return BaseOptimizer(decoupled, {"weight_decay": 1e-3})


class SometimesDecays(Regression):
    """Its groups have the decay that is searched where another choice asks for it."""

    hyperparameters = {"weight_decay": LogRange(1e-5, 1e-1), "decays": Choice(False, True)}

    def parameter_groups(self, network):
        decay = self.given["weight_decay"] if self.given["decays"] else 0.0
        return [{"params": network.parameters(), "weight_decay": decay}]


class MissingTargets(Regression):
    """Targets that are missing do not count."""

    def splits(self, dataset, root):
        class Some(Waves):
            def __getitem__(self, index):
                sample = super().__getitem__(index)
                return {**sample, "labels": sample["labels"] if index % 2 else torch.full((1,), torch.nan)}

        return Splits(Some(0, 80), Some(80, 20))

    def count(self, targets):
        return int(targets.isfinite().sum())

    def loss(self, outputs, targets):
        return super().loss(outputs[targets.isfinite()], targets[targets.isfinite()])

    def metrics(self, setting):
        return {name: lambda outputs, targets: float(targets.isfinite().sum()) for name in ("r2", "mae")}


class OpenEnd(Regression):
    """At the very end of its range, which is hardly ever drawn, no optimizer can be made."""

    base_optimizer = BaseOptimizer("SGD", {"momentum": 0.9, "nesterov": True})
    hyperparameters = {"momentum": Range(0, 0.95)}


class OwnDecay(FixedDecay):
    """A group has a decay of its own, and the other one the searched one times a factor."""

    def parameter_groups(self, network):
        first, _, last = network.layers
        decay = self.given["weight_decay"]
        return [
            {"params": first.parameters(), "weight_decay": 0.0},
            {"params": last.parameters(), "weight_decay": 2 * decay},
        ]


X = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(100) % 3


class Classes(Workload):
    """The defaults, of a classifier of samples in memory."""

    name = "classes"
    datasets = {"d": DataSet(train=60, validation=20, test=20)}
    settings = {"d": Setting({}, epochs=1, batch_size=8, lr=0.1)}
    base_optimizer = BaseOptimizer("SGD")
    lr = LogRange(1e-3, 1)
    batch_size = (8,)
    x, y, outputs = X, Y, 3

    def network(self, setting):
        return nn.Linear(5, self.outputs)

    def splits(self, dataset, root):
        return Splits(TensorDataset(self.x[:60], self.y[:60]), TensorDataset(self.x[60:80], self.y[60:80]))

    def test_split(self, dataset, root):
        return TensorDataset(self.x[80:], self.y[80:])


class LaterLabels(Classes):
    y = torch.where(torch.arange(100) < 4, Y, Y + 1)


class Missing(Classes):
    x = torch.where(torch.arange(100)[:, None] == 70, torch.nan, X)


class FillsIn(Missing):
    """Its network takes what is missing for 0."""

    def network(self, setting):
        network = nn.Linear(5, 3)
        network.register_forward_pre_hook(lambda _, given: given[0].nan_to_num())
        return network


class Unlabelled(Classes):
    """Its first samples have no label, nor have most of the others."""

    ignored = -1
    y = torch.where(torch.arange(100) % 20 == 19, Y, -1)


class NoNumberYet(Classes):
    def loss(self, outputs, targets):
        return super().loss(outputs, targets) / 0


class OneOutput(Classes):
    outputs = 1
    y = Y.clamp(max=1)


class DefaultMetrics(OneOutput):
    y = Y.clamp(max=1).float()[:, None]

    def loss(self, outputs, targets):
        return nn.functional.binary_cross_entropy_with_logits(outputs, targets)


class FewNames(Classes):
    settings = {"d": Setting({}, epochs=1, batch_size=8, lr=0.1, classes=("a", "b"))}


class Arrays(Classes):
    def splits(self, dataset, root):
        return Splits((X[:60].numpy(), Y[:60].numpy()), (X[60:80].numpy(), Y[60:80].numpy()))


class Pair(Classes):
    def splits(self, dataset, root):
        found = super().splits(dataset, root)
        return found.train, found.validation


class Named(Classes):
    """Its samples have names and more beside their numbers."""

    more = {"row": 1}

    def splits(self, dataset, root):
        samples = [{"x": x, "labels": int(y), **self.more} for x, y in zip(X, Y, strict=True)]
        return Splits(samples[:60], samples[60:80])

    def network(self, setting):
        class Network(nn.Linear):
            def forward(self, x, scale=1.0):
                return super().forward(x) * scale

        return Network(5, 3)


class TextLabels(Named):
    more = {"labels": "cat"}


class TextsBeside(Named):
    def pair(self, sample):
        return sample["x"], {"y": sample["labels"], "file": "img0"}


class Padded(Classes):
    """Some labels count as little as padding does, which it does not say."""

    def splits(self, dataset, root):
        labels = Y[:80].clone()
        labels[30] = -100
        return Splits(TensorStore(X[:60], labels[:60]), TensorStore(X[60:80], labels[60:]))


class NeedsAll(Classes):
    """A loss that says nothing where a class is missing, as it is among the first samples."""

    def splits(self, dataset, root):
        order = Y[:60].argsort()
        return Splits(TensorStore(X[:60][order], Y[:60][order]), TensorStore(X[60:80], Y[60:80]))

    def loss(self, outputs, targets):
        return super().loss(outputs, targets) + 0 * outputs[targets == 2].mean()


class Hardest(Classes):
    """A loss of the hardest samples of a batch, which has more than are tried first."""

    settings = {"d": Setting({}, epochs=1, batch_size=10, lr=0.1)}
    batch_size = (10, 20)

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none").topk(6).values.mean()


class HardestOfTheLast(Hardest):
    """The last batch of an epoch has fewer samples than its loss needs."""

    datasets = {"d": DataSet(train=62, validation=18, test=20)}

    def splits(self, dataset, root):
        return Splits(TensorDataset(X[:62], Y[:62]), TensorDataset(X[62:80], Y[62:80]))


class FixedRadius(Regression):
    """Its groups have a radius of their own, whatever is searched."""

    def parameter_groups(self, network):
        return [{"params": network.parameters(), "rho": 0.05}]


class OneFixedRadius(Regression):
    def parameter_groups(self, network):
        first, _, last = network.layers
        return [{"params": first.parameters(), "rho": 0.0}, {"params": last.parameters()}]


class Weighted(Classes):
    """Its count reads what `network()` has left."""

    def network(self, setting):
        self.weights = torch.ones(3)
        return super().network(setting)

    def count(self, targets):
        return float(self.weights[targets].sum())


class Depths(Regression):
    """Targets between 0 and 1, of which 0 does not count."""

    ignored = 0

    def splits(self, dataset, root):
        return Splits(
            TensorDataset(X[:80, :1], 0.5 + Y[:80, None] / 10), TensorDataset(X[80:, :1], 0.5 + X[80:, :1] / 10)
        )


class NothingToJudge(Classes):
    """None of its validation samples has a label."""

    ignored = -1
    y = torch.where((torch.arange(100) >= 60) & (torch.arange(100) < 80), -1, Y)


def scaled(samples):
    x, y = zip(*samples, strict=True)
    return torch.stack(x) / 10, torch.stack(y)


class Scaled(Classes):
    """Each split's loader makes batches in its own way."""

    def splits(self, dataset, root):
        train, validation = (
            [(10 * x, y) for x, y in zip(X[:60], Y[:60], strict=True)],
            TensorDataset(X[60:80], Y[60:80]),
        )
        return Splits(DataLoader(train, collate_fn=scaled), DataLoader(validation, batch_size=4))


class TensorsBeside(Scaled):
    def splits(self, dataset, root):
        found = super().splits(dataset, root)
        return Splits(found.train, found.validation.dataset)


class Graph:
    """A graph as a batch of PyG has it."""

    def __init__(self, x):
        self.x = x

    def to(self, device):
        return self

    def to_dict(self):
        return {"x": self.x}


class ShakenGraphs(Classes):
    """Inputs that are changed at random when they are read, in an object."""

    noise = 0.1

    def network(self, setting):
        network = super().network(setting)
        network.register_forward_pre_hook(lambda _, given: given[0].x)
        return network

    def splits(self, dataset, root):
        def collate(samples):
            x, y = default_collate(samples)
            return Graph(x + self.noise * torch.randn(x.shape)), y

        parts = TensorDataset(X[:60], Y[:60]), TensorDataset(X[60:80], Y[60:80])
        return Splits(*(DataLoader(part, collate_fn=collate) for part in parts))


class StillGraphs(ShakenGraphs):
    noise = 0.0


class Clouds(Classes):
    """A batch is a list of inputs, and the network has a second argument."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(5, 3)

        def forward(self, clouds, scale=1.0):
            return torch.stack([self.linear(cloud) for cloud in clouds]) * scale

    def network(self, setting):
        return self.Network()

    def splits(self, dataset, root):
        parts = TensorDataset(X[:60], Y[:60]), TensorDataset(X[60:80], Y[60:80])
        return Splits(*(DataLoader(part, collate_fn=self.collate) for part in parts))

    def collate(self, samples):
        return [x for x, _ in samples], torch.stack([y for _, y in samples])


class NamedClouds(Clouds):
    def pair(self, batch):
        return {"clouds": batch[0]}, batch[1]


class ListOfTargets(Clouds):
    """A target of its own length for each sample."""

    network = Classes.network

    def collate(self, samples):
        return torch.stack([x for x, _ in samples]), [y[None] for _, y in samples]

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, torch.cat(list(targets)))

    def metrics(self, setting):
        return {"accuracy": lambda outputs, targets: (outputs.argmax(1) == torch.cat(list(targets))).float().mean()}


class Within(ListOfTargets):
    """Targets within others."""

    def collate(self, samples):
        y = torch.stack([y for _, y in samples])
        return torch.stack([x for x, _ in samples]), ((y, y), y)

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets[0][0])

    def metrics(self, setting):
        return {"accuracy": lambda outputs, targets: (outputs.argmax(1) == targets[1]).float().mean()}


class CountsWithin(Within):
    def count(self, targets):
        return len(targets[1])


class Compares(NeedsAll):
    """A score of pairs of samples of two classes, of which the first samples have one."""

    loss = Classes.loss

    def metrics(self, setting):
        def ordered(outputs, targets):
            if targets.min() == targets.max():
                raise ZeroDivisionError("No admissible pairs in the dataset.")
            return (outputs.argmax(1) == targets).float().mean()

        return {"accuracy": ordered}


class Texts(Named):
    more = {"scale": "much"}


@pytest.mark.parametrize(
    ("workload", "says"),
    [
        (NoSplits, "splits(): KeyError: 'train'."),
        (OtherSizes, "datasets: 'waves' states 81 training and 20 validation samples, and splits() gives 80 and 20;"),
        (Shaken, "a sample differs from one reading to the next"),
        (Unlike, "splits(), joined as a refit trains on them: "),
        (NoTargets, "splits(): a batch with x has none of labels, label, targets, target, y as its targets; tell "),
        (WrongShapes, "network(): TypeError: linear(): argument 'input' (position 1) must be Tensor, not dict."),
        (NoMean, "loss(): it gave a tensor of shape (4, 1); give the batch's mean, a tensor of shape ()."),
        (NoNumber, "count(): it gave tensor(3.); give a number, as by int() or float()."),
        (OtherMetrics, "metrics(): it has no 'auroc', which `scores` names, but r2, mae."),
        (NotOneNumber, "metrics(): r2 is not one number; average it, or name its parts."),
        (NoSuchOptimizer, "base_optimizer: there is no 'Lion'; give a class of torch.optim, package.module:Class, or"),
        (WrongOption, "a step of base: TypeError: SGD.__init__() got an unexpected keyword argument 'momentun'."),
        (Summed, "so it is a sum; give the batch's mean."),
        (Paired, "loss(): it pairs each output with every target, for outputs are (4, 1) and targets (4,); give both"),
        (
            CountsBatches,
            "workload waves, count(): it is 1 for 2 samples and 1 for the same twice; count what the loss",
        ),
        (ScoresTheLoss, "metrics(): 'loss' is what loss() gives; give that metric another name."),
        (
            OneMetric,
            "metrics(): it gives the same metric each time, which would go on from one split to the next; make",
        ),
        (OnTrunk, "network(): it gives the same parameters each time, so that a trial would begin where another ended"),
        (FixedRates, "the learning rate of base: it stays the same whatever rate is searched; in parameter_groups() "),
        (FixedSchedule, "the learning rate of base: it stays the same whatever rate is searched; in parameter_groups"),
        (TextsBeside, "splits(): the targets have texts beside numbers, such as 'img0'; leave those out in pair()."),
        (Padded, "output for each, or, if -100 marks what does not count, set `ignored = -100`."),
        (LaterLabels, "splits(): labels go from 0 to 3, and the network has 3 outputs, for classes 0 to 2; number the"),
        (
            Missing,
            "splits(): the inputs of validation sample 10 are not finite, nor are the network's outputs for it",
        ),
        (NoNumberYet, "loss(): it is inf for 8 samples before any training; give what is finite."),
        (OneOutput, "loss(): there is one output, and this loss is of classes; give the network two, or a loss of "),
        (DefaultMetrics, "metrics(): the default metrics are a classifier's, of outputs [n, …, classes] and whole "),
        (FewNames, "metrics(): the setting's `classes` names 2, and the network has 3 outputs; name each, or none."),
        (
            Arrays,
            "splits(): a tuple of 2 arrays is no data set; return a TensorDataset of them as tensors, which",
        ),
        (Pair, "splits(): it gave a tuple; return Splits(train, validation)."),
        (Named, "; its forward() has no argument 'row', which a batch has; leave that out in pair(), or add it."),
        (TextLabels, "splits(): the targets are texts, such as 'cat'; give tensors, of classes their numbers from 0."),
        (Texts, "; a batch has texts, such as 'much'; give tensors, as of a tokenizer, in splits()."),
        (NobodysKnob, "hyperparameters: nothing receives 'mixup'; read it as self.given['mixup'], or give it the name"),
        (SamsKnob, "hyperparameters: nothing receives 'mixup'; read it as self.given['mixup'], or give it the name"),
        (FixedDecay, "hyperparameters: the weight_decay of base stays the same whatever is searched; leave it out of "),
        (HardestOfTheLast, "loss(): RuntimeError: selected index k out of range."),
        (FixedRadius, "the radius of sam: it stays the same whatever ρ is searched; leave `rho` out of the groups of "),
        (
            NothingToJudge,
            "splits(): no target of the validation split counts, so there is nothing to judge a trial by.",
        ),
        (Scaled, "splits(), joined as a refit trains on them: its validation samples then are others, as where a"),
        (TensorsBeside, "splits(), joined as a refit trains on them: one split is tensors, and the other a data set"),
        (ShakenGraphs, "splits(): a sample differs from one reading to the next"),
        (Clouds, "network(): a batch is a sequence with an input for each sample, which could be taken for forward()"),
        (ListOfTargets, "count(): it is 1 for 4 samples, for by default targets in turn are several of each sample"),
        (Within, "count(): it is 2 for 4 samples, for by default targets in turn are several of each sample; count"),
        (FixedMomentum, "hyperparameters: the momentum of base stays the same whatever is searched; leave it out of "),
    ],
)
def test_a_workload_that_cannot_be_trained_is_refused_and_nothing_is_left(workload, says, tmp_path):
    with pytest.raises(Refused, match=re.escape(says)):
        tune_sam.search(workload, home=tmp_path / "home", optimizers=["base", "sam"], trials=1, executor=INLINE)
    assert not (tmp_path / "home" / "optuna.db").exists()
    assert not (tmp_path / "home" / "mlflow.db").exists()


class WarmsUp(Regression):
    """The rate is 0 as its training begins, and that of one group is never another."""

    schedule = Schedule(lambda optimizer, steps: LambdaLR(optimizer, lambda step: step / steps), each="step")

    def parameter_groups(self, network):
        first, _, last = network.layers
        return [{"params": first.parameters(), "lr": 0.01}, {"params": last.parameters()}]


@pytest.mark.parametrize(
    "workload",
    [
        WarmsUp,
        OwnDecay,
        OnFrozen,
        OpenEnd,
        OwnState,
        MadeOnce,
        OutsideOfGroups,
        SometimesDecays,
        MissingTargets,
        TwoTasks,
        Tags,
        Classes,
        FillsIn,
        NeedsAll,
        Compares,
        Unlabelled,
        Hardest,
        OneFixedRadius,
        Weighted,
        Depths,
        StillGraphs,
        NamedClouds,
        CountsWithin,
    ],
)
def test_a_workload_that_can_be_trained_passes(workload, tmp_path):
    chosen = SearchOptions.read({"workload": workload, "home": tmp_path, "optimizers": ["base", "sam"]})
    try_out(workload(), define(chosen, home_of(chosen)), tmp_path)


class ScoresSharpness(Regression):
    """Calls a score what the second value of two objectives is called."""

    def metrics(self, setting):
        return {**super().metrics(setting), "sharpness": lambda outputs, targets: 0.0}


@pytest.mark.parametrize("objective", [{}, {"objective": "two"}])
def test_a_metric_takes_no_place_of_the_second_objective(objective, tmp_path):
    chosen = SearchOptions.read({"workload": ScoresSharpness, "home": tmp_path, "optimizers": ["base"], **objective})
    with pytest.raises(Refused, match="metrics.*'sharpness' is the second value of --objective two; give that metric"):
        try_out(ScoresSharpness(), define(chosen, home_of(chosen)), tmp_path)


class Flipped(Regression):
    """Each sample is flipped as often as not, when it is read."""

    def splits(self, dataset, root):
        found = super().splits(dataset, root)

        class Flips(type(found.validation)):
            def __getitem__(self, index):
                sample = super().__getitem__(index)
                return {**sample, "x": sample["x"] * (1 if torch.rand(()) < 0.5 else -1)}

        return Splits(found.train, Flips(80, 20))


@pytest.mark.parametrize("seed", range(16))
def test_a_sample_that_is_changed_now_and_then_is_seen(seed, tmp_path):
    chosen = SearchOptions.read({"workload": Flipped, "home": tmp_path})
    settings = define(chosen, home_of(chosen))
    torch.manual_seed(seed)
    with pytest.raises(Refused, match=r"^workload .*, splits\(\): a sample differs from one reading to the next"):
        try_out(Flipped(), settings, tmp_path)


def test_a_knob_that_is_read_is_searched_and_the_callers_process_stays_as_it_was(tmp_path, monkeypatch):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    study = tune_sam.search(
        ReadKnob, home=tmp_path, optimizers=["base", "sam"], trials=2, epochs=1, scheduler="none", executor=INLINE
    )
    assert [trial.state for trial in study.records()] == ["complete"] * 4
    assert torch.get_rng_state().equal(state)
    assert not seeded, "the generators of GPUs are the caller's"
    assert study.best("sam").config.more.keys() == {"mixup"}
    assert study.settings.objective == "val/r2"
    assert study.best("base").metrics["val/r2"] == study.best("base").value


def test_a_study_is_judged_by_the_score_that_a_person_names(tmp_path):
    study = tune_sam.search(
        Regression, home=tmp_path, optimizers=["base"], trials=3, epochs=1, objective="val/mae", scheduler="none",
        executor=INLINE,
    )  # fmt: skip
    values = [trial.value for trial in study.records()]
    assert study.best("base").value == min(values)
    with pytest.raises(Refused, match=r"val/accuracy is nothing that waves has; choose from val/r2"):
        tune_sam.search(Regression, home=tmp_path, optimizers=["base"], objective="val/accuracy", executor=INLINE)
