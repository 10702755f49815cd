import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tune_sam.metrics import Classification
from tune_sam.schedules import milestones
from tune_sam.space import Configuration
from tune_sam.store import TensorStore
from tune_sam.training import Trainer, _precision, batch_sizes, build_optimizer, evaluate, multiplies_bf16, outputs
from tune_sam.workload import Splits, find_workload

GCN = find_workload("gcn")
SETTING = GCN.settings["digits"]
CONFIGURATIONS = {
    "base": Configuration("base", None, 0.01, 64, 3),
    "sam": Configuration("sam", 0.05, 0.01, 64, 3),
    "asam": Configuration("asam", 0.1, 0.01, 64, 3),
    "asam-all": Configuration("asam-all", 0.01, 0.01, 64, 3),
    "gsam": Configuration("gsam", 0.05, 0.01, 64, 3),
    "look-sam": Configuration("look-sam", 0.05, 0.01, 64, 3),
    "fisher-sam": Configuration("fisher-sam", 0.05, 0.01, 64, 3),
}


@pytest.fixture(scope="module")
def splits():
    """A few batches of the digits, so that an epoch is quick."""
    whole = GCN.splits("digits", None)
    return Splits(whole.train.subset(torch.arange(200)), whole.validation)


def trainer(splits, configuration=CONFIGURATIONS["sam"], epochs=4, **options):
    return Trainer(GCN, SETTING, configuration, splits, epochs=epochs, **options)


def metrics(epoch):
    return {name: value for name, value in epoch.metrics.items() if name != "time/epoch_s"}


def test_the_learning_rate_falls_to_a_fifth_after_30_60_and_80_percent(splits):
    running = trainer(splits, CONFIGURATIONS["base"], epochs=10)
    rates = [running.epoch().metrics["train/lr"] for _ in range(10)]
    assert milestones(10) == [3, 6, 8]
    assert rates == pytest.approx([0.01] * 3 + [0.002] * 3 + [0.0004] * 2 + [0.00008] * 2)


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_the_first_epoch_has_the_configurations_rate_however_short_the_training(splits, epochs):
    assert trainer(splits, CONFIGURATIONS["base"], epochs=epochs).epoch().metrics["train/lr"] == 0.01


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_same_seed_same_numbers_whatever_the_caller_draws(splits, configuration):
    first, second = trainer(splits, configuration), trainer(splits, configuration)
    one = [metrics(first.epoch()) for _ in range(2)]
    torch.manual_seed(99)
    two = []
    for _ in range(2):
        torch.rand(5)
        two.append(metrics(second.epoch()))
    assert one == two


def test_a_training_leaves_the_callers_random_state_alone(splits, monkeypatch):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    running = trainer(splits)
    running.epoch()
    assert torch.equal(torch.get_rng_state(), before)
    assert not seeded, "the generators of GPUs are the caller's"


def test_another_seed_gives_other_numbers(splits):
    other = replace(CONFIGURATIONS["sam"], seed=4)
    assert metrics(trainer(splits).epoch()) != metrics(trainer(splits, other).epoch())


