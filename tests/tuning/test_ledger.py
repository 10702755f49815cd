import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from ray.tune.search import Searcher

from tune_sam.config import TrialConfig
from tune_sam.home import Home
from tune_sam.space import Choice, Configuration, LogRange, Space, grid
from tune_sam.study.epochs import epochs_in
from tune_sam.study.records import Study
from tune_sam.study.settings import OUT_OF_MEMORY, StudySettings
from tune_sam.study.spent import Spent
from tune_sam.study.storage import open_storage
from tune_sam.tuning.callback import TuneSearcher
from tune_sam.tuning.ledger import OWN, Ledger, Outcome
from tune_sam.tuning.meter import Meter
from tune_sam.tuning.plan import store
from tune_sam.tuning.strategies import BRACKETS
from tune_sam.workload import find_workload

GP = pytest.param("gp", marks=pytest.mark.slow)
"""A Gaussian process is fitted anew for each suggestion."""

SPACE = Space(LogRange(0.001, 1.0), LogRange(1e-4, 1e-1), (32, 64, 128), grid((0.002, 0.02, 0.2, 0.9), (0.01,), (64,)))


def settings(trials=8, space=SPACE, scheduler="none", seed=0, **limits):
    return StudySettings(
        workload="gcn",
        dataset="digits",
        data=".",
        optimizers=("sam",),
        trials=trials,
        epochs=10,
        seed=seed,
        scheduler=scheduler,
        spaces={"sam": space},
        **limits,
    )


def meter():
    return Meter(settings(), Spent(), None)


@pytest.fixture
def storage(tmp_path):
    found = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    optuna.create_study(storage=found, study_name="s/sam", direction="maximize")
    return found


def ledger(storage, chosen=None):
    """A ledger as a new process would open it."""
    return Ledger(storage, "s", "sam", chosen or settings())


def study():
    return Study("s", Home(Path("/home")), settings(), "", "", "1", "1234567890", "/results")


def judged(value):
    """The metrics of an epoch, whichever of them a study is judged by."""
    return {"val/accuracy": value, "val/loss": value, "val/sharpness": value}


def outcome(state, value=None, epochs=10):
    metrics = {} if value is None else {"val/accuracy": value}
    return Outcome(state, "" if state == "complete" else "why", epochs, metrics, 1.0, "node", 1)


def run(book, value=0.5):
    asked = book.suggest("t")
    book.end(asked.number, outcome("complete", value))
    return asked


def frozen(storage):
    return optuna.load_study(study_name="s/sam", storage=storage).get_trials()


def test_the_grid_alone_is_its_points(storage):
    book = ledger(storage, replace(settings(trials=20), sampler="grid"))
    assert book.open == 4
    assert [run(book).configuration.rho for _ in range(4)] == [0.002, 0.02, 0.2, 0.9]
    assert book.suggest("t") is None
    assert ledger(storage, replace(settings(trials=20), sampler="grid")).open == 0
    assert replace(settings(trials=3), sampler="grid").trials_of("sam") == 3


def test_the_grid_comes_first_and_the_budget_is_met(storage):
    book = ledger(storage)
    asked = [run(book) for _ in range(8)]
    assert book.suggest("t") is None
    assert book.open == 0
    assert [a.configuration.rho for a in asked[:4]] == [0.002, 0.02, 0.2, 0.9]
    assert {(a.configuration.lr, a.configuration.batch_size) for a in asked[:4]} == {(0.01, 64)}
    assert [a.number for a in asked] == list(range(8))
    assert [a.configuration.seed for a in asked] == list(range(8))
    for a in asked[4:]:
        assert a.configuration.rho in SPACE.rho
        assert a.configuration.lr in SPACE.lr
        assert a.configuration.batch_size in SPACE.batch_size


def test_a_budget_below_the_grid_takes_its_first_points(storage):
    book = ledger(storage, settings(trials=2))
    assert [run(book).configuration.rho for _ in range(2)] == [0.002, 0.02]
    assert book.suggest("t") is None
    assert [t.state.name for t in frozen(storage)] == ["COMPLETE", "COMPLETE"]


