import pytest
from studies import INLINE

import tune_sam
from tune_sam.errors import Refused


def test_a_point_of_a_persons_own_is_the_next_trial(searched):
    space = tune_sam.open_study("one", searched).settings.spaces["sam"]
    point = {"rho": space.rho.low, "lr": space.lr.low, "batch_size": space.batch_size[0]}
    assert tune_sam.enqueue("one", optimizer="sam", home=searched, **point) == 3
    with pytest.raises(Refused, match="at this point already"):
        tune_sam.enqueue("one", optimizer="sam", home=searched, **point)
    with pytest.raises(Refused, match="outside of"):
        tune_sam.enqueue("one", optimizer="sam", home=searched, **point | {"lr": 1e9})
    with pytest.raises(Refused, match="has no rho"):
        tune_sam.enqueue("one", optimizer="base", home=searched, **point)
    study = tune_sam.resume("one", home=searched, trials=4, executor=INLINE)
    assert study.trial("sam/3").config.point == point
    assert study.counts() == {"complete": 8}