@pytest.mark.parametrize("configuration", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_an_interrupted_training_goes_on_bitwise(splits, configuration, tmp_path):
    straight = trainer(splits, configuration)
    for _ in range(2):
        straight.epoch()
    torch.save(straight.state_dict(), tmp_path / "state.pt")
    second = trainer(splits, configuration)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(2):
        assert metrics(second.epoch()) == metrics(straight.epoch())
    assert second.finished
    for one, two in zip(straight.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["sam", "asam", "asam-all"])
def test_radius_zero_is_the_base_optimizer_bitwise(splits, name):
    base = trainer(splits, CONFIGURATIONS["base"])
    zero = trainer(splits, replace(CONFIGURATIONS["base"], optimizer=name, rho=0.0))
    for _ in range(2):
        one, two = metrics(base.epoch()), metrics(zero.epoch())
        assert 2 * one.pop("compute/gradients") == two.pop("compute/gradients")
        assert one == two
    for one, two in zip(base.model.parameters(), zero.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_sam_takes_two_gradients_a_step_and_base_one(splits):
    def passes(configuration):
        running = trainer(splits, configuration)
        calls = []
        running.model.register_forward_hook(lambda model, *_: calls.append(model.training))
        running.epoch()
        return sum(calls)

    steps = math.ceil(200 / 64)
    assert passes(CONFIGURATIONS["base"]) == steps
    assert passes(CONFIGURATIONS["sam"]) == 2 * steps


def test_a_batch_order_depends_on_the_epoch_and_covers_the_data(splits):
    running = trainer(splits)
    seen = []
    for _ in range(2):
        seen.append(torch.cat([targets for [[(_, targets)]] in running.batches()]))
        running.epoch()
    assert len(seen[0]) == 200
    assert sorted(seen[0].tolist()) == sorted(splits.train.y.tolist())
    assert not torch.equal(*seen)


def test_evaluation_is_of_all_samples_in_eval_mode_and_keeps_the_mode(splits, monkeypatch):
    running = trainer(splits)
    running.epoch()
    running.model.train()
    whole = running.evaluate(splits.validation)
    assert running.model.training
    monkeypatch.setattr(type(GCN), "evaluation_batch", 50)
    parts = running.evaluate(splits.validation)
    inputs, targets = splits.validation.batch(torch.arange(len(splits.validation)))
    model = running.model.double().eval()
    inputs.x = inputs.x.double()
    outputs = model(inputs)
    assert whole.scores == parts.scores
    assert whole.scores["accuracy"] == float((outputs.argmax(1) == targets).double().mean())
    for result in (whole, parts):
        assert result.loss == pytest.approx(float(GCN.loss(outputs, targets)), rel=1e-5)


def test_the_metrics_are_those_of_the_weights_after_the_epoch(splits):
    running = trainer(splits)
    last = running.epoch().metrics
    train, val = running.evaluate(splits.train), running.evaluate(splits.validation)
    assert last["val/accuracy"] == val.scores["accuracy"]
    assert last["val/loss"] == val.loss
    assert last["gap/loss"] == val.loss - train.loss
    assert last["gap/accuracy"] == train.scores["accuracy"] - val.scores["accuracy"]


def test_divergence_is_a_result_without_metrics(splits):
    running = trainer(splits, replace(CONFIGURATIONS["base"], lr=1e30), epochs=3)
    last = running.epoch()
    assert last.diverged
    assert last.metrics == {}
    assert running.finished


def test_steps_without_a_direction_are_counted(splits):
    running = trainer(splits)
    with torch.no_grad():
        for parameter in running.model.parameters():
            parameter.zero_()
    # With all weights at zero only the last bias has a gradient; frozen, none is left.
    running.model.head[-1].bias.requires_grad_(False)
    first = running.epoch().unperturbed
    assert first == math.ceil(len(splits.train) / 64)
    resumed = trainer(splits)
    resumed.load_state_dict(running.state_dict())
    resumed.model.head[-1].bias.requires_grad_(False)
    assert resumed.epoch().unperturbed == running.epoch().unperturbed == 2 * first


def test_a_training_takes_numbers_below_the_smallest_normal_one_for_zero(splits):
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)
    small = torch.full((200_000,), 1e-39, requires_grad=True)
    assert (small * 2 > 0).all()
    trainer(splits, CONFIGURATIONS["base"])
    assert not (small * 2).any()
    (2 * small).sum().backward(torch.tensor(1e-39))
    assert not small.grad.any()


def test_an_optimizer_that_is_not_there_is_named():
    model = GCN.network(SETTING)
    with pytest.raises(ValueError, match="'adamw'"):
        build_optimizer(model, GCN, Configuration("adamw", 0.1, 0.01, 64, 0))
    with pytest.raises(ValueError, match="needs a ρ"):
        build_optimizer(model, GCN, Configuration("sam", None, 0.01, 64, 0))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("base", "Adam"),
        ("sam", "SAM"),
        ("asam", "ASAM"),
        ("asam-all", "ASAMAll"),
        ("gsam", "GSAM"),
        ("look-sam", "LookSAM"),
        ("fisher-sam", "FisherSAM"),
    ],
)
def test_a_configuration_names_its_optimizer(name, kind):
    built = build_optimizer(GCN.network(SETTING), GCN, CONFIGURATIONS[name])
    assert type(built).__name__ == kind
    assert built.param_groups[0]["weight_decay"] == 5e-4