def test_a_persons_own_points_come_before_grid_points_that_wait(storage):
    book = ledger(storage)
    run(book)
    for rho in (0.3, 0.4):
        point = {"rho": rho, "lr": 0.01, "batch_size": 64}
        optuna.load_study(study_name="s/sam", storage=storage).enqueue_trial(point, user_attrs={OWN: True})
    assert [run(book).configuration.rho for _ in range(2)] == [0.3, 0.4]
    resumed = ledger(storage)
    assert [run(resumed).configuration.rho for _ in range(3)] == [0.02, 0.2, 0.9]
    assert resumed.open == 2


def test_base_has_no_radius(storage):
    space = Space(None, SPACE.lr, SPACE.batch_size, grid((), (0.01,), (64,)))
    book = ledger(storage, settings(space=space))
    assert [run(book).configuration.rho for _ in range(3)] == [None] * 3


@pytest.mark.parametrize(
    ("state", "optuna_state"),
    [("complete", "COMPLETE"), ("pruned", "PRUNED"), ("diverged", "PRUNED"), ("failed", "FAIL")],
)
def test_each_ending_is_told_as_what_it_is(storage, state, optuna_state):
    book = ledger(storage)
    asked = book.suggest("tune-1")
    book.report(asked.number, 1, judged(0.3))
    book.report(asked.number, 2, judged(0.4))
    value = 0.7 if state == "complete" else 0.4
    book.end(asked.number, outcome(state, value, epochs=2))
    told = frozen(storage)[0]
    assert told.state.name == optuna_state
    assert told.user_attrs["state"] == state
    assert told.user_attrs["key"] == "s/sam/0"
    assert told.user_attrs["tune_trial_id"] == "tune-1"
    assert told.value == {"complete": 0.7, "pruned": 0.4, "diverged": 0.4, "failed": None}[state]
    assert told.last_step == 2
    assert told.user_attrs["record"]["epochs"] == 2


def test_a_trial_that_diverges_in_its_first_epoch_is_told(storage):
    book = ledger(storage)
    asked = book.suggest("t")
    book.end(asked.number, outcome("diverged", epochs=1))
    assert frozen(storage)[0].state.name == "PRUNED"
    assert frozen(storage)[0].user_attrs["state"] == "diverged"


def test_the_sampler_leaves_a_region_that_diverges():
    """The best ρ lies just below the edge past which every training diverges."""
    shares = []
    for seed in range(3):
        storage = optuna.storages.RDBStorage("sqlite://")  # in memory
        optuna.create_study(storage=storage, study_name="s/sam", direction="maximize")
        book = ledger(storage, settings(trials=60, seed=seed))
        diverged = []
        for _ in range(60):
            asked = book.suggest("t")
            rho = asked.configuration.rho
            diverged.append(rho > 0.1)
            value = 1 - abs(math.log10(rho / 0.09)) / 3
            book.end(asked.number, outcome("diverged", epochs=1) if rho > 0.1 else outcome("complete", value))
        shares.append(sum(diverged[20:]) / 40)
    assert max(shares) < 0.5, shares


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["diverged", "memory", "stopped"])
def test_a_gaussian_process_leaves_a_region_where_no_trial_is_complete(ending):
    """What was reported before the end looks better there than anywhere else."""
    storage = optuna.storages.RDBStorage("sqlite://")
    optuna.create_study(storage=storage, study_name="s/sam", direction="maximize")
    book = ledger(storage, replace(settings(trials=20), sampler="gp"))
    ended = {
        "diverged": outcome("diverged", epochs=1),
        "memory": replace(outcome("failed", epochs=1), reason=OUT_OF_MEMORY),
        "stopped": outcome("pruned", 0.99, epochs=1),
    }[ending]
    there = []
    for _ in range(20):
        asked = book.suggest("t")
        rho = asked.configuration.rho
        there.append(rho > 0.1)
        if ending != "memory" and rho > 0.1:
            book.report(asked.number, 1, judged(0.99))
        value = 1 - abs(math.log10(rho / 0.09)) / 3
        book.end(asked.number, ended if rho > 0.1 else outcome("complete", value))
    assert sum(there[12:]) < 4, there


