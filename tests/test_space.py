import math

import pytest

from tune_sam.space import LogRange, Space, Values, grid, parse_batch_sizes, parse_range, parse_values


@pytest.mark.parametrize("text", ["0.001:1", "1e-3:1e0", " 0.001 : 1"])
def test_a_range_is_two_numbers(text):
    assert parse_range(text) == LogRange(0.001, 1)


@pytest.mark.parametrize("text", ["1", "1:2:3", "a:b", "", ":", "0.1-1"])
def test_anything_else_is_no_range(text):
    with pytest.raises(ValueError, match="LOW:HIGH"):
        parse_range(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1:0.1", "must come first, as in 0.1:1"),
        ("-1:1", "above 0"),
        ("0:1", "above 0"),
        ("nan:1", "above 0"),
        ("0.1:inf", "above 0"),
        ("0.5:0.5", "equal"),
    ],
)
def test_a_range_that_cannot_be_searched_says_why(text, why):
    with pytest.raises(ValueError, match=why):
        parse_range(text)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("32,64,128", (32, 64, 128)), ("128,32,32", (32, 128)), ([64, 32], (32, 64)), (16, (16,)), ("8", (8,))],
)
def test_batch_sizes_are_a_list(text, sizes):
    assert parse_batch_sizes(text) == sizes


@pytest.mark.parametrize("text", ["0,32", "-1", "a", "", "1.5", [], [0], None, [32, "x"], True])
def test_what_is_no_list_of_batch_sizes_is_refused(text):
    with pytest.raises(ValueError, match=r"whole numbers|at least 1"):
        parse_batch_sizes(text)


def test_points_are_spread_evenly_in_logarithms_inside_the_range():
    points = LogRange(0.001, 10).spread(4)
    assert points == pytest.approx([10 ** (-3 + k + 0.5) for k in range(4)], rel=1e-3)
    steps = [math.log(b / a) for a, b in zip(points, points[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 3, rel=1e-2)


@pytest.mark.parametrize("ends", [(0.001, 1), (0.1, 0.11), (1e-12, 1e12), (3, 1000)])
@pytest.mark.parametrize("points", [1, 2, 4, 7])
def test_spread_points_are_as_many_and_inside(ends, points):
    spread = LogRange(*ends).spread(points)
    assert len(set(spread)) == points
    assert all(point in LogRange(*ends) for point in spread)


def test_a_grid_is_each_radius_at_one_point_and_without_one_a_single_point():
    assert grid((0.1, 0.2), (0.01,), (64,)) == (
        {"rho": 0.1, "lr": 0.01, "batch_size": 64},
        {"rho": 0.2, "lr": 0.01, "batch_size": 64},
    )
    assert grid((), (0.01,), (64,)) == ({"lr": 0.01, "batch_size": 64},)


@pytest.mark.parametrize(
    ("point", "found"),
    [
        ({"rho": 0.1, "lr": 0.01, "batch_size": 64}, None),
        ({"rho": 2.0, "lr": 0.01, "batch_size": 64}, "ρ 2 is not in 0.001:1"),
        ({"rho": 0.1, "lr": 1.0, "batch_size": 64}, "learning rate 1 is not in 0.0001:0.1"),
        ({"rho": 0.1, "lr": 0.01, "batch_size": 16}, "batch size 16 is not in 32,64"),
    ],
)
def test_a_space_says_what_lies_outside_and_survives_json(point, found):
    space = Space(LogRange(0.001, 1), LogRange(1e-4, 1e-1), (32, 64), (point,))
    assert space.outside() == found
    assert Space.from_json(space.to_json()) == space


def test_a_grid_has_every_combination_once():
    points = grid((0.1, 0.2), (0.01, 0.03, 0.1), (16, 32))
    assert len({(point["rho"], point["lr"], point["batch_size"]) for point in points}) == len(points) == 12


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1,0.01", Values((0.01, 0.1))),
        ("0.05", Values((0.05,))),
        (0.05, Values((0.05,))),
        ("0.1,1e-1", Values((0.1,))),
        ("0.001:1", LogRange(0.001, 1)),
        ([1, 0.001], Values((0.001, 1))),
        ((0.1, "1"), Values((0.1, 1))),
    ],
)
def test_values_are_told_from_a_range(text, values):
    assert parse_values(text) == values == parse_values(values)


@pytest.mark.parametrize(
    "text", ["", "a,b", "0.1,", "0,1", "-1", "nan", "inf", None, "0.1-1", "1:2:3", [], [None], [[1]]]
)
def test_values_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"LOW:HIGH|finite and above 0|both ends"):
        parse_values(text)


@pytest.mark.parametrize("ends", [(0.00012345678, 0.1), (1e-5, 1.0), (0.1, 30.0)])
def test_a_range_reads_back_as_it_is(ends):
    assert parse_values(str(LogRange(*ends))) == LogRange(*ends)
    assert parse_values(str(Values(ends))) == Values(ends)