def test_test_labels_and_graphs_cannot_reach_a_search(monkeypatch):
    """Other contents in the test part leave every number of a training as it is."""
    from tune_sam.trainables.data import digits
    from tune_sam.trainables.data.split import stratified

    before = GCN.splits("digits", None)
    whole = digits.grid_graphs()
    test = torch.from_numpy(stratified(whole.y.numpy()).test)
    x = whole.x.clone().reshape(len(whole), 64, -1)
    x[test] = 1e6
    changed = replace(whole, x=x.reshape(whole.x.shape))
    monkeypatch.setattr(digits, "grid_graphs", lambda: changed)
    after = GCN.splits("digits", None)
    assert float(after.train.x.max()) == float(after.validation.x.max()) == 1
    assert metrics(trainer(before).epoch()) == metrics(trainer(after).epoch())


class Fixed(torch.nn.Module):
    """A network that answers with its input."""

    def forward(self, x):
        return x


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_f1_is_scikit_learns(batch, monkeypatch):
    from sklearn.metrics import accuracy_score, f1_score

    random = torch.Generator().manual_seed(batch)
    targets = torch.randint(0, 4, (60,), generator=random)
    outputs = torch.randn(60, 6, generator=random) + 2 * torch.nn.functional.one_hot(targets, 6)
    outputs[:, 4] = -9  # neither predicted nor a target; class 5 is predicted only
    outputs[0, 5] = 9
    monkeypatch.setattr(type(GCN), "evaluation_batch", batch)
    names = tuple("012345")
    found = evaluate(Fixed(), GCN, TensorStore(outputs, targets), torch.device("cpu"), Classification(names))
    predicted = outputs.argmax(1)
    assert 5 in predicted
    labels = sorted({*targets.tolist()})
    f1 = f1_score(targets, predicted, labels=labels, average=None, zero_division=0)
    assert found.scores == pytest.approx(
        {
            "accuracy": accuracy_score(targets, predicted),
            "macro_f1": f1_score(targets, predicted, labels=labels, average="macro"),
            **{f"f1/{label}": score for label, score in zip(labels, f1, strict=True)},
        }
    )
    assert found.loss == pytest.approx(float(GCN.loss(outputs, targets)))


def test_classes_with_names_have_their_f1(splits):
    named = replace(SETTING, classes=tuple("abcdefghij"))
    found = Trainer(GCN, named, CONFIGURATIONS["base"], splits, epochs=2).epoch().metrics
    scores = {name: value for name, value in found.items() if name.startswith("val/f1/")}
    assert set(scores) <= {f"val/f1/{name}" for name in "abcdefghij"}
    assert sum(scores.values()) / len(scores) == pytest.approx(found["val/macro_f1"])
    assert not any(name.startswith("val/f1/") for name in trainer(splits).epoch().metrics)


def conv_splits(samples=96):
    whole = find_workload("wideresnet").splits("digits", None)
    return Splits(whole.train.subset(torch.arange(samples)), whole.validation.subset(torch.arange(32)))


def convolutional(configuration, ema=None, **options):
    workload = find_workload("wideresnet")
    setting = replace(workload.settings["digits"], ema=ema)
    return Trainer(workload, setting, configuration, conv_splits(), epochs=2, **options)


def test_bf16_keeps_weights_gradients_and_losses_in_float32():
    running = convolutional(Configuration("sam", 0.05, 0.1, 32, 0), precision="bf16")
    seen = []
    handle = running.model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    epoch = running.epoch()
    handle.remove()
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in running.model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in running.model.parameters()} == {torch.float32}
    assert running.outputs(running.splits.train.batch(torch.arange(2))[0]).dtype == torch.float32
    other = convolutional(Configuration("sam", 0.05, 0.1, 32, 0), precision="fp32").epoch()
    assert metrics(epoch) != metrics(other)
    assert epoch.metrics["train/loss"] == pytest.approx(other.metrics["train/loss"], rel=0.2)