@pytest.mark.parametrize("sampler", [GP, "cmaes"])
def test_a_sampler_knows_the_trials_of_all_brackets(sampler):
    """Where Hyperband stops none, what is suggested is the same as without it."""
    found = []
    for scheduler in ("none", "hyperband"):
        storage = optuna.storages.RDBStorage("sqlite://")
        optuna.create_study(storage=storage, study_name="s/sam", direction="maximize")
        book = ledger(storage, replace(settings(trials=14, scheduler=scheduler), sampler=sampler))
        configurations = []
        for number in range(14):
            asked = book.suggest("t")
            assert not book.report(asked.number, 1, judged(0.5))  # with the first report, Hyperband has brackets
            configurations.append(asked.configuration)
            book.end(asked.number, outcome("complete", 1 - number / 100))
        found.append(configurations)
    assert found[0] == found[1]


def test_halving_stops_the_worse_half_at_each_rung_and_never_at_the_end(storage):
    book = ledger(storage, settings(trials=4, scheduler="asha"))
    one, two = book.suggest("a"), book.suggest("b")
    stops = {}
    for asked, value in ((one, 0.8), (two, 0.5)):
        stops[asked.number] = [book.report(asked.number, epoch, judged(value)) for epoch in range(1, 5)]
    # 10 epochs: the rate falls after 3, so the first rung is 4.
    assert stops[0] == [False, False, False, False]
    assert stops[1] == [False, False, False, True]
    assert not book.report(one.number, 10, judged(0.0)), "a trial that reached its epochs is complete"


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_weak_trials_are_stopped_and_a_resumed_search_stops_the_same(storage, scheduler):
    """Told of in turn by one driver and by another, of eight trials the good ones end and weak ones do not."""
    stopped = {}
    for number in range(8):
        book = ledger(storage, settings(trials=8, scheduler=scheduler))
        asked, value = book.suggest("t"), 0.9 - 0.05 * number
        stops = []
        while len(stops) < 10 and not any(stops):
            book = ledger(storage, settings(trials=8, scheduler=scheduler)) if len(stops) == 2 else book
            asked = book.suggest("t") if len(stops) == 2 else asked
            stops.append(book.report(asked.number, len(stops) + 1, judged(value)))
        stopped[asked.number] = any(stops)
        book.end(asked.number, outcome("pruned", epochs=len(stops)) if any(stops) else outcome("complete", value))
    assert not stopped[0], "the best one ends"
    assert sum(stopped.values()) >= 2, stopped


def test_rungs_outlive_the_driver(storage):
    first = ledger(storage, settings(trials=4, scheduler="asha"))
    asked = first.suggest("a")
    assert not first.report(asked.number, 4, judged(0.9))
    first.end(asked.number, outcome("complete", 0.9))
    second = ledger(storage, settings(trials=4, scheduler="asha"))
    asked = second.suggest("b")
    assert second.report(asked.number, 4, judged(0.5))


def test_a_decision_to_stop_outlives_an_interrupt(storage):
    first = ledger(storage, settings(trials=4, scheduler="asha"))
    one, two = first.suggest("a"), first.suggest("b")
    assert not first.report(one.number, 4, judged(0.9))
    assert first.report(two.number, 4, judged(0.5))
    second = ledger(storage, settings(trials=4, scheduler="asha"))
    second.suggest("c")
    again = second.suggest("d")
    assert again.number == two.number
    assert [second.report(again.number, epoch, judged(0.5)) for epoch in (3, 4)] == [False, True]


