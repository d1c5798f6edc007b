"""Schedules made of schedules, and the two functions that read them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from bitdial import schedules
from bitdial.schedules import (
    average,
    cosine_cycle,
    cosine_decay,
    cpt,
    hpcm,
    interpolate_factors,
    join,
    ladder,
    linear_decay,
    pattern,
    per_layer,
    profile,
    progressive,
    random_bits,
    snap_to,
    static,
    step_decay,
    warmup,
)

EVERY = {
    "static": static(4),
    "pattern": pattern([8, 4, 2], 12, reverse=True, smooth=True, progressive=True),
    "cosine_cycle": cosine_cycle(3, 8, 20),
    "cpt": cpt(3, 8, 100, 4),
    "profile": profile("RTH", 3, 8, 100, 4),
    "ladder": ladder([8, 4, 2], 90),
    "progressive": progressive([3, 4, 6, 8], 90),
    "random_bits": random_bits([2, 4, 8]),
    "join": join([static(32), cpt(3, 8, 40, 2)], [10]),
    "snap_to": snap_to(cosine_cycle(2, 8, 20), [2, 4, 8]),
    "warmup": warmup(static(4), 10, 32),
    "linear_decay": linear_decay(8, 4, 90),
    "cosine_decay": cosine_decay(8, 4, 90),
    "step_decay": step_decay(8, 0.5, [30, 60]),
    "hpcm": hpcm(8, 90),
}
FACTORS = {2: 0.5, 4: 0.75, 8: 1.0, 16: 1.0}


def widths(schedule, steps):
    return [schedule(step) for step in range(steps)]


def test_join_starts_each_schedule_from_its_own_step_0():
    bits = join([static(32), ladder([8, 4], 4), pattern([2, 3], 2)], boundaries=[2, 5])
    assert widths(bits, 9) == [32, 32, 8, 8, 4, 2, 3, 2, 3]


def test_join_of_one_schedule_is_that_schedule():
    assert widths(join([cpt(3, 8, 20, 2)], []), 30) == widths(cpt(3, 8, 20, 2), 30)


def test_per_layer_shifts_each_layer_by_the_offset():
    base = pattern([8, 4, 2, 4, 8], 20)
    bits = per_layer(base, 2)
    assert [bits(3, layer) for layer in range(6)] == [base(3 + 2 * layer) for layer in range(6)]


def test_snap_to_takes_the_nearest_width_and_the_higher_of_two():
    bits = snap_to(progressive([2, 2.9, 3, 5.9, 6, 9, 31], 7), [8, 2, 4])
    assert widths(bits, 7) == [2, 2, 4, 4, 8, 8, 8]


def test_warmup_moves_linearly_to_the_first_value_and_then_starts_the_schedule():
    bits = warmup(ladder([4, 2], 4), steps=4, start=8)
    assert widths(bits, 9) == [8, 7, 6, 5, 4, 4, 2, 2, 2]


def test_warmup_of_no_steps_is_the_schedule():
    assert widths(warmup(cpt(3, 8, 20, 2), 0, start=32), 30) == widths(cpt(3, 8, 20, 2), 30)


@pytest.mark.parametrize(
    ("bits", "factor"),
    [(1, 0.5), (2, 0.5), (2.5, 0.5625), (3, 0.625), (4, 0.75), (6, 0.875), (8, 1), (12, 1), (16, 1), (32, 1)],
)
def test_interpolate_factors_by_hand(bits, factor):
    assert interpolate_factors(FACTORS, bits) == pytest.approx(factor)


def test_interpolate_factors_takes_the_widths_in_any_order():
    assert interpolate_factors({8: 1.0, 2: 0.5}, 5) == 0.75
    assert interpolate_factors({8: 0.3}, 2) == interpolate_factors({8: 0.3}, 32) == 0.3


def test_average_is_the_mean_over_the_steps():
    assert average(ladder([8, 4, 2], 10), 10) == pytest.approx((4 * 8 + 3 * 4 + 3 * 2) / 10)
    assert average(static(4), 7) == 4


@pytest.mark.parametrize("name", EVERY)
def test_every_schedule_refuses_a_step_that_is_not_a_whole_number_from_0_up(name):
    for step in (-1, 1.0, "3", None, True, np.array([1, 2])):
        with pytest.raises(ValueError, match="step must be a whole number from 0 up, got"):
            EVERY[name](step)


@pytest.mark.parametrize("name", EVERY)
def test_every_schedule_takes_numpy_steps_and_returns_floats(name):
    value = EVERY[name](np.int64(7))
    assert type(value) is float
    assert value == EVERY[name](7)


@pytest.mark.parametrize("name", EVERY)
def test_every_schedule_survives_pickling_and_copying(name):
    for again in (pickle.loads(pickle.dumps(EVERY[name])), copy.deepcopy(EVERY[name])):
        assert again == EVERY[name]
        assert widths(again, 60) == widths(EVERY[name], 60)


@pytest.mark.parametrize("name", EVERY)
def test_every_schedule_prints_its_arguments(name):
    assert "object at 0x" not in repr(EVERY[name])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: join([], []), "schedules must hold at least one schedule, got none"),
        (lambda: join(static(4), [3]), "schedules must be a list, got Static"),
        (lambda: join([static(4), 8], [3]), r"schedules\[1\] must be a function of the step, got 8; .* static\(8\)"),
        (lambda: join([static(4), static(8)], []), "one fewer than schedules, got 0 boundaries for 2 schedules"),
        (lambda: join([static(4), static(8)], 3), "boundaries must be a list, got 3"),
        (lambda: join([static(4), static(8)], [0]), r"boundaries\[0\] must be a whole number of at least 1, got 0"),
        (lambda: join([static(2)] * 3, [5, 5]), r"boundaries must rise, got \[5, 5\]; sort them"),
        (lambda: per_layer(4, 2), "schedule must be a function of the step, got 4"),
        (lambda: per_layer(static(4), -1), "offset must be a whole number of at least 0, got -1"),
        (lambda: per_layer(static(4), 1)(0, -1), "layer must be a whole number from 0 up, got -1"),
        (lambda: snap_to(static(4), []), "widths must hold at least one width, got none"),
        (lambda: snap_to([2, 4], [2, 4]), r"schedule must be a function of the step, got \[2, 4\]"),
        (lambda: warmup(static(4), -1, 8), "steps must be a whole number of at least 0, got -1"),
        (lambda: warmup(static(4), 1, float("nan")), "start must be a finite number of at least 0, got nan"),
        (lambda: interpolate_factors({}, 4), "factors must map at least one width to a factor, got {}"),
        (lambda: interpolate_factors([1, 2], 4), r"factors must map .* got \[1, 2\]"),
        (lambda: interpolate_factors({"2": 1.0}, 4), "each width in factors must be a width .* got '2'"),
        (lambda: interpolate_factors({2: -1.0}, 4), "the factor of width 2 must be a finite number of at least 0"),
        (lambda: interpolate_factors(FACTORS, 0), r"bits must be a width in \[1, 32\] bits, got 0"),
        (lambda: average(static(4), 0), "iterations must be a whole number of at least 1, got 0"),
        (lambda: average(4, 10), "schedule must be a function of the step, got 4"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_room_offers_exactly_these_names():
    public = {name for name in vars(schedules) if not name.startswith("_")}
    assert public == set(EVERY) | {"per_layer", "average", "interpolate_factors"} | {
        "PROFILES",
        "Schedule",
        "LayerSchedule",
    }


def test_the_room_imports_nothing_of_the_package_and_no_torch():
    import ast
    import sys
    from pathlib import Path

    for path in Path(schedules.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names or name.startswith("bitdial.schedules."), path
