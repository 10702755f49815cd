"""Trainings of a workload with its own data set, loss, metrics, schedule, clipping, pieces of a batch and average."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from foreign_workload import TAGS, TOKENS, Regression, Tags, TwoTasks, Waves, Wide, r2
from studies import INLINE
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

import tune_sam
from tune_sam.flatness import measure, quick
from tune_sam.groups import without_decay
from tune_sam.metrics import gathering
from tune_sam.optim import SAM
from tune_sam.schedules import Schedule, cosine
from tune_sam.space import Choice, Configuration
from tune_sam.store import TensorStore
from tune_sam.training import Trainer, evaluate
from tune_sam.workload import BaseOptimizer, Splits, Workload

WORKLOAD = Regression()
SETTING = WORKLOAD.settings["waves"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def splits():
    return WORKLOAD.read("waves", None)


def trainer(splits, optimizer="sam", *, schedule=None, more=None, seed=0, **setting):
    workload = Regression()
    if schedule:
        vars(workload)["schedule"] = schedule
    configuration = Configuration(optimizer, 0.05 if optimizer != "base" else None, 0.05, 20, seed, more or {})
    return Trainer(workload, replace(SETTING, **setting), configuration, splits, epochs=3, device=CPU)


def weights(running):
    return torch.cat([parameter.detach().flatten() for parameter in running.model.parameters()])


def test_a_regression_has_its_own_loss_and_scores(splits):
    last = trainer(splits).epoch()
    assert not last.diverged
    assert set(last.metrics) == {
        *(f"{split}/{name}" for split in ("train", "val", "gap") for name in ("loss", "r2", "mae")),
        "train/lr",
        "time/epoch_s",
        "compute/gradients",
    }
    found = trainer(splits)
    metrics = found.epoch().metrics
    x, y = splits.validation.dataset.x, splits.validation.dataset.y
    with torch.no_grad():
        outputs = found.model(x)
    assert metrics["val/loss"] == pytest.approx(float(nn.functional.mse_loss(outputs, y)), rel=1e-5)
    assert metrics["val/r2"] == pytest.approx(float(r2(outputs, y)), rel=1e-5)
    assert metrics["gap/r2"] == pytest.approx(metrics["train/r2"] - metrics["val/r2"])
    assert metrics["gap/mae"] == pytest.approx(metrics["val/mae"] - metrics["train/mae"])


@pytest.mark.parametrize("optimizer", ["base", "sam", "asam"])
def test_pieces_of_a_batch_add_up_to_the_same_training(splits, optimizer):
    whole, pieces = trainer(splits, optimizer), trainer(splits, optimizer, microbatch=7)
    whole.epoch()
    pieces.epoch()
    assert torch.allclose(weights(whole), weights(pieces), rtol=1e-4, atol=1e-6)


def test_parts_of_m_samples_have_perturbations_of_their_own(splits):
    running, reference = trainer(splits, more={"m": 5}), trainer(splits, "base")
    batch = next(running.batches())
    assert [len(pieces[0][1]) for pieces in batch] == [5, 5, 5, 5]
    model = reference.model
    optimizer = SAM(model.parameters(), torch.optim.SGD, 0.05, lr=0.05, momentum=0.9)

    def part(inputs, targets):
        loss = WORKLOAD.loss(model(inputs), targets) * len(targets) / 20
        loss.backward()
        return loss

    optimizer.step_parts([lambda piece=piece: part(*piece) for (piece,) in batch])
    running.step(batch)
    assert torch.allclose(weights(running), weights(reference), rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["base", "sam"])
def test_no_step_is_taken_with_a_larger_gradient_than_the_clip(splits, optimizer):
    running, norms = trainer(splits, optimizer, clip_norm=0.01), []
    stepping = getattr(running.optimizer, "base_optimizer", running.optimizer)
    stepping.register_step_pre_hook(
        lambda *_: norms.append(float(torch.cat([p.grad.flatten() for p in running.model.parameters()]).norm()))
    )
    running.epoch()
    assert norms == pytest.approx([0.01] * 4, rel=1e-3)


def test_the_moving_average_is_what_is_evaluated(splits):
    running, expected = trainer(splits, ema=0.5), None
    for batch in running.batches():
        running.step(batch)
        now = weights(running)
        expected = now if expected is None else 0.5 * expected + 0.5 * now
    with running.judged() as network:
        assert network is running.model
        assert not network.training
        assert torch.allclose(weights(running), expected, rtol=1e-5)
        averaged = deepcopy(network.state_dict())
        assert running.evaluate(splits.validation).loss == (loss := evaluated(running, splits)), "not exchanged again"
    assert weights(running).equal(now)
    assert running.model.training
    assert running.evaluate(splits.validation).loss == loss
    plain = trainer(splits)
    plain.model.load_state_dict(averaged)
    assert running.evaluate(splits.validation).loss == plain.evaluate(splits.validation).loss
    assert weights(running).equal(now)


def evaluated(running, splits):
    """The loss of the model as it is."""
    return evaluate(running.model, running.workload, splits.validation, CPU, gathering({}, CPU)).loss


def test_the_moving_average_takes_a_buffer_that_a_pass_makes(splits):
    class Caches(Wide):
        def __init__(self):
            super().__init__(16)
            self.register_buffer("cache", None)

        def forward(self, x, scale=1.0):
            self.cache = x.detach()
            return super().forward(x, scale)

    workload = Regression()
    vars(workload)["network"] = lambda _: Caches()
    running = Trainer(
        workload, replace(SETTING, ema=0.9), Configuration("base", None, 0.05, 20, 0), splits, epochs=3, device=CPU
    )
    metrics = running.epoch().metrics
    with running.judged():
        assert evaluated(running, splits) == metrics["val/loss"]


def test_a_loss_that_reads_what_the_last_pass_left_reads_the_moving_averages(splits):
    class Left(Regression):
        def network(self, setting):
            self.made = super().network(setting)
            self.made.register_forward_hook(lambda network, _, output: setattr(network, "left", output.square().mean()))
            return self.made

        def loss(self, outputs, targets):
            return super().loss(outputs, targets) + self.made.left

    configuration = Configuration("sam", 0.05, 0.05, 20, 0)
    running = Trainer(Left(), replace(SETTING, ema=0.9), configuration, splits, epochs=3, device=CPU)
    found = running.epoch().metrics["val/loss"]
    x, y = splits.validation.dataset.x, splits.validation.dataset.y
    with running.judged() as network, torch.no_grad():
        outputs = network(x)
        expected = nn.functional.mse_loss(outputs, y) + outputs.square().mean()
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_the_moving_average_keeps_buffers_of_whole_numbers(splits):
    class Positioned(Wide):
        def __init__(self):
            super().__init__(16)
            self.register_buffer("positions", torch.arange(1000))
            self.register_buffer("kept", torch.arange(1000) % 3 == 0)
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    workload = Regression()
    vars(workload)["network"] = lambda _: Positioned()
    configuration = Configuration("base", None, 0.05, 20, 0)
    running = Trainer(workload, replace(SETTING, ema=0.9), configuration, splits, epochs=3, device=CPU)
    running.epoch()
    trained = running.model.layers[0].weight.detach().clone()
    with running.judged() as network:
        assert network.positions.equal(torch.arange(1000))
        assert network.kept.equal(torch.arange(1000) % 3 == 0)
        assert network.mask.equal(torch.tensor([0.0, -torch.inf])), "and infinite ones"
        assert not network.layers[0].weight.equal(trained)


def test_the_moving_average_refuses_a_sparse_buffer(splits):
    workload = Regression()
    network = Wide(16)
    network.register_buffer("adjacency", torch.eye(3).to_sparse())
    vars(workload)["network"] = lambda _: network
    with pytest.raises(ValueError, match="`ema` takes no sparse buffers, as 'adjacency'; leave it out"):
        Trainer(workload, replace(SETTING, ema=0.9), Configuration("base", None, 0.05, 20, 0), splits, epochs=3)


@pytest.mark.parametrize("optimizer", ["base", "sam"])
@pytest.mark.parametrize("more", [{}, {"m": 4}])
def test_a_batch_in_which_no_target_counts_takes_no_step(optimizer, more):
    tokens = TOKENS[:64]
    tags = torch.where((torch.arange(64) % 8 == 0)[:, None], TAGS[:64], -100)
    ours = Splits(TensorStore(tokens, tags), TensorStore(TOKENS[64:], TAGS[64:]))
    workload = Tags()
    vars(workload)["schedule"] = cosine()
    rho = 0.05 if optimizer == "sam" else None
    configuration = Configuration(optimizer, rho, 0.05, 8, 0, more if rho else {})
    running = Trainer(workload, workload.settings["d"], configuration, ours, epochs=2, device=CPU)
    batches = list(running.batches())
    counts = [sum(workload.count(targets) for pieces in batch for _, targets in pieces) for batch in batches]
    assert 0 in counts
    for batch, count in zip(batches, counts, strict=True):
        before = weights(running)
        assert (float(running.step(batch)) > 0) == (count > 0)
        assert weights(running).equal(before) == (count == 0)
    assert not running.epoch().diverged


def test_a_score_is_of_all_samples_also_where_none_of_a_batch_counts():
    workload = Tags()
    tags = TAGS.clone()
    tags[64:] = -100
    workload.evaluation_batch = 32
    metric = gathering({"seen": lambda outputs, targets: float(len(targets))}, CPU)
    network = workload.network(None)
    found = evaluate(network, workload, TensorStore(TOKENS, tags), CPU, metric)
    assert found.scores == {"seen": 96.0}
    outputs = network(TOKENS[:64]).detach()
    assert found.loss == pytest.approx(float(workload.loss(outputs, tags[:64])), rel=1e-6)
    assert math.isnan(evaluate(network, workload, TensorStore(TOKENS[64:], tags[64:]), CPU, metric).loss)


def test_a_training_that_diverges_ends_as_one_whatever_its_metrics_refuse(splits):
    def refuses(outputs, targets):
        if not outputs.isfinite().all():
            raise ValueError("input contains infinity")
        return r2(outputs, targets)

    workload = Regression()
    vars(workload)["metrics"] = lambda _: {
        "r2": refuses,
        "mae": lambda outputs, targets: (outputs - targets).abs().mean(),
    }
    running = Trainer(workload, SETTING, Configuration("base", None, 0.05, 20, 0), splits, epochs=3, device=CPU)
    with torch.no_grad():
        running.model.layers[2].bias.fill_(1e30)  # finite, as are the weights; its square is not
    assert running.evaluate(splits.validation).scores == {}
    assert running.epoch().diverged


def test_targets_by_name_count_as_many_samples_as_they_have_rows(splits):
    class Both(Regression):
        def pair(self, batch):
            return batch["x"], {"wave": batch["labels"], "sign": batch["labels"].sign()}

        def loss(self, outputs, targets):
            return nn.functional.mse_loss(outputs, targets["wave"])

        def metrics(self, setting):
            return {"r2": lambda outputs, targets: r2(outputs, targets["wave"]), "mae": lambda *_: torch.tensor(0.0)}

    found = []
    for size in (20, 16, 19):
        workload = Both()
        workload.evaluation_batch = size
        given = workload.read("waves", None)
        configuration = Configuration("base", None, 0.05, 20, 0)
        setting = replace(SETTING, microbatch=None if size == 20 else 7)
        running = Trainer(workload, setting, configuration, given, epochs=3, device=CPU)
        found.append((running.epoch().metrics["val/loss"], *weights(running).tolist()))
    assert found[1] == pytest.approx(found[0], rel=1e-4, abs=1e-6)
    assert found[2] == pytest.approx(found[0], rel=1e-4, abs=1e-6)


def test_a_training_with_all_of_it_is_resumed_bitwise(splits, tmp_path):
    options = {"schedule": cosine(), "more": {"m": 10}, "clip_norm": 1.0, "microbatch": 4, "ema": 0.9}
    straight = trainer(splits, **options)
    straight.epoch()
    torch.save(straight.state_dict(), tmp_path / "state.pt")
    resumed = trainer(splits, seed=0, **options)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    one, other = straight.epoch().metrics, resumed.epoch().metrics
    assert {name: one[name] for name in one if name != "time/epoch_s"} == {
        name: other[name] for name in other if name != "time/epoch_s"
    }
    assert torch.equal(weights(straight), weights(resumed))


def test_a_plateau_goes_by_the_validation_loss(splits, monkeypatch):
    schedule = Schedule(lambda optimizer, _: ReduceLROnPlateau(optimizer, factor=0.1, patience=0))
    running, seen = trainer(splits, schedule=schedule), []
    step = running.schedule.step
    monkeypatch.setattr(running.schedule, "step", lambda value: (seen.append(value), step(value)))
    losses = [running.epoch().metrics["val/loss"] for _ in range(2)]
    assert seen == losses


def test_a_schedule_by_steps_is_stepped_after_each(splits):
    running = trainer(splits, schedule=cosine(warmup=0))
    rates = [running.epoch().metrics["train/lr"] for _ in range(3)]
    assert rates == pytest.approx([0.05, 0.0375, 0.0125], rel=1e-2)


def test_a_score_that_is_no_number_ends_the_training_with_a_sentence(splits, monkeypatch):
    monkeypatch.setattr(Regression, "metrics", lambda *_: {"r2": lambda *_: float("nan"), "mae": lambda *_: 1.0})
    with pytest.raises(ValueError, match=r"^the metric r2 of the training split is nan, though its loss is finite"):
        trainer(splits).epoch()


def test_flatness_is_that_of_the_workloads_loss_and_count(splits):
    running = trainer(splits)
    running.epoch()
    assert quick(running) > 0
    whole = [splits.train.batch(torch.arange(80))]
    cut = [splits.train.batch(part) for part in torch.arange(80).split(30)]
    configuration = running.configuration
    one, other = (
        measure("k", running.model, running.workload.criterion, batches, configuration, cheap=True)
        for batches in (whole, cut)
    )
    assert one.measures["lambda_max"].value == pytest.approx(other.measures["lambda_max"].value, rel=1e-3)


def test_targets_that_are_ignored_do_not_count_in_losses():
    """However batches are cut, the loss is the mean over the tokens that count."""
    padded = torch.tensor([[0, 1, -100, -100], [1, 1, 0, -100], [0, -100, -100, -100]])
    outputs = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))

    class Tokens(Regression):
        ignored = -100
        loss = Workload.loss

    tokens = Tokens()
    whole = tokens.loss(outputs, padded)
    parts = [(tokens.loss(outputs[[row]], padded[[row]]), tokens.count(padded[[row]])) for row in range(3)]
    assert sum(count for _, count in parts) == tokens.count(padded) == 6
    assert float(whole) == pytest.approx(sum(float(loss) * count for loss, count in parts) / 6)


@pytest.mark.parametrize("optimizer", ["base", "sam"])
def test_a_piece_in_which_no_target_counts_changes_nothing(optimizer):
    """Sequences of a batch one by one, of which every other one is all padding."""
    targets = torch.where(torch.arange(48)[:, None] % 2 == 0, TAGS[:48], -100)
    whole = Splits(TensorStore(TOKENS[:48], targets), TensorStore(TOKENS[:0], targets[:0]))

    def trained(**setting):
        configuration = Configuration(optimizer, 0.05 if optimizer != "base" else None, 0.05, 16, 0)
        running = Trainer(Tags(), replace(Tags.settings["d"], **setting), configuration, whole, epochs=1, device=CPU)
        assert not running.epoch().diverged
        return weights(running)

    assert torch.allclose(trained(), trained(microbatch=1), rtol=1e-4, atol=1e-6)


class Halving(torch.optim.Optimizer):
    """An optimizer that torch does not have."""

    def __init__(self, params, lr, factor=0.5):
        super().__init__(params, {"lr": lr, "factor": factor})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=group["lr"] * group["factor"])


def other_base(base, groups=None):
    workload = Regression()
    vars(workload)["base_optimizer"] = base
    if groups:
        vars(workload)["parameter_groups"] = groups
    return workload


@pytest.mark.parametrize("optimizer", ["base", "sam", "asam"])
@pytest.mark.parametrize(
    "name",
    [Halving, lambda params, lr: Halving(params, lr), "test_foreign_training:Halving"],
    ids=["class", "function", "path"],
)
def test_the_base_optimizer_may_be_any(splits, name, optimizer):
    configuration = Configuration(optimizer, None if optimizer == "base" else 0.05, 0.05, 20, 0)
    plain = other_base(BaseOptimizer("SGD"))
    workload = other_base(BaseOptimizer(name))
    half = replace(configuration, lr=0.025)
    ours, expected = (
        Trainer(one, SETTING, chosen, splits, epochs=3, device=CPU)
        for one, chosen in ((workload, configuration), (plain, half))
    )
    assert ours.epoch().metrics["val/loss"] == pytest.approx(expected.epoch().metrics["val/loss"], rel=1e-5)


def test_a_base_optimizer_that_is_not_there_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"^base_optimizer: there is no 'Lion'; give a class of torch.optim, package"):
        _ = BaseOptimizer("Lion").make


@pytest.mark.parametrize("optimizer", ["base", "sam", "asam"])
def test_groups_have_options_of_their_own_and_what_is_in_none_is_frozen(splits, optimizer):
    def groups(network):
        first, _, last = network.layers
        return [{"params": [last.weight], "lr": 0.5}, {"params": [last.bias], "weight_decay": 0.0}]

    workload = other_base(BaseOptimizer("SGD", {"weight_decay": 0.1}), groups)
    configuration = Configuration(optimizer, None if optimizer == "base" else 0.05, 0.05, 20, 0)
    running = Trainer(workload, SETTING, configuration, splits, epochs=3, device=CPU)
    seen = [(group["lr"], group["weight_decay"], len(group["params"])) for group in running.optimizer.param_groups]
    assert seen == [(0.5, 0.1, 1), (0.05, 0.0, 1)]
    before = {name: value.clone() for name, value in running.model.state_dict().items()}
    running.epoch()
    moved = {name for name, value in running.model.state_dict().items() if not value.equal(before[name])}
    assert moved == {"layers.2.weight", "layers.2.bias"}


@pytest.mark.parametrize("optimizer", ["base", "sam"])
def test_what_is_in_no_group_is_as_if_it_had_no_gradient(splits, optimizer):
    """It takes no part in the norm that is clipped, in a perturbation, or in the curvature."""
    found = []
    for groups in (lambda network: [{"params": list(network.layers[2].parameters())}], _frozen_by_hand):
        workload = other_base(BaseOptimizer("SGD", {}), groups)
        configuration = Configuration(optimizer, None if optimizer == "base" else 0.05, 0.05, 20, 0)
        setting = replace(SETTING, clip_norm=0.1)
        running = Trainer(workload, setting, configuration, splits, epochs=3, device=CPU)
        running.epoch()
        batch = splits.train.batch(torch.arange(80))
        measured = measure("k", running.model, workload.criterion, [batch], configuration, cheap=True)
        found.append((weights(running).tolist(), measured.size, measured.measures["lambda_max"].value))
    assert found[0] == found[1]
    assert found[0][1] == 17


def _frozen_by_hand(network):
    network.layers[0].requires_grad_(False)


def test_a_group_may_scale_the_learning_rate(splits):
    workload = other_base(
        BaseOptimizer("SGD", {}),
        lambda network: [
            {"params": list(network.layers[0].parameters()), "lr_scale": 0.1},
            {"params": list(network.layers[2].parameters())},
        ],
    )
    for lr in (0.05, 0.5):
        running = Trainer(workload, SETTING, Configuration("base", None, lr, 20, 0), splits, epochs=3, device=CPU)
        assert [group["lr"] for group in running.optimizer.param_groups] == pytest.approx([0.1 * lr, lr])


def test_norms_biases_and_embeddings_are_without_decay():
    parts = [nn.Embedding(4, 3), nn.EmbeddingBag(4, 3), nn.Linear(3, 3), nn.LayerNorm(3), nn.LSTM(3, 5)]
    network = nn.ModuleList([*parts, nn.MultiheadAttention(2, 1, add_bias_kv=True)])
    decayed, plain = without_decay(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(parameter)] for parameter in decayed["params"]} == {
        "2.weight",
        *("4.weight_ih_l0", "4.weight_hh_l0"),
        *("5.in_proj_weight", "5.out_proj.weight"),
    }
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    assert plain["weight_decay"] == 0


@pytest.mark.parametrize("optimizer", ["base", "sam"])
def test_a_group_may_be_one_parameter_alone_as_torch_takes_it(splits, optimizer):
    workload = other_base(
        BaseOptimizer("SGD", {}),
        lambda network: [
            {"params": network.layers[0].parameters(), "lr_scale": 0.1},
            {"params": network.layers[2].weight, "weight_decay": 0.0},
        ],
    )
    configuration = Configuration(optimizer, None if optimizer == "base" else 0.05, 0.05, 20, 0)
    running = Trainer(workload, SETTING, configuration, splits, epochs=3, device=CPU)
    before = {name: parameter.clone() for name, parameter in running.model.named_parameters()}
    assert running.epoch().metrics["train/lr"] == pytest.approx(0.05), "the trial's, not that of its slowest group"
    moved = {name for name, parameter in running.model.named_parameters() if not parameter.equal(before[name])}
    assert moved == {"layers.0.weight", "layers.0.bias", "layers.2.weight"}


def test_a_network_begins_with_pretrained_weights_and_keeps_the_rest_of_its_own(splits):
    pretrained = {"layers.0.weight": torch.full((16, 1), 0.5)}
    plain, ours = trainer(splits), trainer(replace(splits, weights=pretrained))
    assert ours.model.layers[0].weight.equal(pretrained["layers.0.weight"])
    assert ours.model.layers[2].weight.equal(plain.model.layers[2].weight)
    for wrong, says in (
        ({"head.weight": torch.zeros(1)}, "the network has no 'head.weight'"),
        ({"layers.0.weight": torch.zeros(3, 3)}, "size mismatch for layers.0.weight"),
    ):
        with pytest.raises(ValueError, match=rf"^weights\(\): .*{says}"):
            trainer(replace(splits, weights=wrong))
    assert replace(splits, weights=pretrained).together().weights is pretrained


def test_a_loss_that_is_weighted_is_the_same_however_batches_are_cut():
    workload = TwoTasks()
    splits = workload.read("d", None)
    configuration = Configuration("sam", 0.05, 0.05, 16, 0)
    found = []
    for workload.evaluation_batch in (3, 1024):
        running = Trainer(workload, workload.settings["d"], configuration, splits, epochs=2, device=CPU)
        found.append({name: value for name, value in running.epoch().metrics.items() if name.startswith("val/")})
    assert found[0] == pytest.approx(found[1], rel=1e-6)


class Detects(TwoTasks):
    """Its loss reads what `network()` left on the workload, and its score a value that the setting holds."""

    hyperparameters = {"threshold": Choice(0.1, 0.9)}
    settings = {"d": replace(TwoTasks.settings["d"], network={"threshold": 0.5})}

    def network(self, setting):
        self.made = super().network(replace(setting, network={}))
        self.made.register_forward_hook(
            lambda network, _, outputs: setattr(network, "left", outputs[1].square().mean())
        )
        return self.made

    def loss(self, outputs, targets):
        return super().loss(outputs, targets) + self.made.left

    def metrics(self, setting):
        threshold = setting.network["threshold"]
        return {"hits": lambda outputs, targets: (outputs[0].softmax(1)[:, 1] > threshold).float().mean()}


@pytest.mark.slow
def test_a_test_and_an_analysis_have_the_workload_that_made_the_network(tmp_path):
    options = {"home": tmp_path, "executor": INLINE}
    tune_sam.search(Detects, name="one", optimizers=["base"], trials=2, **options)
    refit = tune_sam.refit("one", seeds=1, controls=False, **options)
    (trial,) = refit.studies[0].complete()
    model, test = trial.load_model(), Waves(100, 20)
    with torch.no_grad():
        outputs = model(test.x)
    found = (outputs[0].softmax(1)[:, 1] > trial.config.more["threshold"]).float().mean()
    assert refit.tests[trial.key]["hits"] == pytest.approx(float(found))
    analysis = tune_sam.analyze("one", sample=24, grid=3, **options)
    assert all(one.loss > 0 for one in analysis.flatness.values())


@pytest.mark.slow
@pytest.mark.parametrize("workload", [Tags, TwoTasks])
def test_tokens_and_several_targets_are_searched_refitted_and_measured(workload, tmp_path):
    options = {"home": tmp_path, "executor": INLINE}
    tune_sam.search(workload, name="one", optimizers=["base", "sam"], trials=1, **options)
    refit = tune_sam.refit("one", seeds=1, controls=False, **options)
    found = tune_sam.analyze("one", sample=24, grid=3, **options)
    assert {one.samples for one in found.flatness.values()} == {24}
    (tested,) = refit.studies[0].complete("sam")
    model, scores = tested.load_model().eval(), refit.tests[tested.key]
    with torch.no_grad():
        if workload is Tags:
            counts = TAGS[72:] != -100
            expected = nn.functional.cross_entropy(model(TOKENS[72:])[counts], TAGS[72:][counts])
            assert scores["nll"] == pytest.approx(float(expected), rel=1e-4)
        else:
            split = Waves(100, 20)
            right = model(split.x)[0].argmax(1) == (split.y[:, 0] > 0)
            assert scores["hits"] == pytest.approx(float(right.float().mean()))