def test_what_was_interrupted_goes_on_first_under_its_number_from_its_checkpoint(storage):
    first = ledger(storage)
    one, two = first.suggest("a"), first.suggest("b")
    first.report(one.number, 1, judged(0.5))
    dropped = [first.note_checkpoint(one.number, place) for place in ("/one", "/two", "/two", "/three")]
    assert dropped == [(), (), (), ("/one",)]
    # The process is gone here: nothing was told.
    second = ledger(storage)
    again = second.suggest("c"), second.suggest("d")
    assert [a.number for a in again] == [one.number, two.number]
    assert [a.configuration for a in again] == [one.configuration, two.configuration]
    assert [a.attempt for a in again] == [2, 2]
    assert [a.resume_from for a in again] == [("/three", "/two"), ()]
    assert [second.reached(a.number) for a in again] == [judged(0.5), {}]
    for a in again:
        second.end(a.number, outcome("complete", 0.5))
    while second.open:
        run(second)
    states = Counter(t.state.name for t in frozen(storage))
    assert states == {"COMPLETE": 8}


@pytest.mark.parametrize("reason", ["why", OUT_OF_MEMORY])
def test_what_failed_is_tried_again_where_its_seed_is_asked_for(storage, reason):
    chosen = settings(space=replace(SPACE, grid=tuple({**point, "seed": 7} for point in SPACE.grid)))
    first = ledger(storage, chosen)
    asked = first.suggest("a")
    first.report(asked.number, 1, judged(0.5))
    first.note_checkpoint(asked.number, "/one")
    first.end(asked.number, replace(outcome("failed"), reason=reason))
    diverged = first.suggest("b").number
    first.end(diverged, outcome("diverged"))
    left = first.open

    other = ledger(storage, chosen)
    other.try_again({8})
    assert (other.open, other.waits) == (left, False)

    second = ledger(storage, chosen)
    second.try_again({7})
    assert (second.open, second.waits) == (left + 1, True)
    assert frozen(storage)[asked.number].user_attrs["record"]["reason"] == reason, "until it ends"
    again = second.suggest("d")
    assert (again.number, again.configuration, again.attempt) == (asked.number, asked.configuration, 2)
    assert again.resume_from == ("/one",)
    assert second.open == left + 1

    third = ledger(storage, chosen)  # the second was killed here
    assert third.suggest("e").number == asked.number
    third.end(asked.number, outcome("complete", 0.7))
    kept = frozen(storage)[asked.number]
    assert (kept.state.name, kept.values, kept.user_attrs["state"]) == ("COMPLETE", [0.7], "complete")
    assert not any(kept.constraints.values())
    assert frozen(storage)[diverged].state.name == "PRUNED"
    third.try_again({7})
    assert third.open == left


def test_what_was_interrupted_keeps_its_further_hyperparameters(storage):
    more = {"weight_decay": LogRange(1e-5, 1e-2), "activation": Choice("relu", "tanh"), "bias": Choice(True, False)}
    chosen = settings(space=replace(SPACE, grid=(), more=more))
    asked = ledger(storage, chosen).suggest("t")
    assert asked.configuration.more.keys() == more.keys()
    assert all(asked.configuration.more[name] in domain for name, domain in more.items())
    assert ledger(storage, chosen).suggest("t").configuration == asked.configuration


def test_an_epoch_that_is_trained_again_is_kept_once(storage, recwarn):
    first = ledger(storage)
    asked = first.suggest("a")
    first.report(asked.number, 1, judged(0.5))
    first.report(asked.number, 2, judged(0.6))
    second = ledger(storage)
    again = second.suggest("b")
    for epoch, value in ((2, 0.65), (3, 0.7)):
        second.report(again.number, epoch, judged(value))
    assert frozen(storage)[0].intermediate_values == {1: 0.5, 2: 0.6, 3: 0.7}
    kept = epochs_in(frozen(storage)[0].user_attrs)
    assert {number: epoch.metrics for number, epoch in kept.items()} == {1: judged(0.5), 2: judged(0.6), 3: judged(0.7)}
    assert kept[1].time <= kept[2].time <= kept[3].time
    assert not [w for w in recwarn if "already reported" in str(w.message)]


