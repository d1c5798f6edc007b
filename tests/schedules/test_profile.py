"""The ten profiles of Wolfe & Kyrillidis, against points computed by hand."""

from __future__ import annotations

import pytest

from bitdial.schedules import PROFILES, average, cpt, profile

# T = 4, low 2, high 10: the width is 2 + 8 s. A falling and a rising cycle (or two rising), z = 0, 1/4, 1/2, 3/4.
#   cosine       g: 0, .146447, .5, .853553
#   linear       g: 0, .25, .5, .75
#   exponential  g = 1 - exp(-4 z): 0, 1 - 1/e = .632121, 1 - 1/e^2 = .864665, 1 - 1/e^3 = .950213; g(1) = .981684
#   REX          g = 1 - u / (.1 + .9 u), u = 1 - z: 0, 1 - .75/.775 = .032258, 1 - .5/.55 = .090909,
#                1 - .25/.325 = .230769; g(1) = 1
# Falling, horizontally reflected: g(1), g(3/4), g(1/2), g(1/4). Falling, vertically reflected: 1 - g(z).
COSINE = [2, 3.171573, 6, 8.828427]
LINEAR = [2, 4, 6, 8]
EXPONENTIAL = [2, 7.056964, 8.917318, 9.601703]
REX = [2, 2.258065, 2.727273, 3.846154]
BY_HAND = {
    "cosine_repeated": COSINE + COSINE,
    "cosine_triangular": [10, 8.828427, 6, 3.171573, *COSINE],
    "linear_repeated": LINEAR + LINEAR,
    "linear_triangular": [10, 8, 6, 4, *LINEAR],
    "exponential_repeated": EXPONENTIAL + EXPONENTIAL,
    "exponential_triangular_horizontal": [9.853475, 9.601703, 8.917318, 7.056964, *EXPONENTIAL],
    "exponential_triangular_vertical": [10, 4.943036, 3.082682, 2.398297, *EXPONENTIAL],
    "rex_repeated": REX + REX,
    "rex_triangular_horizontal": [10, 3.846154, 2.727273, 2.258065, *REX],
    "rex_triangular_vertical": [10, 9.741935, 9.272727, 8.153846, *REX],
}
ROUNDED = {
    "cosine_repeated": [2, 3, 6, 9, 2, 3, 6, 9],
    "cosine_triangular": [10, 9, 6, 3, 2, 3, 6, 9],
    "linear_repeated": [2, 4, 6, 8, 2, 4, 6, 8],
    "linear_triangular": [10, 8, 6, 4, 2, 4, 6, 8],
    "exponential_repeated": [2, 7, 9, 10, 2, 7, 9, 10],
    "exponential_triangular_horizontal": [10, 10, 9, 7, 2, 7, 9, 10],
    "exponential_triangular_vertical": [10, 5, 3, 2, 2, 7, 9, 10],
    "rex_repeated": [2, 2, 3, 4, 2, 2, 3, 4],
    "rex_triangular_horizontal": [10, 4, 3, 2, 2, 2, 3, 4],
    "rex_triangular_vertical": [10, 10, 9, 8, 2, 2, 3, 4],
}
ABBREVIATIONS = dict(zip(["CR", "CT", "LR", "LT", "ER", "ETH", "ETV", "RR", "RTH", "RTV"], BY_HAND, strict=True))


def test_there_are_ten_different_profiles():
    assert tuple(BY_HAND) == PROFILES
    curves = {tuple(profile(name, 2, 10, 64, 2, rounded=False)(step) for step in range(64)) for name in PROFILES}
    assert len(curves) == 10


@pytest.mark.parametrize("name", BY_HAND)
def test_continuous_points_are_those_computed_by_hand(name):
    bits = profile(name, low=2, high=10, iterations=8, cycles=2, rounded=False)
    assert [bits(step) for step in range(8)] == pytest.approx(BY_HAND[name], abs=1e-6)


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_points_are_those_computed_by_hand(name):
    bits = profile(name, low=2, high=10, iterations=8, cycles=2)
    assert [bits(step) for step in range(8)] == ROUNDED[name]


@pytest.mark.parametrize(("abbreviation", "name"), ABBREVIATIONS.items())
def test_the_papers_abbreviations_are_accepted(abbreviation, name):
    assert profile(abbreviation, 3, 8, 64, 8) == profile(name, 3, 8, 64, 8)
    assert profile(abbreviation.lower(), 3, 8, 64, 8) == profile(name, 3, 8, 64, 8)


@pytest.mark.parametrize("cycles", [1, 3, 8])
def test_cosine_repeated_is_the_cpt_schedule(cycles):
    ours, published = profile("CR", 3, 8, 240, cycles), cpt(3, 8, 240, cycles)
    assert [ours(step) for step in range(250)] == [published(step) for step in range(250)]


@pytest.mark.parametrize("name", [name for name in PROFILES if "triangular" in name])
def test_an_even_number_of_cycles_ends_high_and_an_odd_number_low(name):
    even, odd = profile(name, 3, 8, 1000, 2), profile(name, 3, 8, 1000, 1)
    assert (even(0), even(499), even(500), even(999)) == (8, 3, 3, 8)
    assert (odd(0), odd(999)) == (8, 3)


def test_a_rounding_error_does_not_lift_the_width_above_high():
    assert 1.9 + (7.7 - 1.9) > 7.7  # why this needs care
    assert profile("linear_triangular", 1.9, 7.7, 8, 2, rounded=False)(0) == 7.7


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cosine_triangle", "got 'cosine_triangle'; did you mean 'cosine_triangular'?"),
        ("qqq", "profile must be one of cosine_repeated, .*, got 'qqq'; pick one of these"),
        (None, "profile must be one of .*, got None"),
    ],
)
def test_an_unknown_profile_is_refused_with_the_nearest_name(name, message):
    with pytest.raises(ValueError, match=message):
        profile(name, 3, 8, 64, 8)


def test_bounds_and_iterations_are_checked():
    with pytest.raises(ValueError, match="low must not exceed high"):
        profile("CR", 8, 3, 64, 8)
    with pytest.raises(ValueError, match="got 4 iterations for 8 cycles"):
        profile("CR", 3, 8, 4, 8)


# The integral of g over [0, 1]: 1/2 for the symmetric curves; 1 - (1 - exp(-4)) / 4 for the exponential;
# 1 - (1 / .9 - .1 / .81 ln 10) for REX. A horizontal reflection keeps it, a vertical one makes the pair average 1/2.
MEANS = {"CR": 0.5, "CT": 0.5, "LR": 0.5, "LT": 0.5, "ER": 0.7546, "ETH": 0.7546, "ETV": 0.5}
MEANS |= {"RR": 0.1732, "RTH": 0.1732, "RTV": 0.5}


@pytest.mark.parametrize(("name", "mean"), MEANS.items())
def test_the_mean_of_a_profile_is_its_integral(name, mean):
    bits = profile(name, 2, 12, iterations=8000, cycles=2, rounded=False)
    assert average(bits, 8000) == pytest.approx(2 + 10 * mean, abs=0.01)
