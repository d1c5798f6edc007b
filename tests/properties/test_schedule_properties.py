"""What holds for every schedule, whatever its arguments."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitdial.schedules import (
    PROFILES,
    average,
    cosine_cycle,
    cpt,
    interpolate_factors,
    join,
    ladder,
    pattern,
    per_layer,
    profile,
    progressive,
    random_bits,
    snap_to,
    static,
    warmup,
)

SHORT = 1e-9

# A slow moment of a shared machine is no fault of a schedule.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

bits = st.one_of(st.integers(1, 32), st.floats(1, 32))
width_lists = st.lists(bits, min_size=1, max_size=6)
steps = st.integers(0, 500)
ranges = st.tuples(bits, bits).map(sorted)


@st.composite
def patterns(draw, **fixed):
    """Return the arguments of a legal pattern; `fixed` overrides."""
    widths = fixed.pop("widths", None) or draw(width_lists)
    shortest = draw(st.integers(1, 6))
    length = len(widths) * shortest + draw(st.integers(0, len(widths) - 1))
    options = {
        "reverse": draw(st.booleans()),
        "smooth": draw(st.booleans()),
        "transition_steps": draw(st.integers(1, shortest)),
        "progressive": draw(st.booleans()),
        "progression_rate": draw(st.floats(0.01, 1)),
    }
    return {"widths": widths, "cycle_length": length} | options | fixed


@st.composite
def any_schedule(draw):
    """Return some schedule of widths."""
    low, high = draw(ranges)
    return draw(
        st.sampled_from(
            [
                static(low),
                cosine_cycle(low, high, draw(st.integers(1, 40))),
                cpt(low, high, draw(st.integers(10, 200)), draw(st.integers(1, 10))),
                profile(draw(st.sampled_from(PROFILES)), low, high, draw(st.integers(10, 200)), 4, rounded=False),
                pattern(**draw(patterns())),
                ladder([high, low], draw(st.integers(2, 100))),
                random_bits([low, high], draw(st.integers()), draw(st.integers(1, 5))),
            ]
        )
    )


# --- bounds -----------------------------------------------------------------------------------------------------


@given(patterns(), steps)
def test_a_pattern_stays_between_its_lowest_and_highest_width(arguments, step):
    assert min(arguments["widths"]) <= pattern(**arguments)(step) <= max(arguments["widths"])


@given(st.sampled_from(PROFILES), ranges, st.integers(1, 200), st.integers(1, 12), steps)
def test_a_continuous_profile_stays_between_its_ends(name, ends, period, cycles, step):
    assert ends[0] <= profile(name, *ends, period * cycles, cycles, rounded=False)(step) <= ends[1]


@given(st.sampled_from(PROFILES), ranges, st.integers(1, 200), st.integers(1, 12), steps)
def test_a_rounded_profile_is_whole_and_stays_between_its_rounded_ends(name, ends, period, cycles, step):
    value = profile(name, *ends, period * cycles, cycles)(step)
    assert value == int(value)
    assert round(ends[0]) <= value <= round(ends[1])


@given(any_schedule(), steps)
def test_every_schedule_is_a_width_and_a_pure_function_of_the_step(schedule, step):
    value = schedule(step)
    assert 1 <= value <= 32
    schedule(step + 7)
    assert schedule(step) == value


@given(width_lists, st.integers(), st.integers(1, 9), steps)
def test_random_bits_are_drawn_from_the_given_widths_and_held(widths, seed, hold, step):
    schedule = random_bits(widths, seed, hold)
    assert schedule(step) in widths
    assert schedule(step) == schedule(step - step % hold)


# --- period and end points ----------------------------------------------------------------------------------------


@given(ranges, st.integers(1, 100), steps, st.booleans())
def test_a_cosine_cycle_repeats_and_each_cycle_starts_at_low(ends, period, step, rounded):
    schedule = cosine_cycle(*ends, period, rounded=rounded)
    assert schedule(step + period) == schedule(step)
    assert schedule(period * step) == (round(ends[0]) if rounded else ends[0])


@given(st.sampled_from(PROFILES), ranges, st.integers(1, 100), st.integers(1, 12), steps)
def test_a_profile_repeats_every_two_cycles_and_a_repeated_one_every_cycle(name, ends, period, cycles, step):
    schedule = profile(name, *ends, period * cycles, cycles, rounded=False)
    assert schedule(step + 2 * period) == schedule(step)
    if name.endswith("repeated"):
        assert schedule(step + period) == schedule(step)


@given(patterns(progressive=False, smooth=False), steps)
def test_a_sharp_pattern_repeats_every_cycle_or_every_two_when_reversed(arguments, step):
    schedule, cycle = pattern(**arguments), arguments["cycle_length"]
    assert schedule(step + cycle * (1 + arguments["reverse"])) == schedule(step)


@given(patterns(progressive=False, smooth=True), steps)
def test_a_smooth_pattern_repeats_once_it_is_under_way(arguments, step):
    schedule, cycle = pattern(**arguments), arguments["cycle_length"]
    settled = step + cycle
    assert schedule(settled + 2 * cycle) == schedule(settled)


@given(patterns(progressive=False, smooth=False, reverse=False))
def test_a_pattern_gives_each_entry_its_even_share_in_order(arguments):
    widths, length = arguments["widths"], arguments["cycle_length"]
    schedule = pattern(**arguments)
    assert [schedule(step) for step in range(length)] == [widths[p * len(widths) // length] for p in range(length)]


@given(width_lists, st.integers(6, 300))
def test_ladder_and_progressive_mirror_each_other_from_end_to_end(widths, iterations):
    rising = sorted(widths)
    up, down = progressive(rising, iterations), ladder(rising[::-1], iterations)
    climbed = [up(step) for step in range(iterations)]
    assert climbed == sorted(climbed)
    assert (climbed[0], climbed[-1], up(10 * iterations)) == (rising[0], rising[-1], rising[-1])
    assert [down(step) for step in range(iterations)] == [
        rising[::-1][step * len(rising) // iterations] for step in range(iterations)
    ]


# --- continuity where it is promised ------------------------------------------------------------------------------


@given(patterns(smooth=True), steps)
def test_a_smooth_pattern_never_moves_by_more_than_its_share_of_a_transition(arguments, step):
    schedule = pattern(**arguments)
    most = (max(arguments["widths"]) - min(arguments["widths"])) / arguments["transition_steps"]
    assert abs(schedule(step + 1) - schedule(step)) <= most + SHORT


@given(patterns(), steps)
def test_smoothing_changes_no_step_after_a_transition(arguments, step):
    smooth, sharp = pattern(**arguments | {"smooth": True}), pattern(**arguments | {"smooth": False})
    settled = step + arguments["transition_steps"] - 1
    if sharp(settled) == sharp(step) and all(sharp(s) == sharp(step) for s in range(step, settled)):
        assert smooth(settled) == sharp(settled)


SLOPE = {"cosine": 1.571, "linear": 1.0, "exponential": 4.0, "rex": 10.0}  # the steepest slope of each growth curve


@given(st.sampled_from([name for name in PROFILES if "triangular" in name]), ranges, st.integers(2, 200), steps)
def test_a_triangular_profile_moves_by_at_most_its_slope(name, ends, period, step):
    schedule = profile(name, *ends, 4 * period, 4, rounded=False)
    spread = ends[1] - ends[0]
    # The published exponential stops e^-4 short of its end, so that its upside-down triangle jumps by that much.
    gap = 0.018316 if name == "exponential_triangular_vertical" else 0.0
    most = spread * (SLOPE[name.split("_")[0]] / period + gap)
    assert abs(schedule(step + 1) - schedule(step)) <= most + SHORT


@given(any_schedule(), st.integers(1, 60), st.floats(0, 40))
def test_a_warm_up_moves_evenly_from_start_to_the_schedules_first_value(schedule, length, start):
    warm = warmup(schedule, length, start)
    first = schedule(0)
    assert warm(0) == pytest.approx(start)
    moves = [warm(step + 1) - warm(step) for step in range(length)]
    assert moves == pytest.approx([(first - start) / length] * length, abs=SHORT)
    assert [warm(length + step) for step in range(20)] == [schedule(step) for step in range(20)]


# --- reversal, shrinking, layers ----------------------------------------------------------------------------------


@given(patterns(reverse=True, smooth=False, progressive=False), st.integers(0, 5))
def test_a_reversed_cycle_is_the_mirror_image_of_the_one_before(arguments, pair):
    schedule, length = pattern(**arguments), arguments["cycle_length"]
    forward = [schedule(2 * pair * length + p) for p in range(length)]
    backward = [schedule((2 * pair + 1) * length + p) for p in range(length)]
    assert backward == forward[::-1]


@given(patterns(progressive=True), st.integers(0, 10**6))
def test_a_progressive_pattern_never_falls_below_the_lowest_width(arguments, step):
    assert pattern(**arguments)(step) >= min(arguments["widths"])


@given(patterns(progressive=True, smooth=False, reverse=False), steps)
def test_a_progressive_pattern_is_the_pattern_times_the_rate_per_cycle(arguments, step):
    plain = pattern(**arguments | {"progressive": False})
    cycle = step // arguments["cycle_length"]
    expected = max(min(arguments["widths"]), plain(step) * arguments["progression_rate"] ** cycle)
    assert pattern(**arguments)(step) == expected


@given(any_schedule(), st.integers(0, 30), steps, st.integers(0, 60))
def test_a_layer_reads_the_schedule_at_the_step_plus_its_offset(schedule, offset, step, layer):
    layered = per_layer(schedule, offset)
    assert layered(step, layer) == schedule(step + layer * offset)
    assert layered(step, 0) == schedule(step)
    assert layered(step, layer + 1) == layered(step + offset, layer)


# --- composition --------------------------------------------------------------------------------------------------


@given(any_schedule(), width_lists, steps)
def test_snapping_lands_on_the_nearest_width_and_is_idempotent(schedule, widths, step):
    snapped = snap_to(schedule, widths)
    value = snapped(step)
    assert value in widths
    assert abs(value - schedule(step)) == min(abs(width - schedule(step)) for width in widths)
    assert snap_to(snapped, widths)(step) == value


@given(st.lists(any_schedule(), min_size=2, max_size=4), st.data())
def test_each_joined_schedule_counts_its_own_steps_up_to_the_next_boundary(parts, data):
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=len(parts) - 1, max_size=len(parts) - 1))
    boundaries = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    joined = join(parts, boundaries)
    expected = [part(own) for part, length in zip(parts, [*lengths, 15], strict=True) for own in range(length)]
    assert [joined(step) for step in range(len(expected))] == expected


@given(any_schedule(), st.integers(1, 200))
def test_an_average_is_between_the_extremes_and_that_of_a_static_run_is_its_width(schedule, iterations):
    values = [schedule(step) for step in range(iterations)]
    mean = average(schedule, iterations)
    assert min(values) - SHORT <= mean <= max(values) + SHORT
    assert mean * iterations == pytest.approx(sum(values))
    assert average(static(mean), iterations) == pytest.approx(mean)


@given(ranges, st.integers(1, 100), st.integers(1, 4))
def test_a_linear_triangle_averages_the_middle_of_its_ends(ends, period, pairs):
    schedule = profile("LT", *ends, 2 * period * pairs, 2 * pairs, rounded=False)
    assert average(schedule, 2 * period * pairs) == pytest.approx(sum(ends) / 2)


@given(st.dictionaries(bits, st.floats(0, 2), min_size=1, max_size=6), bits)
def test_a_factor_is_the_given_one_and_stays_between_its_neighbours(factors, asked):
    for width, factor in factors.items():
        assert interpolate_factors(factors, width) == factor
    below = [width for width in factors if width <= asked]
    above = [width for width in factors if width >= asked]
    neighbours = [factors[max(below)]] if below else []
    neighbours += [factors[min(above)]] if above else []
    value = interpolate_factors(factors, asked)
    assert min(neighbours) - SHORT <= value <= max(neighbours) + SHORT