def test_outputs_that_are_no_numbers_of_half_a_precision_are_the_networks_own():
    class Several(nn.Module):
        def forward(self, x):
            product = x @ x.T
            return product, x > 0, torch.tensor([2**24 + 1]), torch.fft.fft(x), x.double()

    x = torch.randn(4, 4)
    half, whole = (outputs(Several(), x, precision, torch.device("cpu")) for precision in ("bf16", "fp32"))
    assert [one.dtype for one in half] == [one.dtype for one in whole]
    assert all(one.equal(other) for one, other in zip(half[1:], whole[1:], strict=True))
    assert not half[0].equal(whole[0]), "which autocast has made"


def test_under_bf16_the_second_pass_sees_the_climbed_weights():
    """Autocast keeps the weights it has cast; kept over both passes, SAM would get the first gradient twice."""
    rho = 0.5
    running = convolutional(Configuration("sam", rho, 0.1, 32, 0), precision="bf16")
    batch = running.splits.train.batch(torch.arange(32))
    model, parameters = running.model, list(running.model.parameters())

    def gradient():
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(batch[0])
        return torch.autograd.grad(running.workload.loss(outputs.float(), batch[1]), parameters)

    first = gradient()
    norm = torch.stack([part.norm() for part in first]).norm()
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, part in zip(parameters, first, strict=True):
            parameter += rho * part / norm
    climbed = gradient()
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    running.step([[batch]])
    found = torch.cat([parameter.grad.flatten() for parameter in parameters])
    expected = torch.cat([part.flatten() for part in climbed])
    base = torch.cat([part.flatten() for part in first])
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert (base - expected).norm() > 0.2 * expected.norm(), "the two gradients must differ for this to say anything"


def test_the_precision_is_the_devices_by_default(splits):
    assert trainer(splits).precision == "fp32"
    with pytest.raises(ValueError, match="there is no precision 'fp16'; choose from auto, bf16, fp32"):
        trainer(splits, precision="fp16")


@pytest.mark.parametrize(
    ("says", "multiplies", "expected"), [(True, True, "bf16"), (True, False, "fp32"), (False, True, "fp32")]
)
def test_auto_is_bf16_where_the_setting_says_so_and_the_cpu_multiplies_it(
    splits, monkeypatch, says, multiplies, expected
):
    monkeypatch.setattr("tune_sam.training.multiplies_bf16", lambda: multiplies)
    setting, cpu = replace(SETTING, bf16_on_cpu=says), torch.device("cpu")
    options = {"epochs": 1, "device": cpu}
    assert Trainer(GCN, setting, CONFIGURATIONS["sam"], splits, precision="auto", **options).precision == expected
    assert Trainer(GCN, setting, CONFIGURATIONS["sam"], splits, **options).precision == "fp32"


@pytest.mark.parametrize("precision", [None, "auto"])
@pytest.mark.parametrize(("multiplies", "expected"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_computes_in_fp32(monkeypatch, precision, multiplies, expected):
    monkeypatch.setattr("torch.cuda.device", lambda device: nullcontext())
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: including_emulation or multiplies)
    assert _precision(precision, SETTING, torch.device("cuda")) == expected
    assert _precision("bf16", SETTING, torch.device("cuda")) == "bf16"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the system does not list what its CPU can")
def test_what_torch_says_of_the_cpu_is_what_the_system_says():
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert multiplies_bf16() == bool(flags & {"avx512_bf16", "amx_tile"})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "sam"])
def test_a_network_is_compiled_in_the_first_epoch_and_not_again(name, monkeypatch):
    """Each graph costs a minute with the real compiler, and after eight torch gives up; here they are only counted."""
    graphs = []

    def count(graph, example):
        graphs.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend=count))
    running = convolutional(Configuration(name, 0.05 if name == "sam" else None, 0.1, 32, 0), compile=True)
    running.epoch()
    first = len(graphs)
    running.epoch()
    assert 0 < first < 8
    assert len(graphs) == first


