"""MLflow gets everything that the ledger has, once and in order, whatever dies on the way."""

import logging
import os
import sqlite3
import threading
from contextlib import closing

import mlflow
import pytest
from mlflow_places import KEYS, PATIENCE, Book, answering, assert_once, history, own_run, runs_of, silent
from services import mlflow_server, wait_for

from tune_sam.errors import Refused
from tune_sam.tracking.client import check, log_batch
from tune_sam.tracking.content import StudyContent
from tune_sam.tracking.delivery import ATTEMPTS, Delivery
from tune_sam.tracking.runs import open_study_run

pytestmark = pytest.mark.usefixtures("impatient")


def started(uri, study, book, on_run=None, **options):
    delivery = Delivery(uri, study, book, on_run, **options)
    delivery.start()
    return delivery


def delivered(uri, study, book, on_run=None, **options):
    """How many trials are left after a delivery."""
    return started(uri, study, book, on_run, **options).close(PATIENCE)


# ------------------------------------------------------------------------------------------------- what arrives


def test_everything_arrives_once_and_in_order(uri, study):
    noted, book = [], Book().whole_trials(30)
    book.status = "FINISHED"
    assert delivered(uri, study, book, lambda key, run_id: noted.append((key, run_id))) == 0
    runs = runs_of(uri, study)
    assert sorted(runs) == sorted(KEYS)
    for key, run in runs.items():
        assert_once(uri, study, key, 30)
        assert run.data.params == {"rho": "0.05", "lr": "0.1"}
        assert run.data.tags["tune_sam.optimizer"] == "sam"
        assert run.data.tags["tune_sam.state"] == "complete"
        assert run.data.tags["mlflow.user"]
        assert run.info.run_name == key.rpartition("/")[0]
        assert (run.info.status, run.info.start_time, run.info.end_time) == ("FINISHED", 1000, 9000)
    assert sorted(noted) == sorted((key, run.info.run_id) for key, run in runs.items())
    assert mlflow.MlflowClient(uri).get_run(study.run_id).info.status == "FINISHED"


def test_what_the_ledger_gets_meanwhile_arrives_without_a_word(uri, study):
    book = Book()
    delivery = started(uri, study, book)
    book.start(KEYS[0])
    wait_for(lambda: KEYS[0] in runs_of(uri, study), "the run is there")
    assert runs_of(uri, study)[KEYS[0]].info.status == "RUNNING"
    for step in (1, 2, 3):
        book.log(KEYS[0], step)
        wait_for(lambda step=step: len(history(uri, study, KEYS[0], "val/loss")) == step, "the epoch is there")
    book.end(KEYS[0])
    assert delivery.close(PATIENCE) == 0
    assert runs_of(uri, study)[KEYS[0]].info.status == "FINISHED"
    assert_once(uri, study, KEYS[0], 3)


def test_a_trial_that_goes_on_in_another_process_keeps_its_run(uri, study):
    book, noted = Book(), []
    book.start(KEYS[0])
    for first, last in ((1, 5), (6, 10)):
        for step in range(first, last + 1):
            book.log(KEYS[0], step)
        assert delivered(uri, study, book, lambda key, run_id: noted.append(run_id)) == 0
        assert runs_of(uri, study)[KEYS[0]].info.status == "RUNNING"
    assert_once(uri, study, KEYS[0], 10)
    assert set(noted) == {runs_of(uri, study)[KEYS[0]].info.run_id}


def test_a_run_that_was_closed_by_hand_is_as_the_ledger_says(uri, study):
    book = Book().whole_trials(2, KEYS[:1])
    assert delivered(uri, study, book) == 0
    run = runs_of(uri, study)[KEYS[0]]
    mlflow.MlflowClient(uri).set_terminated(run.info.run_id, "KILLED")
    mlflow.MlflowClient(uri).delete_tag(run.info.run_id, "tune_sam.state")
    assert delivered(uri, study, book) == 0
    again = runs_of(uri, study)[KEYS[0]]
    assert (again.info.status, again.data.tags["tune_sam.state"]) == ("FINISHED", "complete")
    assert_once(uri, study, KEYS[0], 2)


