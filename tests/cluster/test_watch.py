from tune_sam.cluster.watch import Watch

STALLED = "it ended no epoch in 1m, its study's --stall-timeout"


def test_a_trial_that_ends_no_epoch_for_too_long_is_overdue_once():
    watch = Watch(trial_timeout=0, stall_timeout=60, trained=lambda number: 0)
    watch.waits_for(0)
    watch.passes(59)
    assert not watch.overdue(0)
    watch.heard(0)
    watch.passes(59)
    watch.waits_for(0)
    assert not watch.overdue(0)
    watch.passes(1)
    assert (watch.overdue(0), watch.overdue(0)) == (STALLED, "")
    assert (watch.forget(0), watch.forget(0)) == (STALLED, "")


def test_the_next_attempt_of_a_trial_begins_anew():
    watch = Watch(trial_timeout=0, stall_timeout=60, trained=lambda number: 0)
    watch.waits_for(0)
    watch.passes(50)
    assert watch.forget(0) == ""
    watch.waits_for(0)
    watch.passes(50)
    assert not watch.overdue(0)


def test_the_training_time_of_all_attempts_counts():
    watch = Watch(trial_timeout=100, stall_timeout=60, trained={0: 95, 1: 0}.get)
    for number in (0, 1):
        watch.waits_for(number)
    watch.passes(5)
    assert watch.overdue(0) == "it trained for 1m40s, its study's --trial-timeout"
    assert not watch.overdue(1)


def test_without_limits_nothing_is_overdue():
    watch = Watch(trial_timeout=0, stall_timeout=0, trained=lambda number: 10**9)
    watch.waits_for(0)
    watch.passes(10**9)
    assert not watch.overdue(0)


def test_a_task_that_has_not_begun_is_not_overdue():
    watch = Watch(trial_timeout=0, stall_timeout=60, stalled="it got no further")
    watch.passes(100)
    assert not watch.overdue(0)
    watch.heard(0)
    watch.passes(60)
    assert watch.overdue(0) == "it got no further in 1m, its study's --stall-timeout"
