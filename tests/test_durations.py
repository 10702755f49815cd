import pytest
from hypothesis import given
from hypothesis import strategies as st

from tune_sam.durations import OFF, parse_limit, written


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), (90, 90), (0.5, 0.5), ("45s", 45), ("30m", 1800), ("2H", 7200), ("1h30m", 5400), ("1d2h3m4s", 93784)],
)
def test_a_time_is_written_in_seconds_or_with_units(text, seconds):
    assert parse_limit(text) == seconds


@pytest.mark.parametrize("text", ["off", "OFF", False])
def test_off_is_no_limit(text):
    assert parse_limit(text) == OFF


@pytest.mark.parametrize(
    "text", ["", " ", "0", 0, "-1", "1x", "h", "1m1h", "1h30", "2m30", "nan", "inf", "1e400", True, [], {}, "9" * 400]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="a time above 0 such as 90, 30m or 1h30m is possible, or off"):
        parse_limit(text)


@given(st.integers(1, 10**7))
def test_a_time_is_read_as_it_is_written(seconds):
    assert parse_limit(written(seconds)) == seconds


def test_what_is_below_a_second_and_what_is_off_are_written_too():
    assert (written(0.5), written(OFF)) == ("0.5s", "off")
    assert parse_limit(written(0.5)) == 0.5