@pytest.mark.slow
@pytest.mark.parametrize(("name", "ema"), [("base", None), ("sam", None), ("sam", 0.9)])
def test_a_compiled_network_gives_the_same_numbers(name, ema):
    configuration = Configuration(name, 0.05 if name == "sam" else None, 0.1, 32, 0)
    plain, compiled = convolutional(configuration, ema), convolutional(configuration, ema, compile=True)
    for _ in range(2):
        one, two = plain.epoch().metrics, compiled.epoch().metrics
        assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-3)
        assert two["val/loss"] == pytest.approx(one["val/loss"], rel=1e-3)
    assert compiled.state_dict()["model"].keys() == plain.state_dict()["model"].keys()


def test_augmentation_is_drawn_once_a_batch_and_resumes(monkeypatch, tmp_path):
    workload = find_workload("wideresnet")
    setting = workload.settings["digits"]
    calls = []

    def augment(self, inputs, setting):
        calls.append(len(inputs))
        return inputs + torch.rand(len(inputs), 1, 1, 1)

    monkeypatch.setattr(type(workload), "augment", augment)
    begin = [
        Trainer(workload, setting, Configuration("sam", 0.05, 0.1, 32, 0), conv_splits(), epochs=2) for _ in range(3)
    ]
    straight, cut, resumed = begin
    straight.epoch()
    assert calls == [32, 32, 32], "once for both passes, and not for evaluation"
    cut.epoch()
    torch.save(cut.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert metrics(resumed.epoch()) == metrics(straight.epoch())


@pytest.mark.parametrize(("name", "samples"), [("base", [200, 200]), ("sam", [400, 400]), ("look-sam", [264, 264])])
def test_gradients_are_counted_as_they_are_taken(splits, name, samples):
    """200 samples are three steps of 64 and one of 8: look-sam looks in the first and in the sixth step of all."""
    running = trainer(splits, CONFIGURATIONS[name])
    counted = [running.epoch().metrics["compute/gradients"] for _ in range(2)]
    assert counted == [samples[0], sum(samples)]
    resumed = trainer(splits, CONFIGURATIONS[name])
    resumed.load_state_dict(running.state_dict())
    assert resumed.epoch().metrics["compute/gradients"] == running.epoch().metrics["compute/gradients"]


@pytest.mark.parametrize(
    ("samples", "size", "sizes"),
    [
        (200, 64, [64, 64, 64, 8]),
        (129, 64, [64, 65]),
        (128, 64, [64, 64]),
        (3, 1, [1, 1, 1]),
        (1, 64, [1]),
        (2, 64, [2]),
    ],
)
def test_a_single_sample_that_is_left_is_no_batch_of_its_own(samples, size, sizes):
    assert batch_sizes(samples, size) == sizes


def test_an_epoch_takes_each_sample_once_where_one_is_left(splits):
    some = Splits(splits.train.subset(torch.arange(129)), splits.validation)
    running = trainer(some, CONFIGURATIONS["base"])
    assert [len(targets) for (((_, targets),),) in running.batches()] == [64, 65]
    assert running.epoch().metrics["compute/gradients"] == 129


@pytest.mark.parametrize(
    ("m", "microbatch", "sizes"), [(32, None, [[32], [33]]), (64, 32, [[32, 33]]), (1, None, [[1]] * 65)]
)
def test_a_single_sample_that_is_left_is_no_part_and_no_piece(splits, m, microbatch, sizes):
    some = Splits(splits.train.subset(torch.arange(65)), splits.validation)
    configuration = replace(CONFIGURATIONS["sam"], batch_size=65, more={"m": m})
    running = Trainer(GCN, replace(SETTING, microbatch=microbatch), configuration, some, epochs=1)
    (parts,) = running.batches()
    assert [[len(targets) for _, targets in pieces] for pieces in parts] == sizes


def test_gradients_of_parts_and_pieces_are_those_of_their_samples(splits):
    configuration = replace(CONFIGURATIONS["sam"], more={"m": 24})
    in_pieces = replace(SETTING, microbatch=16)
    running = Trainer(GCN, in_pieces, configuration, splits, epochs=1)
    assert running.epoch().metrics["compute/gradients"] == 400