def test_more_metrics_than_mlflow_takes_at_once(uri, study):
    book = Book()
    book.start(KEYS[0])
    for step in range(1, 4):
        book.log(KEYS[0], step, {f"m{i}": float(i) for i in range(900)})
    assert delivered(uri, study, book) == 0
    for name in ("m0", "m899"):
        assert history(uri, study, KEYS[0], name) == [(step, float(name[1:])) for step in (1, 2, 3)]


def test_a_trial_whose_run_is_made_in_the_last_moment_is_not_counted_as_left(uri, study):
    book, ended, before = Book(), threading.Event(), [StudyContent(own_run("RUNNING"), ())]

    def read():
        ended.wait()
        return before.pop() if before else book()

    delivery = Delivery(uri, study, read, book.note)
    delivery.start()
    book.whole_trials(2)
    threading.Timer(0.2, ended.set).start()  # `close` has been called by then
    assert delivery.close(PATIENCE) == 0
    assert all(trial.run_id for trial in book().trials)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_a_driver_killed_between_two_requests_has_not_sent_arrives(uri, study, monkeypatch):
    book, sent = Book(), []
    book.start(KEYS[0])
    book.log(KEYS[0], 1, {f"m{i}": float(i) for i in range(1000)})

    def killed(*given):
        if sent:
            raise SystemExit
        sent.append(given)
        log_batch(*given)

    with monkeypatch.context() as patch:
        patch.setattr("tune_sam.tracking.delivery.log_batch", killed)
        assert delivered(uri, study, book) == 2, "the trial, and the study, which comes last"
    assert len(runs_of(uri, study)[KEYS[0]].data.metrics) < 1000
    assert delivered(uri, study, book) == 0
    assert len(runs_of(uri, study)[KEYS[0]].data.metrics) == 1000


def test_a_run_that_a_release_without_the_epochs_tag_made_gets_what_follows(uri, study):
    book = Book()
    book.start(KEYS[0])
    for step in range(1, 4):
        book.log(KEYS[0], step)
    assert delivered(uri, study, book) == 0
    mlflow.MlflowClient(uri).delete_tag(runs_of(uri, study)[KEYS[0]].info.run_id, "tune_sam.epoch")
    for step in range(4, 7):
        book.log(KEYS[0], step)
    assert delivered(uri, study, book) == 0
    assert_once(uri, study, KEYS[0], 6)


# --------------------------------------------------------------------------------------- what is lost or sent twice


def test_a_server_that_is_away_costs_nothing_but_one_warning(nowhere, uri, study, caplog):
    book = Book().whole_trials(50)
    delivery = started(nowhere, study, book)
    wait_for(lambda: caplog.records, "a warning")
    assert delivery.close(0.1) == len(KEYS) + 1, "the trials, and the study's own status"
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert nowhere in warnings[0].getMessage()
    assert delivered(uri, study, book) == 0
    for key in KEYS:
        assert_once(uri, study, key, 50)


def test_what_is_delivered_again_changes_nothing(uri, study):
    book, before = Book().whole_trials(20), None
    book.status = "FINISHED"
    for _ in range(2):
        assert delivered(uri, study, book) == 0
        runs = {key: run.to_dictionary() for key, run in runs_of(uri, study).items()}
        assert before in (None, runs)
        before = runs
    for key in KEYS:
        assert_once(uri, study, key, 20)


def test_an_answer_that_is_lost_doubles_nothing(uri, study, monkeypatch):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    lost = []

    def losing(name, calls):
        real, count = getattr(SqlAlchemyStore, name), iter(range(1000))

        def work(self, *args):
            result = real(self, *args)
            if next(count) in calls:
                lost.append(name)
                raise ConnectionError(f"the answer to {name} is lost")
            return result

        monkeypatch.setattr(SqlAlchemyStore, name, work)

    losing("create_run", (0, 2))
    losing("log_batch", (1, 3))
    losing("update_run_info", (0, 3))
    noted, book = [], Book().whole_trials(300)
    book.status = "FINISHED"
    assert delivered(uri, study, book, lambda key, run_id: noted.append(key)) == 0
    assert set(lost) == {"create_run", "log_batch", "update_run_info"}
    assert set(noted) == set(KEYS)
    for key in KEYS:
        assert_once(uri, study, key, 300)


def test_a_ledger_that_cannot_be_read_for_a_while_ends_nothing(uri, study):
    book, troubles = Book().whole_trials(3), [OSError("the database is away")] * 2

    def read():
        if troubles:
            raise troubles.pop()
        return book()

    assert delivered(uri, study, read) == 0
    assert_once(uri, study, KEYS[0], 3)