def test_a_trial_that_was_to_stop_is_told_so_when_it_is_asked_for_again(storage, monkeypatch):
    first = ledger(storage)
    asked = first.suggest("a")
    assert asked.stop_after is None
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "should_prune", lambda _: True)
        assert first.report(asked.number, 2, judged(0.5))
    first.note_checkpoint(asked.number, "/two")  # killed before it ended
    second = ledger(storage)
    assert second.suggest("b").stop_after == 2
    assert second.report(asked.number, 2, judged(0.5))


@pytest.mark.slow
def test_a_trial_keeps_its_bracket_under_another_name_of_the_study(tmp_path):
    """Hyperband's brackets look at different epochs, whose values are in the records."""
    found = {}
    for name, kept in (("s", None), ("t", "s/sam"), ("u", None)):
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / name}.db")
        study = optuna.create_study(storage=storage, study_name=f"{name}/sam", direction="maximize")
        if kept:
            study.set_user_attr(BRACKETS, kept)
        book = Ledger(
            storage,
            name,
            "sam",
            replace(
                settings(trials=20, space=replace(SPACE, grid=())), scheduler="hyperband", sampler="random", epochs=40
            ),
        )
        stopped = []
        for number in range(20):
            asked = book.suggest("t")
            last = next(
                (epoch for epoch in range(1, 41) if book.report(number, epoch, judged(number % 7 + epoch / 100))), 40
            )
            stopped.append(last)
            book.end(asked.number, outcome("complete" if last == 40 else "pruned", 0.5, last))
        found[name] = stopped
    assert found["t"] == found["s"] != found["u"]


@pytest.mark.parametrize("state", ["complete", "pruned", "diverged", "failed"])
def test_a_driver_that_died_between_record_and_state_leaves_no_zombie(storage, state, monkeypatch):
    first = ledger(storage)
    asked = first.suggest("a")
    with monkeypatch.context() as patch:
        patch.setattr("tune_sam.tuning.ledger._close", lambda *_: None)
        first.end(asked.number, outcome(state, 0.7))
    assert frozen(storage)[0].state.name == "RUNNING"
    second = ledger(storage)
    assert frozen(storage)[0].state.is_finished()
    assert second.suggest("b").number == 1


def test_a_driver_that_died_while_it_asked_leaves_a_trial_that_is_asked_again(storage):
    study = optuna.load_study(study_name="s/sam", storage=storage)
    study.ask()  # killed before anything was suggested
    book = ledger(storage)
    asked = book.suggest("a")
    assert asked.number == 0
    assert asked.configuration.rho in SPACE.rho


@pytest.mark.parametrize("sampler", ["tpe", GP, "cmaes", "qmc", "random"])
def test_suggestions_do_not_depend_on_interruptions(tmp_path, sampler):
    """One trial at a time: the straight and the interrupted search ask for the same configurations."""
    found = []
    for interrupt in (False, True):
        storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / f'{interrupt}.db'}")
        optuna.create_study(storage=storage, study_name="s/sam", direction="maximize")
        book = ledger(storage, replace(settings(trials=12), sampler=sampler))
        configurations = []
        for number in range(12):
            asked = book.suggest("t")
            if interrupt and number % 3 == 1:
                book = ledger(storage, replace(settings(trials=12), sampler=sampler))
                asked = book.suggest("t")
            configurations.append(asked.configuration)
            book.end(asked.number, outcome("complete", 1 / (1 + abs(math.log(asked.configuration.rho / 0.05)))))
        found.append(configurations)
    assert found[0] == found[1]
    assert len(set(found[0])) == 12


def test_a_finished_study_grows_without_repeating_the_grid(storage):
    book = ledger(storage)
    for _ in range(8):
        run(book)
    grown = ledger(storage, settings(trials=11))
    assert grown.open == 3
    more = [run(grown) for _ in range(3)]
    assert grown.suggest("t") is None
    assert not {0.002, 0.02, 0.2, 0.9} & {a.configuration.rho for a in more}
    assert len(frozen(storage)) == 11


