import math
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused
from tune_sam.trainables.data import digits, mitbih
from tune_sam.trainables.networks.attention import SequenceClassifier, positional_encoding
from tune_sam.workload import find_workload

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas

WORKLOAD = find_workload("attention")
BEATS, DIGITS = WORKLOAD.settings["mitbih"].network, WORKLOAD.settings["digits"].network
SMALL = {
    "length": 11,
    "width": 12,
    "heads": 3,
    "feedforward": 7,
    "layers": 2,
    "dropout": 0.3,
    "head": (9, 8),
    "classes": 4,
}
SHAPE = pytest.mark.parametrize("shape", [DIGITS, SMALL, {**BEATS, "head": (16, 8)}], ids=["digits", "small", "beats"])
CLOSE = {"rtol": 1e-9, "atol": 1e-10}


def build(shape, seed=5):
    """A network in float64 whose layer norms and biases do something."""
    torch.manual_seed(seed)
    network = SequenceClassifier(**shape).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                torch.nn.init.uniform_(parameter, *((0.5, 1.5) if "norm" in name and "weight" in name else (-0.5, 0.5)))
    return network


def sequences(shape, count=5):
    return torch.randn(count, shape["length"], generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def forward(network, shape, values):
    """Logits of sequences as a formula of the network's weights, without dropout."""
    state, (length, width) = network.state_dict(), (shape["length"], shape["width"])

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def normed(name, x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attended(name, x):
        projected = x @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]
        query, key, value = projected.split(width, -1)
        size, heads = width // shape["heads"], []
        for head in range(shape["heads"]):
            part = slice(head * size, (head + 1) * size)
            scores = torch.einsum("nsd,ntd->nst", query[..., part], key[..., part]) / math.sqrt(size)
            shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
            heads.append(torch.einsum("nst,ntd->nsd", shares, value[..., part]))
        return linear(f"{name}.out_proj", torch.cat(heads, -1))

    x = values[:, :, None] * state["project.weight"][:, 0] + state["project.bias"] + encoding(length, width)
    for layer in range(shape["layers"]):
        name = f"encoder.{layer}"
        x = normed(f"{name}.norm1", x + attended(f"{name}.self_attn", x))
        x = normed(f"{name}.norm2", x + linear(f"{name}.linear2", linear(f"{name}.linear1", x).clamp(min=0)))
    x = normed("norm", x).reshape(-1, length * width)
    for layer in range(len(shape["head"])):
        x = linear(f"head.{2 * layer}", x).clamp(min=0)
    return linear(f"head.{2 * len(shape['head'])}", x)


def encoding(length, width):
    """Vaswani et al., section 3.5, number by number."""
    rows = [
        [(math.sin, math.cos)[place % 2](time / 10_000 ** (place // 2 * 2 / width)) for place in range(width)]
        for time in range(length)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def exact(network):
    """The network with the encoding in float64: of a float32 it has half the digits."""
    network.positions.copy_(encoding(*network.positions.shape))
    return network


# -- the network


def test_parameters():
    settings = [WORKLOAD.settings[name] for name in ("mitbih", "mitbih-interpatient", "digits")]
    settings.append(WORKLOAD.presets["report"].setting)
    assert [WORKLOAD.parameters(setting) for setting in settings] == [19_528_109, 19_528_109, 140_458, 19_528_109]


def test_most_parameters_are_in_the_head():
    with torch.device("meta"):
        network = WORKLOAD.network(WORKLOAD.settings["mitbih"])
    head = sum(parameter.numel() for parameter in network.head.parameters())
    assert head == 187 * 200 * 512 + 512 + 512 * 256 + 256 + 256 * 128 + 128 + 128 * 5 + 5
    assert round(100 * head / 19_528_109, 1) == 98.9


@pytest.mark.parametrize(("length", "width"), [(187, 200), (64, 32), (5, 2), (1, 4)])
def test_positions_are_sines_and_cosines_of_the_time(length, width):
    found = positional_encoding(length, width)
    assert (found.shape, found.dtype) == ((length, width), torch.float32)
    torch.testing.assert_close(found.double(), encoding(length, width), rtol=0, atol=2e-5)


def test_positions_are_not_learned_and_in_no_checkpoint():
    network = WORKLOAD.network(WORKLOAD.settings["digits"])
    assert not network.positions.requires_grad
    assert not any("position" in name for name in [*network.state_dict(), *dict(network.named_parameters())])
    before = network.positions.clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    WORKLOAD.loss(network(torch.randn(4, 64)), torch.arange(4)).backward()
    optimizer.step()
    assert torch.equal(network.positions, before)
    restored = WORKLOAD.network(WORKLOAD.settings["digits"])
    restored.load_state_dict(network.state_dict())
    values = torch.randn(4, 64)
    assert torch.equal(network.eval()(values), restored.eval()(values))


@SHAPE
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])  # torch has a faster way without gradients
def test_the_network_is_the_formula(shape, grad):
    network, values = exact(build(shape)).eval(), sequences(shape)
    with torch.set_grad_enabled(grad):
        found = network(values)
    expected = forward(network, shape, values)
    assert found.shape == (5, shape["classes"])
    assert found.std() > 0.01
    torch.testing.assert_close(found.detach(), expected, **CLOSE)


@SHAPE
def test_in_training_the_network_is_the_formula_but_for_dropout(shape):
    network, values = exact(build({**shape, "dropout": 0.0})).train(), sequences(shape)
    torch.testing.assert_close(network(values).detach(), forward(network, shape, values), **CLOSE)


@SHAPE
def test_logits_do_not_depend_on_the_place_in_the_batch(shape):
    network, values = build(shape).eval(), sequences(shape)
    with torch.no_grad():
        alone = torch.cat([network(values[[index]]) for index in range(5)])
        assert (alone[0] - alone[1]).abs().max() > 1e-3
        for order in ([0, 1, 2, 3, 4], [4, 2, 0], [3, 3, 3, 3, 3, 3, 1]):
            torch.testing.assert_close(network(values[order]), alone[order], **CLOSE)


def test_steps_that_hold_the_same_value_are_told_apart_by_their_time():
    network = build(SMALL).eval()
    encoded = []
    network.encoder[0].register_forward_pre_hook(lambda module, inputs: encoded.append(inputs[0]))
    network(torch.full((3, 11), 0.7, dtype=torch.float64))
    (steps,) = encoded
    assert torch.equal(steps[0], steps[1])
    differences = (steps - steps[:, :1])[0]
    torch.testing.assert_close(differences, encoding(11, 12) - encoding(11, 12)[0], rtol=0, atol=1e-6)


@SHAPE
def test_every_parameter_is_used(shape):
    network = build(shape)
    WORKLOAD.loss(network(sequences(shape, 4)), torch.arange(4)).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def spied(monkeypatch, name):
    """Calls of a function of torch.nn.functional, as (positional, named) arguments."""
    calls, original = [], getattr(torch.nn.functional, name)

    def function(*args, **named):
        calls.append((args, named))
        return original(*args, **named)

    monkeypatch.setattr(torch.nn.functional, name, function)
    return calls


def test_attention_is_torchs_scaled_dot_product_attention(monkeypatch):
    calls = spied(monkeypatch, "scaled_dot_product_attention")
    network = build(SMALL).train()
    network(sequences(SMALL))
    assert len(calls) == 2, "one call a layer"
    for args, _ in calls:
        assert [tuple(tensor.shape) for tensor in args[:3]] == [(5, 3, 11, 4)] * 3, "batch, head, step, size"


def test_what_scaled_dot_product_attention_gives_is_used(monkeypatch):
    network = build({**SMALL, "dropout": 0.0}).train()
    whole = network(sequences(SMALL))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda query, *_, **__: 0 * query)
    assert not torch.allclose(network(sequences(SMALL)), whole)


def test_dropout_is_in_the_encoder_and_in_training_only(monkeypatch):
    attention, dropout = spied(monkeypatch, "scaled_dot_product_attention"), spied(monkeypatch, "dropout")
    network, values = build(SMALL), sequences(SMALL)
    network.train()(values)
    assert [args[4] for args, _ in attention] == [0.3, 0.3], "of the attention's weights"
    assert [args[1:3] for args, _ in dropout] == [(0.3, True)] * 6
    assert [args[0].shape[1:] for args, _ in dropout] == [(11, 12), (11, 7), (11, 12)] * 2, "three in a layer"
    attention.clear()
    dropout.clear()
    network.eval()(values)
    assert [args[4] for args, _ in attention] == [0.0, 0.0]
    assert not any(args[2] for args, _ in dropout)


def test_dropout_draws_from_torchs_generator():
    network, values = build(DIGITS), sequences(DIGITS)
    results = {}
    for training in (True, False):
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.setdefault((training, seed), []).append(network.train(training)(values).detach())
    assert torch.equal(*results[True, 1])
    assert not torch.equal(results[True, 1][0], results[True, 2][0])
    assert torch.equal(results[False, 1][0], results[False, 2][0])


def test_the_same_seed_is_the_same_network():
    first, again, other = (build(DIGITS, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["project.weight"], other["project.weight"])


# -- the digits


def test_digits_are_standardised_sequences_in_reading_order():
    store, published = digits.sequences(), load_digits()
    assert store.x.shape == (1797, 64)
    assert (store.x.dtype, store.y.dtype) == (torch.float32, torch.int64)
    assert store.x.double().mean().abs() < 2e-4
    assert store.x.double().var() == pytest.approx(1, abs=5e-4)
    assert store.y.tolist() == published.target.tolist()
    pixels = published.images.reshape(1797, 64)
    np.testing.assert_allclose(store.x, (pixels - pixels.mean()) / pixels.std(), atol=1e-3)


# -- the heartbeats


@pytest.fixture
def csvs(monkeypatch, tmp_path):
    """A data folder with small CSV files, which pass for the published ones."""
    monkeypatch.setattr(mitbih, "CSVS", {"mitbih_train.csv": (3, 2, 2, 2, 2), "mitbih_test.csv": (2, 1, 1, 1, 1)})
    for name, classes in mitbih.CSVS.items():
        labels = np.repeat(np.arange(5), classes)
        table = np.column_stack([np.random.default_rng(0).random((len(labels), 187)), labels])
        np.savetxt(tmp_path / name, table, delimiter=",")
    return tmp_path


def test_csv_files_alone_do_for_the_reports_split_only(csvs):
    WORKLOAD.check_data("mitbih", csvs)
    for call in (WORKLOAD.check_data, WORKLOAD.splits, WORKLOAD.test_split):
        with pytest.raises(Refused, match="(the CSV files in .*|beats of the CSV files) do not say whose"):
            call("mitbih-interpatient", csvs)


def test_a_missing_file_is_refused_by_check_and_by_splits(tmp_path):
    for dataset in ("mitbih", "mitbih-interpatient"):
        for call in (WORKLOAD.check_data, WORKLOAD.splits, WORKLOAD.test_split):
            with pytest.raises(Refused, match="100.atr is missing; put the WFDB records"):
                call(dataset, tmp_path)
    WORKLOAD.check_data("digits", tmp_path)


@pytest.mark.parametrize(
    ("dataset", "there", "fetched"),
    [
        ("mitbih", "nothing", True),
        ("mitbih", "csvs", False),
        ("mitbih", "records", False),
        ("mitbih-interpatient", "nothing", True),
        ("mitbih-interpatient", "csvs", False),  # beside which they would take a study's own away
        ("mitbih-interpatient", "records", False),
        ("digits", "nothing", False),
    ],
)
def test_only_what_is_not_there_is_fetched(monkeypatch, tmp_path, dataset, there, fetched):
    asked = []
    monkeypatch.setattr(mitbih, "download", asked.append)
    if there == "csvs":
        (tmp_path / "mitbih_train.csv").touch()
    if there == "records":
        mitbih.records_folder(tmp_path).mkdir()
    WORKLOAD.fetch(dataset, tmp_path)
    assert asked == [tmp_path] * fetched


def parts_of(dataset, root):
    splits = WORKLOAD.splits(dataset, root)
    return splits.train, splits.validation, WORKLOAD.test_split(dataset, root)


@pytest.fixture(scope="module")
def beats(real_data):
    return mitbih.load(real_data)


@pytest.mark.data
def test_the_reports_parts_have_the_reports_classes(real_data, beats):
    train, validation, test = parts_of("mitbih", real_data)
    assert WORKLOAD.settings["mitbih"].classes == ("N", "S", "V", "F", "Q")
    of_both = torch.bincount(train.y) + torch.bincount(validation.y)
    assert of_both.tolist() == [641, 2223, 5788, 641, 6431]
    assert int(of_both.sum()) == 15_724
    assert torch.bincount(test.y).tolist() == [161, 556, 1448, 162, 1608]
    shares = torch.bincount(validation.y) / of_both
    assert (shares - 0.1).abs().max() < 0.001, "a tenth of each class validates"
    known = Counter((beat.tobytes(), label) for beat, label in zip(beats.signals, beats.labels.tolist(), strict=True))
    found = Counter(
        (beat.numpy().tobytes(), label)
        for part in (train, validation, test)
        for beat, label in zip(part.x, part.y.tolist(), strict=True)
    )
    assert found <= known, "every beat is in one part at most, as it was cut"


@pytest.mark.data
def test_the_interpatient_parts_hold_the_beats_of_their_records(real_data, beats):
    ds1 = (101, 106, 108, 109, 112, 115, 116, 118, 119, 122, 203, 207, 208, 209, 215, 230)
    ds2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234)
    expected = [
        (ds1, [34_290, 602, 2_956, 379, 8]),
        ((114, 124, 205, 220, 223), [9_921, 213, 634, 34, 0]),
        (ds2, [44_238, 1_836, 3_221, 388, 7]),
    ]
    for part, (records, classes) in zip(parts_of("mitbih-interpatient", real_data), expected, strict=True):
        of_records = np.isin(beats.records, records)
        assert np.array_equal(part.x.numpy(), beats.signals[of_records])
        assert np.array_equal(part.y.numpy(), beats.labels[of_records])
        assert torch.bincount(part.y, minlength=5).tolist() == classes
    assert WORKLOAD.settings["mitbih-interpatient"] == WORKLOAD.settings["mitbih"]


def test_a_search_may_judge_by_the_f1_of_unbalanced_classes(tmp_path):
    options = {"dataset": "digits", "epochs": 1, "train_subset": 100, "home": tmp_path / "home", "executor": INLINE}
    study = tune_sam.search("attention", optimizers=["sam"], trials=2, objective="val/macro_f1", **options)
    first, second = study.complete()
    assert first.value == first.metrics["val/macro_f1"] >= second.metrics["val/macro_f1"]
    assert first.value != first.metrics["val/accuracy"], "by which a search judges that is not told otherwise"
    assert next(iter(WORKLOAD.scores)) == "accuracy"
