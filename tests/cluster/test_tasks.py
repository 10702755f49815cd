from dataclasses import replace

from tune_sam.cluster.tasks import has_result, result_of, write_result
from tune_sam.files import write_whole
from tune_sam.study.records import open_study


def test_a_result_is_of_the_training_that_it_was_found_out_of(searched, tmp_path):
    file, trial = tmp_path / "test" / "base-0.json", open_study("one", searched).records()[0]
    assert not has_result(file, trial)
    write_result(file, trial.started, {"loss": 1.0}, {})
    assert (has_result(file, trial), result_of(file)) == (True, {"loss": 1.0})
    of_the_same_name = replace(trial, started="2024-01-01T00:00:00+00:00")
    assert not has_result(file, of_the_same_name), "it is another study's, which had that name"
    write_whole(file, '{"made": {}, "result": 2.0}')
    assert has_result(file, trial), "an earlier release kept no more"
