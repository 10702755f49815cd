"""What the pages tell a reader to type works as it stands."""

import ast
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import warm
from pages import PAGES, ROOT, anchors, blocks, commands, commands_of_examples, links, write_files
from studies import INLINE
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from typer.main import get_command

import tune_sam
from tune_sam.analysis.landscape import grid
from tune_sam.cli.app import app
from tune_sam.optim import SAM, random_state, second_pass
from tune_sam.settings import SearchOptions
from tune_sam.tuning.door import try_out
from tune_sam.tuning.plan import define, home_of
from tune_sam.workload import find_workload

DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, id=f"{page}: {shlex.join(words)}") for page, words in (*commands(), *commands_of_examples())],
)
def test_a_command_of_a_page_has_the_options_that_it_is_given(words, tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name, *rest = words[: words.index(">")] if ">" in words else words
    get_command(app).commands[name].make_context(name, [word.replace("$seed", "0") for word in rest])


def test_a_link_leads_somewhere_in_the_repository_and_on_the_site():
    found = list(links())
    assert len(found) > 100
    astray = [
        (str(page.relative_to(ROOT)), file.name, anchor)
        for page, file, anchor in found
        if not file.exists() or (anchor and anchor not in anchors(file))
    ]
    assert not astray


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def imports():
    """Each import from our own packages that a page shows."""
    for page in PAGES:
        for block in blocks(page, "python"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith(("tune_sam", "analysis", "trainables")):
                    for name in node.names:
                        yield pytest.param(node.module, name.name, id=f"{page.name}: {node.module} {name.name}")


@pytest.mark.parametrize(("module", "name"), list(imports()))
def test_what_a_page_imports_is_there(module, name):
    assert module.startswith("tune_sam"), "the user's own folders may be called analysis and trainables"
    assert hasattr(import_module(module), name)


@pytest.fixture
def marked():
    """Variables for processes that are killed at the end, whatever has become of their parents."""
    mark = secrets.token_hex(8)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_SAM_"))}
    yield {**kept, "TESTED_BY": mark, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TESTED_BY") == mark:
                process.kill()


@pytest.mark.slow
def test_the_cluster_of_the_page_runs_as_it_is_typed(tmp_path, marked):
    *commands, stop = blocks("cluster.md", "bash")
    assert stop == "ray stop\n", "which would also stop whatever else runs here: these nodes are stopped by their mark"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=tmp_path,
        env=marked,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("versions") == 2, "each node was tried"
    assert "two-nodes/sam/3" in done.stdout


def test_the_hyperparameters_of_the_page_are_received_where_it_says(monkeypatch, tmp_path):
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = re.search(r"^tune-sam search \S+ (--param .*)$", (DOCS / "own-workload.md").read_text(), re.MULTILINE)
    options = SearchOptions.read(
        {"workload": "mlp:WiderSearch", "params": command.group(1).split()[1::2], "home": tmp_path}
    )
    settings = define(options, home_of(options))
    assert [str(domain) for domain in settings.spaces["base"].more.values()] == ["32,64", "0", "0.0001:0.001"]
    assert set(settings.spaces["sam"].more) == {"hidden", "label_smoothing", "slope", "weight_decay"}
    try_out(find_workload(options.workload), settings, tmp_path)


@pytest.mark.slow
def test_the_smallest_workload_of_the_page_is_searched_as_it_stands(monkeypatch, tmp_path):
    before, call, *_ = blocks("own-workload.md", "python")
    monkeypatch.setenv("TUNE_SAM_HOME", str(tmp_path))
    monkeypatch.setattr(tune_sam, "search", partial(tune_sam.search, executor=INLINE))
    monkeypatch.setattr(sys.modules["__main__"], "Wine", None, raising=False)
    names = {"__name__": "__main__"}
    exec(compile(before, "notebook", "exec"), names)
    sys.modules["__main__"].Wine = names["Wine"]
    exec(compile(call, "notebook", "exec"), names)
    assert [trial.state for trial in names["study"].records()].count("failed") == 0


def pytest_of(file):
    raise SystemExit(pytest.main(["-q", file]))


@pytest.mark.slow
def test_the_workload_of_the_page_keeps_the_contract_and_can_be_searched(tmp_path):
    *_, contract = blocks("own-workload.md", "python")
    write_files(tmp_path)
    (tmp_path / "test_mlp.py").write_text(contract)
    tested = warm.Command(pytest_of, "test_mlp.py", cwd=tmp_path)
    said, _ = tested.communicate()
    assert tested.returncode == 0, said
    assert " passed" in said
    line = re.search(r"^tune-sam search .*$", (DOCS / "own-workload.md").read_text(), re.MULTILINE).group()
    variables = {**os.environ, "TUNE_SAM_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path)}
    searched = warm.command(*line.split()[1:], "--json", env=variables, cwd=tmp_path)
    out, err = searched.communicate()
    assert searched.returncode == 0, err
    best = json.loads(out)
    assert set(best) == {"base", "sam", "asam"}
    assert all(trial["value"] > 0.9 for trial in best.values())


def snippets():
    """The code that each docstring of ours shows, block by block."""
    for folder in ("tune_sam", "analysis", "trainables"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    found = re.findall(r"::\n\n((?:    .*\n|\n)+)", (ast.get_docstring(node) or "") + "\n")
                    if found:
                        what = f"{name}.{node.name}" if hasattr(node, "name") else name
                        yield pytest.param(name, [dedent(block) for block in found], id=what)


@pytest.fixture
def surroundings():
    """What the code in docstrings takes for granted: a model, a batch, and a process group of one for DDP."""
    torch.manual_seed(0)
    model, twin = (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(2))
    x, y, criterion = torch.randn(8, 4), torch.randint(3, (8,)), nn.functional.cross_entropy
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield {
        "Any": Any,
        "Tensor": torch.Tensor,
        "random_state": random_state,
        "second_pass": second_pass,
        "torch": torch,
        "np": np,
        "partial": partial,
        "clip_grad_norm_": nn.utils.clip_grad_norm_,
        "model": model,
        "base_model": model,
        "sam_model": twin,
        "ddp": DistributedDataParallel(model),
        "optimizer": SAM(model.parameters(), torch.optim.SGD, 0.05, lr=0.1),
        "scaler": torch.amp.GradScaler("cpu"),
        "device": "cpu",
        "x": x,
        "y": y,
        "m": 4,
        "batch_size": 8,
        "batch": (x, y),
        "batches": [(x, y)],
        "criterion": criterion,
        "loss_fn": criterion,
        "loss_of": lambda batch: criterion(model(batch[0]), batch[1]),
        "grid": partial(grid, steps=3),
    }
    distributed.destroy_process_group()


@pytest.mark.parametrize(("module", "code"), list(snippets()))
def test_the_code_of_a_docstring_runs_as_it_stands(module, code, surroundings):
    before = [parameter.detach().clone() for parameter in surroundings["model"].parameters()]
    place = f"tune_sam.{module}" if module.startswith(("analysis", "trainables")) else module
    names = {**vars(import_module(place)), **surroundings}
    for block in code:
        exec(compile(block, place, "exec"), names)
    moved = any(not torch.equal(*pair) for pair in zip(before, surroundings["model"].parameters(), strict=True))
    assert moved == any("optimizer" in block for block in code)


def test_each_test_that_the_page_of_faults_names_is_there():
    named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", (DOCS / "reliability.md").read_text())
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text() if test else (ROOT / file).exists(), (file, test)


@pytest.mark.slow
def test_the_model_of_ones_own_on_the_first_page_is_searched(monkeypatch, tmp_path):
    write_files(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TUNE_SAM_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tune_sam, "search", partial(tune_sam.search, executor=INLINE))
    (lines,) = blocks("../README.md", "python")
    names = {}
    exec(compile(lines.replace("trials=12", "trials=1"), "README.md", "exec"), names)
    assert [trial.state for trial in names["study"].records()] == ["complete"] * 3


def test_the_optimizers_of_their_page_are_built():
    for code in blocks("optimizers.md", "python"):
        exec(compile(code, "optimizers.md", "exec"), {"__name__": "half"})


def test_what_the_page_of_python_lists_is_where_it_says():
    said, _, listed = (DOCS / "api.md").read_text().partition("## Studies")
    own, _, others = said.partition("names of `tune_sam`.")
    places = [tune_sam, *map(import_module, re.findall(r"`(tune_sam\.[\w.]+)`", others))]
    names = [path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", listed, re.MULTILINE)]
    assert len(names) > 40
    assert not [name for name in re.findall(r"`(\w+)`", own) if not hasattr(tune_sam, name)]
    assert not [name for name in names if not any(hasattr(place, name) for place in places)]
    told = [name for name in names if not hasattr(tune_sam, name)]
    assert not [name for name in told if f"`{name}`" not in others and not hasattr(tune_sam.optim, name)]