def test_tune_is_given_the_configuration_and_then_the_end(storage):
    book = ledger(storage, settings(trials=1))
    adapter = TuneSearcher({"sam": book}, study(), meter())
    config = adapter.suggest("tune-7")
    assert TrialConfig.from_tune(config, find_workload("gcn")) == settings().trial(
        Configuration("sam", 0.002, 0.01, 64, 0), number=0, attempt=1, log=study().log_place("sam", 0)
    )
    assert adapter.suggest("tune-8") is None, "what runs may come back"
    book.end(0, outcome("complete", 0.7))
    assert adapter.suggest("tune-9") == Searcher.FINISHED


@pytest.mark.parametrize("limits", [{"epoch_budget": 5}, {"time_budget": 60.0}])
def test_where_a_budget_is_spent_no_trial_is_begun_and_those_that_run_are_waited_for(storage, limits):
    book, spent = ledger(storage), Spent()
    adapter = TuneSearcher({"sam": book}, study(), Meter(settings(**limits), spent, lambda seconds: None))
    assert isinstance(adapter.suggest("t"), dict)
    spent.seconds, spent.epochs = 60.0, {("sam", 0): 2, ("asam", 7): 3}
    assert adapter.suggest("t") is None
    book.suspend(0)
    assert adapter.suggest("t") == Searcher.FINISHED
    assert ledger(storage).open == 8, "all that it lacks goes on in the next launch"


def test_the_optimizers_of_a_study_share_the_workers_and_take_turns(storage):
    optuna.create_study(storage=storage, study_name="s/asam", direction="maximize")
    two = replace(settings(trials=2), optimizers=("sam", "asam"), spaces={"sam": SPACE, "asam": SPACE})
    books = {optimizer: Ledger(storage, "s", optimizer, two) for optimizer in two.optimizers}
    adapter = TuneSearcher(books, study(), meter())

    def suggested(optimizer, number):
        return TrialConfig.identity(adapter.suggest("t")) == (optimizer, number)

    assert suggested("sam", 0)
    assert suggested("asam", 0), "they take turns"
    assert suggested("sam", 1), "although trials of both are running"
    books["sam"].suspend(1)
    assert suggested("sam", 1), "what was interrupted comes first"
    assert suggested("asam", 1)
    for optimizer in two.optimizers:
        for number in (0, 1):
            assert adapter.suggest("t") is None, "what runs may come back"
            books[optimizer].end(number, outcome("complete", 0.7))
    assert adapter.suggest("t") == Searcher.FINISHED


def test_what_was_put_back_is_asked_for_next_with_its_larger_share(storage):
    book = ledger(storage, settings(trials=3))
    adapter = TuneSearcher({"sam": book}, study(), meter(), {"sam": {64: 0.25}})
    first, second = adapter.suggest("a"), adapter.suggest("b")
    assert first["gpus_per_trial"] == 0.25
    book.report(0, 1, judged(0.5))
    book.note_checkpoint(0, "sam/0000.1/c1")
    assert not book.enlarged(0)
    book.suspend(0, gpus=0.5)
    again = adapter.suggest("c")
    assert again == {
        **first,
        "attempt": 2,
        "resume_from": ("/results/s/ray-12345678/sam/0000.1/c1",),
        "gpus_per_trial": 0.5,
    }
    assert book.enlarged(0)
    book.suspend(1)
    assert adapter.suggest("d") == {**second, "attempt": 2}
    for number in (0, 1):
        book.end(number, outcome("complete", 0.7))
    assert adapter.suggest("e")["number"] == 2
    assert frozen(storage)[0].intermediate_values == {1: 0.5}


def test_too_little_memory_is_told_as_infeasible(storage):
    book = ledger(storage)
    book.end(book.suggest("a").number, replace(outcome("failed"), reason=OUT_OF_MEMORY))
    told = frozen(storage)[0]
    assert told.state.name == "PRUNED"
    assert told.constraints == {"memory": 1.0}
    assert told.user_attrs["state"] == "failed"


