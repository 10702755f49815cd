import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from tune_sam.space import Configuration
from tune_sam.trainables.data import cifar10, digits
from tune_sam.trainables.data.images import ImageStore
from tune_sam.trainables.networks.wideresnet import WideResNet
from tune_sam.training import Trainer
from tune_sam.workload import Setting, Splits, find_workload

WORKLOAD = find_workload("wideresnet")
CLOSE = {"rtol": 1e-9, "atol": 1e-10}
SHAPES = [(10, 1, 1), (10, 2, 3), (16, 1, 3), (22, 1, 3)]  # depth, width, channels
SHAPE = pytest.mark.parametrize(("depth", "width", "channels"), SHAPES)


def build(depth, width, channels, seed=5):
    """A network in float64 with batch norms that do something, and images for it."""
    torch.manual_seed(seed)
    network = WideResNet(depth, width, channels, 10).double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    return network, torch.randn(4, channels, 8, 12, dtype=torch.float64)


def forward(state, depth, width, x, training):
    """The network as a formula of its state; running statistics in `state` move."""

    def convolved(name, x, stride=1, padding=1):
        return F.conv2d(x, state[f"{name}.weight"], None, stride, padding)

    def activated(name, x):
        return F.relu(
            F.batch_norm(
                x,
                state[f"{name}.running_mean"],
                state[f"{name}.running_var"],
                state[f"{name}.weight"],
                state[f"{name}.bias"],
                training,
                0.1,
                1e-5,
            )
        )

    x = convolved("stem", x)
    number = 0
    for group in range(3):
        for unit in range((depth - 4) // 6):
            name, stride, outputs = f"units.{number}", 2 if group and not unit else 1, 16 * 2**group * width
            active = activated(f"{name}.norm1", x)
            inside = activated(f"{name}.norm2", convolved(f"{name}.conv1", active, stride))
            if x.shape[1] != outputs or stride == 2:
                x = convolved(f"{name}.shortcut", active, stride, 0)
            x = x + convolved(f"{name}.conv2", inside)
            assert x.shape[1] == outputs
            number += 1
    x = activated("norm", x).sum((2, 3)) / (x.shape[2] * x.shape[3])
    return x @ state["head.weight"].T + state["head.bias"]


# -- the network


def test_parameters():
    settings = [
        WORKLOAD.settings["cifar10"],
        WORKLOAD.presets["report"].setting,
        WORKLOAD.presets["small"].setting,
        WORKLOAD.settings["digits"],
    ]
    assert [WORKLOAD.parameters(setting) for setting in settings] == [17_158_106, 17_158_106, 175_066, 77_562]


@pytest.mark.parametrize(
    ("depth", "width", "millions"),
    [
        (40, 1, 0.6),
        (40, 2, 2.2),
        (40, 4, 8.9),
        (40, 8, 35.7),
        (28, 10, 36.5),
        (28, 12, 52.5),
        (22, 8, 17.2),
        (22, 10, 26.8),
        (16, 8, 11.0),
        (16, 10, 17.1),
    ],
)
def test_parameters_are_as_published(depth, width, millions):
    with torch.device("meta"):
        network = WideResNet(depth, width, 3, 10)
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1) == millions
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in network.modules())
    assert convolutions == depth - (width == 1), "ways around count; with width 1 the first group needs none"


@pytest.mark.parametrize("depth", [-2, 0, 3, 4, 5, 9, 11, 15, 17, 23])
def test_a_depth_that_there_is_not_is_refused(depth):
    with pytest.raises(ValueError, match=f"a depth is 6 n [+] 4 .*; got {depth}$"):
        WideResNet(depth, 1, 3, 10)


@SHAPE
def test_the_network_is_the_formula(depth, width, channels):
    network, images = build(depth, width, channels)
    network.eval()
    state = deepcopy(network.state_dict())
    with torch.no_grad():
        found, expected = network(images), forward(state, depth, width, images, training=False)
    assert found.shape == (4, 10)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert found.std() > 0.01


