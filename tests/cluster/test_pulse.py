import math

from tune_sam.cluster.pulse import Pulse, alive


def test_a_sign_of_life_is_given_at_most_once_a_period_and_the_first_at_once():
    told = []
    measure = alive(lambda: None)
    for period, signs in ((3600.0, 1), (0.0, 4), (math.inf, 0)):
        told.clear()
        with Pulse(lambda: told.append(1), period).beating():
            for _ in range(3):
                measure()
        measure()
        assert len(told) == signs