def test_what_is_refused_does_not_hold_up_the_rest(uri, study, caplog):
    book = Book().whole_trials(0, KEYS[1:])
    changed = KEYS[0]
    book.start(changed)
    assert delivered(uri, study, book) == 0
    book.start(changed, {"rho": "0.05", "lr": "0.1", "not a name?": "1"})
    book.log(changed, 1)
    book.log(changed, 2, {"not a name?": 1.0})
    book.log(changed, 3)
    book.end(changed, "KILLED", "pruned")
    delivery = started(uri, study, book)
    assert delivery.close(PATIENCE) == 1, "what is refused is not waited for"
    run = runs_of(uri, study)[changed]
    assert (run.info.status, run.data.params) == ("KILLED", {"rho": "0.05", "lr": "0.1"})
    assert [step for step, _ in history(uri, study, changed, "val/loss")] == [1, 3]
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, "one for a trial"


def test_a_tag_that_is_refused_keeps_no_run_from_being_made(uri, study, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def strict(name, place):
        real = getattr(SqlAlchemyStore, name)

        def call(self, *given):
            if any(tag.key == "tune_sam.optimizer" for tag in given[place]):
                raise MlflowException("no optimizers here", INVALID_PARAMETER_VALUE)
            return real(self, *given)

        return call

    book = Book().whole_trials(2, KEYS[:1])
    with monkeypatch.context() as patch:
        for name, place in (("create_run", 3), ("log_batch", 3)):
            patch.setattr(SqlAlchemyStore, name, strict(name, place))
        assert delivered(uri, study, book) == 1, "the tag is what is left"
    assert_once(uri, study, KEYS[0], 2)
    assert delivered(uri, study, book) == 0
    assert runs_of(uri, study)[KEYS[0]].data.tags["tune_sam.optimizer"] == "sam"


def test_what_was_refused_is_sent_again_when_the_cause_is_gone(uri, study, monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    real = SqlAlchemyStore.log_batch

    def strict(self, run_id, metrics, params, tags):
        if any(metric.step == 2 for metric in metrics):
            raise MlflowException("no twos here", INVALID_PARAMETER_VALUE)
        return real(self, run_id, metrics, params, tags)

    book = Book().whole_trials(4, KEYS[:1])
    with monkeypatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "log_batch", strict)
        assert started(uri, study, book).close(PATIENCE) == 1
    assert [step for step, _ in history(uri, study, KEYS[0], "val/loss")] == [1, 3, 4]
    assert delivered(uri, study, book) == 0
    assert_once(uri, study, KEYS[0], 4)


def test_what_was_refused_is_sent_again_in_the_same_search(uri, study, monkeypatch, caplog):
    """Its experiment is deleted and restored, while the study goes on."""
    monkeypatch.setattr("tune_sam.tracking.delivery.RETRY", 0.05)
    client, book = mlflow.MlflowClient(uri), Book()
    client.delete_experiment(study.experiment_id)
    delivery = started(uri, study, book)
    book.whole_trials(3, KEYS[:1])
    wait_for(lambda: "refuses" in caplog.text, "it is refused")
    client.restore_experiment(study.experiment_id)
    wait_for(lambda: len(runs_of(uri, study)) == 1, "the run is there")
    assert delivery.close(PATIENCE) == 0
    assert_once(uri, study, KEYS[0], 3)


def test_a_value_that_was_lost_below_the_last_epoch_is_sent_again_by_who_looks_for_it(uri, study):
    book = Book().whole_trials(4, KEYS[:1])
    assert delivered(uri, study, book) == 0
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("DELETE FROM metrics WHERE key = 'val/loss' AND step = 2")
    assert delivered(uri, study, book, thorough=True) == 0
    assert_once(uri, study, KEYS[0], 4)


def test_a_run_that_a_person_deleted_is_made_anew_only_where_asked_for(uri, study, caplog):
    book = Book().whole_trials(6, KEYS[:2])
    assert delivered(uri, study, book, book.note) == 0
    mlflow.MlflowClient(uri).delete_run(runs_of(uri, study)[KEYS[0]].info.run_id)
    delivery = started(uri, study, book, book.note)
    assert delivery.close(PATIENCE) == 1
    assert set(runs_of(uri, study)) == {KEYS[1]}
    assert "doctor --fix" in caplog.text
    assert delivered(uri, study, book, book.note, restore=True) == 0
    for key in KEYS[:2]:
        assert_once(uri, study, key, 6)


def test_two_deliveries_of_a_study_take_turns(uri, study, monkeypatch):
    """The first is still at a request, which makes a run, when nobody waits for it any more."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    begun, go_on, real = threading.Event(), threading.Event(), SqlAlchemyStore.create_run

    def slow(self, *args):
        begun.set()
        assert go_on.wait(PATIENCE)
        return real(self, *args)

    monkeypatch.setattr(SqlAlchemyStore, "create_run", slow)
    book = Book().whole_trials(2, KEYS[:1])
    first = started(uri, study, book)
    assert begun.wait(PATIENCE)
    assert first.close(0) == 2, "the trial, and the study, which comes last"
    second = started(uri, study, book)
    go_on.set()
    assert second.close(PATIENCE) == 0
    assert_once(uri, study, KEYS[0], 2)


def test_a_run_that_cannot_be_noted_costs_nothing(uri, study):
    def broken(key, run_id):
        raise RuntimeError("the ledger is closed")

    assert delivered(uri, study, Book().whole_trials(2), broken) == 0
    assert_once(uri, study, KEYS[0], 2)


# ----------------------------------------------------------------------------------------------------- troubled servers


def test_a_server_in_trouble_is_asked_one_thing_at_a_time(study):
    asked = []

    def answer(method, path):
        if method == "GET":
            return 200, "{}"
        asked.append(path)
        return 503, "{}" if len(asked) % 2 else "<html>try later</html>"

    environment = dict(os.environ)
    with answering(answer) as place:
        delivery = started(place, study, Book().whole_trials(1))
        wait_for(lambda: len(asked) >= 2, "two requests")
        assert delivery.close(0.1) == len(KEYS) + 1
        # Left to itself MLflow would be busy with its seven retries for minutes.
        wait_for(lambda: not delivery.is_alive(), "the thread has ended")
    assert set(asked) == {"/api/2.0/mlflow/runs/search"}
    assert dict(os.environ) == environment


def test_what_a_server_chokes_on_is_refused_after_some_attempts(study):
    seen = []

    def answer(method, path):
        seen.append(path.rpartition("/")[2])
        if seen[-1] == "create":
            return 500, '{"error_code": "INTERNAL_ERROR", "message": "no"}'
        return 200, '{"run": {"info": {"run_id": "p", "status": "RUNNING"}, "data": {}}}' if seen[-1] == "get" else "{}"

    book = Book()
    book.start(KEYS[0])
    with answering(answer) as place:
        delivery = started(place, study, book)
        assert delivery.close(PATIENCE) == 1
    assert seen.count("create") == ATTEMPTS


def test_a_server_that_says_nothing_does_not_hold_up_the_search(study):
    with silent() as place:
        delivery = started(place, study, Book().whole_trials(50))
        assert delivery.close(0.1) == len(KEYS) + 1


@pytest.mark.slow
def test_a_real_server_goes_and_comes_back_within_a_search(uri, tmp_path, capfd):
    environment = dict(os.environ)
    with mlflow_server(uri, tmp_path) as server:
        with pytest.raises(Refused, match=f"answered 403.*'localhost:{server.port}'.*--allowed-hosts"):
            check(f"http://localhost:{server.port}")
        study = open_study_run(server.uri, experiment="from a server", name="s")
        book = Book()
        for key in KEYS:
            book.start(key)
        delivery = started(server.uri, study, book, book.note)
        for step in range(1, 101):
            for key in KEYS:
                book.log(key, step)
            if step in (30, 60):
                wait_for(lambda: runs_of(uri, study), "something has arrived")
                server.kill()  # with results on their way
            if step in (45, 75):
                server.start()
        for key in KEYS:
            book.end(key)
        book.status = "FINISHED"
        assert delivery.close(PATIENCE) == 0
        for key, run in runs_of(server.uri, study).items():
            assert run.info.status == "FINISHED"
            assert_once(server.uri, study, key, 100)
    assert dict(os.environ) == environment
    assert capfd.readouterr() == ("", "")