@SHAPE
def test_in_training_batches_are_normalised_by_their_own_statistics(depth, width, channels):
    network, images = build(depth, width, channels)
    network.train()
    state = deepcopy(network.state_dict())
    with torch.no_grad():
        found, expected = network(images), forward(state, depth, width, images, training=True)
        evaluated = forward(network.state_dict(), depth, width, images, training=False)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not torch.allclose(found, evaluated, rtol=1e-3)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert tensor == 1, name
        else:
            torch.testing.assert_close(tensor, state[name], **CLOSE)


@SHAPE
def test_every_parameter_is_used(depth, width, channels):
    network, images = build(depth, width, channels)
    WORKLOAD.loss(network(images), torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_logits_of_an_image_do_not_depend_on_its_batch():
    network, images = build(10, 2, 3)
    network.eval()
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in images])
        torch.testing.assert_close(network(images[[2, 0, 2]]), alone[[2, 0, 2]], **CLOSE)


@pytest.mark.parametrize(
    "setting",
    [
        WORKLOAD.presets["small"].setting,
        WORKLOAD.settings["digits"],
        replace(WORKLOAD.settings["cifar10"], network={**WORKLOAD.settings["cifar10"].network, "width": 3}),
    ],
    ids=["small", "digits", "wide"],
)
def test_weights_begin_as_he_et_al_say(setting):
    torch.manual_seed(0)
    network = WORKLOAD.network(setting)
    numbers = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            count = module.weight.numel()
            fan_in = count // module.weight.shape[0]
            scaled = module.weight.detach().flatten() / math.sqrt(2 / fan_in)
            assert abs(scaled.mean()) < 4.5 / math.sqrt(count)
            assert abs(scaled.std() - 1) < 4.5 / math.sqrt(2 * count)
            assert module.bias is None or not module.bias.any()
            numbers.append(scaled)
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert not module.bias.any()
    share = (torch.cat(numbers).abs() > 2).float().mean()
    assert 0.04 < share < 0.05, "a normal distribution has 4.6 % of its numbers there, a uniform one none"


def test_the_same_seed_is_the_same_network():
    (first, _), (again, _), (other, _) = build(10, 1, 3), build(10, 1, 3), build(10, 1, 3, seed=6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.stem.weight, other.stem.weight)


def is_channels_last(tensor):
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_weights_and_activations_are_channels_last():
    network = WORKLOAD.network(WORKLOAD.presets["small"].setting)
    seen = []

    def look(module, inputs, output):
        seen.extend([*inputs, output])

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d):
            module.register_forward_hook(look)
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            assert is_channels_last(module.weight)
    images, targets = some_images(4, side=32).train.batch(torch.arange(4))
    loss = WORKLOAD.loss(network(WORKLOAD.augment(images, WORKLOAD.presets["small"].setting)), targets)
    loss.backward()
    assert len(seen) == 2 * (13 + 13 + 2), "13 convolutions, 13 batch norms, 2 ways around"
    assert all(is_channels_last(tensor) for tensor in seen)
    assert all(
        is_channels_last(module.weight.grad)
        for module in network.modules()
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3)
    )


# -- its trainings

AUGMENTED = Setting(
    {"depth": 10, "width": 1, "channels": 3, "classes": 10},
    epochs=3,
    batch_size=16,
    lr=0.05,
    augmentation={"pad": 2, "cutout": 4, "cutout_probability": 0.5},
)
SAM = Configuration("sam", 0.05, 0.05, 16, 3)


def some_images(samples=48, side=8):
    """Images that each have a stain of their class's colour."""
    random = torch.Generator().manual_seed(1)
    targets = torch.arange(samples) % 10
    pixels = torch.randint(0, 100, (samples, side, side, 3), generator=random)
    pixels[:, 2:6, 2:6] += (targets[:, None] * torch.tensor([15, -15, 0]) + torch.tensor([0, 135, 50]))[:, None, None]
    store = ImageStore(pixels.to(torch.uint8), targets, cifar10.MEAN, cifar10.STD)
    return Splits(store, store.subset(torch.arange(0, samples, 3)))


def training(configuration=SAM, setting=AUGMENTED, precision="fp32", samples=48):
    return Trainer(
        WORKLOAD,
        setting,
        configuration,
        some_images(samples),
        epochs=3,
        device=torch.device("cpu"),
        precision=precision,
    )