def test_the_sampler_leaves_a_batch_size_that_does_not_fit():
    """The largest batches are the best, as far as they fit."""
    tried = []
    for seed in range(3):
        storage = optuna.storages.RDBStorage("sqlite://")  # in memory
        optuna.create_study(storage=storage, study_name="s/sam", direction="maximize")
        book, sizes = ledger(storage, settings(trials=40, seed=seed)), []
        for _ in range(40):
            asked = book.suggest("t")
            sizes.append(size := asked.configuration.batch_size)
            book.end(
                asked.number,
                outcome("complete", size / 128) if size < 128 else replace(outcome("failed"), reason=OUT_OF_MEMORY),
            )
        tried.append(sizes[20:].count(128) / 20)
    assert max(tried) < 0.3, tried


def test_other_seeds_and_optimizers_draw_other_points(storage, tmp_path):
    other = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'other.db'}")
    optuna.create_study(storage=other, study_name="s/sam", direction="maximize")
    bare = replace(SPACE, grid=())
    one = run(ledger(storage, settings(space=bare, seed=0))).configuration
    two = run(ledger(other, settings(space=bare, seed=1))).configuration
    assert (one.rho, one.lr) != (two.rho, two.lr)


TWO = replace(settings(trials=14), objective="two")


@pytest.fixture
def of_two(tmp_path):
    found = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'two.db'}")
    optuna.create_study(storage=found, study_name="s/sam", directions=list(TWO.directions.values()))
    return found


def two(accuracy, sharpness):
    return Outcome("complete", "", 10, {"val/accuracy": accuracy, "val/sharpness": sharpness}, 1.0, "node", 1)


@pytest.mark.slow
def test_two_objectives_are_both_told_and_none_stops_a_trial(of_two):
    book = ledger(of_two, TWO)
    for number in range(14):
        asked = book.suggest("t")
        assert not any(book.report(asked.number, epoch, judged(0.1)) for epoch in range(1, 11))
        ended = outcome("diverged") if number == 5 else two(0.5 + 0.01 * number, 0.2 * number)
        book.end(asked.number, ended)
    told = frozen(of_two)
    assert told[3].values == [0.53, pytest.approx(0.6)]
    assert (told[5].state.name, told[5].user_attrs["state"]) == ("PRUNED", "diverged")
    assert book.open == 0


def test_an_interrupted_trial_of_two_objectives_goes_on_where_it_was(of_two):
    book = ledger(of_two, TWO)
    number = book.suggest("t").number
    book.report(number, 7, judged(0.1))
    again = ledger(of_two, TWO)
    asked = again.suggest("u")
    assert (asked.number, asked.attempt, again.reported(number)) == (number, 2, 7)


@pytest.mark.slow
def test_of_two_objectives_the_sampler_uses_both(of_two):
    """Where accuracy is level and a small ρ is flat, it goes to small ρ."""
    chosen = replace(TWO, trials=40, spaces={"sam": replace(SPACE, grid=())})
    book, rhos = ledger(of_two, chosen), []
    while asked := book.suggest("t"):
        rhos.append(asked.configuration.rho)
        book.end(asked.number, two(0.5, asked.configuration.rho))
    assert sum(math.log(rho) for rho in rhos[20:]) / 20 < sum(math.log(rho) for rho in rhos[:8]) / 8 - 1


def test_a_lower_loss_is_kept_at_a_rung(tmp_path):
    chosen = replace(settings(trials=6, scheduler="asha"), objective="val/loss")
    study = Study("s", Home(tmp_path), chosen, "now", "", "", "", "")
    store(study)
    book, stopped = Ledger(open_storage(study.home), "s", "sam", chosen), {}
    for loss in (0.5, 0.9, 0.4, 0.8, 0.3, 0.7):
        asked = book.suggest("t")
        stopped[loss] = any(book.report(asked.number, epoch, judged(loss)) for epoch in range(1, 10))
        ending = "pruned" if stopped[loss] else "complete"
        book.end(asked.number, Outcome(ending, "", 10, {"val/loss": loss}, 1.0, "node", 1))
    assert {loss for loss, stop in stopped.items() if not stop} == {0.5, 0.4, 0.3}
    assert book._optuna.best_value == 0.3