def numbers(epoch):
    assert not epoch.diverged
    return {name: value for name, value in epoch.metrics.items() if name != "time/epoch_s"}


@pytest.fixture
def augmented(monkeypatch):
    """What `augment` was given and what it made of it, call by call."""
    calls, original = [], type(WORKLOAD).augment

    def augment(self, inputs, setting):
        outputs = original(self, inputs, setting)
        calls.append((inputs.clone(), outputs.clone()))
        return outputs

    monkeypatch.setattr(type(WORKLOAD), "augment", augment)
    return calls


def inputs_of(trainer):
    """What the network of a trainer sees from here on, as (in training mode, images)."""
    seen = []
    trainer.model.register_forward_pre_hook(lambda model, inputs: seen.append((model.training, inputs[0].clone())))
    return seen


@pytest.mark.parametrize(("configuration", "passes"), [(SAM, 2), (Configuration("base", None, 0.05, 16, 3), 1)])
def test_a_batch_is_augmented_once_whatever_the_passes(augmented, configuration, passes):
    trainer = training(configuration)
    seen = inputs_of(trainer)
    trainer.epoch()
    assert len(augmented) == 3
    trained = [images for in_training, images in seen if in_training]
    assert len(trained) == 3 * passes
    for number, images in enumerate(trained):
        before, after = augmented[number // passes]
        assert torch.equal(images, after)
        assert not torch.equal(images, before)


def test_evaluation_sees_the_images_as_they_are():
    trainer = training()
    seen = inputs_of(trainer)
    trainer.epoch()
    evaluated = [images for in_training, images in seen if not in_training]
    expected = [part.batch(torch.arange(len(part)))[0] for part in (trainer.splits.train, trainer.splits.validation)]
    assert len(evaluated) == 2
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(evaluated, expected, strict=True))


def test_without_augmentation_in_the_setting_there_is_none(augmented):
    trainer = training(setting=replace(AUGMENTED, augmentation={}))
    trainer.epoch()
    assert augmented
    assert all(torch.equal(given, made) for given, made in augmented)


def test_the_seed_decides_the_augmentation(augmented):
    results = []
    for seed in (3, 3, 4):
        trainer = training(replace(SAM, seed=seed))
        torch.manual_seed(len(results))  # the caller's state is no matter
        results.append(([numbers(trainer.epoch()) for _ in range(2)], torch.stack([made for _, made in augmented])))
        augmented.clear()
    (first, images), (again, same), (other, others) = results
    assert first == again
    assert torch.equal(images, same)
    assert first != other
    assert not torch.equal(images, others)


def test_every_epoch_has_its_own_augmentation(augmented):
    trainer = training()
    trainer.epoch()
    trainer.epoch()
    first, second = (
        {image.numpy().tobytes(): made for call in calls for image, made in zip(*call, strict=True)}
        for calls in (augmented[:3], augmented[3:])
    )
    assert first.keys() == second.keys()
    assert len(first) == 48
    assert sum(torch.equal(first[image], second[image]) for image in first) < 6, "a few crops are drawn twice"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_interrupted_training_goes_on_bitwise(augmented, tmp_path, precision):
    straight = training(precision=precision)
    straight.epoch()
    torch.save(straight.state_dict(), tmp_path / "state.pt")
    resumed = training(precision=precision)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    augmented.clear()
    expected = [numbers(straight.epoch()) for _ in range(2)]
    torch.rand(5)
    assert [numbers(resumed.epoch()) for _ in range(2)] == expected
    assert len(augmented) == 12
    for (_, ours), (_, theirs) in zip(augmented[:6], augmented[6:], strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(straight.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def gradients(network, inputs, targets):
    """Of the loss under bf16, each weight cast anew where it is used."""
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        outputs = network(inputs).float()
    WORKLOAD.loss(outputs, targets).backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


@pytest.mark.parametrize("configuration", [SAM, Configuration("asam-all", 1.0, 0.05, 16, 3)], ids=["sam", "asam-all"])
def test_under_autocast_the_second_gradient_is_that_of_the_perturbed_weights(configuration):
    trainer = training(configuration, replace(AUGMENTED, augmentation={}), precision="bf16", samples=16)
    copy, passes, stepped = deepcopy(trainer.model), [], []

    def weights():
        return [parameter.detach().clone() for parameter in trainer.model.parameters()]

    trainer.model.register_forward_pre_hook(lambda model, inputs: passes.append((weights(), inputs[0].clone())))
    trainer.optimizer.base_optimizer.register_step_pre_hook(
        lambda *_: stepped.append((weights(), [p.grad.clone() for p in trainer.model.parameters()]))
    )
    trainer.epoch()
    (before, inputs), (climbed, _), *_ = passes
    ((restored, found),) = stepped
    images, targets = trainer.splits.train.batch(torch.arange(16))
    targets = targets[(inputs[:, None] == images).flatten(2).all(2).int().argmax(1)]

    at_w = gradients(copy.train(), inputs, targets)
    scale = [w.abs() if configuration.optimizer == "asam-all" else torch.ones_like(w) for w in before]
    norm = math.sqrt(sum(float((t * g).double().square().sum()) for t, g in zip(scale, at_w, strict=True)))
    for w, above, t, g in zip(before, climbed, scale, at_w, strict=True):
        torch.testing.assert_close(above, w + configuration.rho * t**2 * g / norm, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        for parameter, above in zip(copy.parameters(), climbed, strict=True):
            parameter.copy_(above)
    at_climbed = gradients(copy, inputs, targets)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, at_climbed, strict=True))
    assert all(torch.equal(w, same) for w, same in zip(before, restored, strict=True))
    difference = sum(float((a - b).square().sum()) for a, b in zip(at_w, found, strict=True))
    assert difference > 1e-3 * sum(float(g.square().sum()) for g in at_w), "stale casts would be seen"


def test_bf16_has_its_own_numbers_and_keeps_weights_and_gradients_in_float32():
    results = {}
    for precision in ("fp32", "bf16"):
        trainer, dtypes = training(precision=precision), []
        trainer.model.units[0].conv1.register_forward_hook(
            lambda module, inputs, output, seen=dtypes: seen.append(output.dtype)
        )
        results[precision] = [numbers(trainer.epoch()) for _ in range(2)]
        assert set(dtypes) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert trainer.outputs(trainer.splits.train.batch(torch.arange(2))[0]).dtype == torch.float32
        for name, parameter in trainer.model.named_parameters():
            assert parameter.dtype == parameter.grad.dtype == torch.float32, name
            assert trainer.optimizer.state[parameter]["momentum_buffer"].dtype == torch.float32, name
        for name, buffer in trainer.model.named_buffers():
            assert buffer.dtype == (torch.int64 if name.endswith("tracked") else torch.float32), name
    assert results["bf16"] != results["fp32"]
    for low, full in zip(results["bf16"], results["fp32"], strict=True):
        assert low["train/loss"] == pytest.approx(full["train/loss"], rel=0.2)


# -- the digits


def test_digits_are_images_of_one_channel():
    store, published = digits.images(), load_digits()
    assert store.x.shape == (1797, 1, 8, 8)
    assert (store.x.dtype, store.y.dtype) == (torch.float32, torch.int64)
    assert (store.x[:, 0].numpy() * 16 == published.images).all()
    assert store.y.tolist() == published.target.tolist()


def test_the_parts_of_the_digits_are_the_digits():
    splits = WORKLOAD.splits("digits", None)
    parts = (splits.train, splits.validation, WORKLOAD.test_split("digits", None))
    rows = sorted(
        (image.flatten().tolist(), label)
        for part in parts
        for image, label in zip(part.x, part.y.tolist(), strict=True)
    )
    everything = digits.images()
    assert rows == sorted(
        (image.flatten().tolist(), label) for image, label in zip(everything.x, everything.y.tolist(), strict=True)
    )
    for part in parts:
        shares = torch.bincount(part.y) / len(part) - torch.bincount(everything.y) / 1797
        assert shares.abs().max() < 1 / len(part) + 1e-6
