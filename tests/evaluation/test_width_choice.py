"""The knee and the verdict on constructed accuracies, and that noise is not taken for structure."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from bitdial.errors import BitdialError
from bitdial.evaluation import knee, width_verdict
from bitdial.evaluation.statistics import paired_difference

NAN = math.nan
PLATEAU = {2: [0.80, 0.81, 0.79], 4: [0.925, 0.93, 0.92], 8: [0.93, 0.932, 0.925], 32: [0.931, 0.93, 0.926]}


def test_the_knee_is_the_lowest_width_within_the_tolerance_of_the_best():
    found = knee(PLATEAU)
    assert (found.bits, found.best_bits) == (4, 8)
    assert found.accuracy.mean == pytest.approx(0.925)
    assert found.difference == paired_difference(PLATEAU[4], PLATEAU[8])
    assert knee(PLATEAU, tolerance=0.001).bits == 8
    assert knee(PLATEAU, tolerance=0.2).bits == 2


def test_a_loss_of_exactly_the_tolerance_is_within_it():
    assert knee({2: [0.9], 4: [0.91]}, tolerance=0.01).bits == 2
    assert knee({2: [0.9], 4: [0.9101]}, tolerance=0.01).bits == 4


def test_each_seed_alone_has_its_knee():
    assert knee({2: [0.90, 0.80], 4: [0.90, 0.90], 8: [0.905, 0.93]}).by_seed == (2, 8)


def test_the_order_of_widths_makes_no_difference():
    assert knee(dict(reversed(PLATEAU.items()))) == knee(PLATEAU)


def test_accuracies_come_as_arrays_too():
    assert knee({width: np.array(values) for width, values in PLATEAU.items()}) == knee(PLATEAU)


def test_a_width_that_has_no_number_is_passed_over():
    assert knee({2: [NAN, 0.99], 4: [0.9, 0.9], 8: [0.9, 0.9]}).bits == 4


CASES = {
    "rising": ({2: [0.60, 0.61, 0.59], 4: [0.80, 0.81, 0.80], 8: [0.90, 0.91, 0.905]}, "rising", 8),
    "two widths": ({2: [0.5, 0.5, 0.5], 8: [0.9, 0.9, 0.9]}, "rising", 8),
    "plateau": (PLATEAU, "plateau", 4),
    "all the same": ({4: [0.9] * 3, 8: [0.9] * 3}, "plateau", 4),
    "unstable": ({2: [0.2, 0.9, 0.5], 4: [0.92, 0.925, 0.92], 8: [0.93, 0.931, 0.929]}, "unstable at low widths", 4),
    "diverged": ({2: [NAN, 0.93, 0.93], 4: [0.92, 0.925, 0.92], 8: [0.93, 0.931, 0.929]}, "unstable at low widths", 4),
    "diverged, two": ({2: [NAN], 8: [0.9]}, "unstable at low widths", 8),
    "non-monotonic": ({2: [0.80, 0.81, 0.79], 4: [0.93, 0.93, 0.92], 8: [0.85, 0.86, 0.85]}, "non-monotonic", 4),
    "noise": ({2: [0.80, 0.95, 0.85], 4: [0.88, 0.80, 0.87], 8: [0.95, 0.85, 0.97]}, "unclear", 8),
    "one width": ({8: [0.9, 0.91]}, "one width", 8),
    "one is finite": ({4: [0.9], 8: [NAN]}, "one width", 4),
    "one seed": ({2: [0.5], 4: [0.8], 8: [0.805]}, "plateau", 4),
    "one seed, rising": ({2: [0.5], 8: [0.805]}, "rising", 8),
    "one seed, falling": ({4: [0.9], 8: [0.8]}, "non-monotonic", 4),
    "nothing": ({2: [NAN, NAN], 4: [NAN, 0.5]}, "nothing finite", None),
}


@pytest.mark.parametrize("case", CASES)
def test_verdicts(case):
    accuracies, kind, bits = CASES[case]
    found = width_verdict(accuracies)
    assert found.kind == kind
    assert found.sentence.endswith(".")
    assert "\n" not in found.sentence
    assert "nan" not in found.sentence
    if bits is None:
        assert found.knee is None
    else:
        assert found.knee.bits == bits
        assert f": ship {bits} bits (" in found.sentence
    one_seed = len(next(iter(accuracies.values()))) == 1
    several = sum(all(map(math.isfinite, values)) for values in accuracies.values()) > 1
    assert ("with one seed a difference may be chance" in found.sentence) == (one_seed and several)


def test_the_sentence_has_the_numbers():
    assert width_verdict(PLATEAU).sentence == (
        "Accuracy gains nothing that counts beyond 4 bits: ship 4 bits (92.5% \u00b1 1.2, 0.4 points below the best, "
        "8 bits, 95% interval of the difference \u22120.8 to 0.0)."
    )
    assert "8 bits (0.5 points" not in width_verdict({4: [0.9], 8: [NAN]}).sentence
    assert "no finite accuracy at 8 bits" in width_verdict({4: [0.9], 8: [NAN]}).sentence


def test_a_spread_over_configurations_tells_unstable_widths_with_one_seed():
    accuracies = {2: [0.905], 4: [0.9], 8: [0.91]}
    assert width_verdict(accuracies).kind == "plateau"
    found = width_verdict(accuracies, spread={2: 0.1, 4: 0.01, 8: 0.005})
    assert (found.kind, found.knee.bits) == ("unstable at low widths", 4)
    assert width_verdict(accuracies, spread={2: 0.009, 8: 0.0}).kind == "plateau"
    assert width_verdict(accuracies, spread={2: 0.1, 4: 0.1, 8: 0.09}).kind == "plateau"


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_noise_is_rarely_taken_for_structure(seeds):
    generator, kinds = np.random.default_rng(0), Counter()
    for _ in range(300):
        shared = generator.normal(0, 0.02, seeds)
        noise = generator.normal(0, 0.02, (5, seeds))
        kinds[
            width_verdict({w: list(0.8 + shared + n) for w, n in zip((2, 3, 4, 8, 32), noise, strict=True)}).kind
        ] += 1
    structure = sum(kinds[kind] for kind in ("rising", "non-monotonic", "unstable at low widths"))
    assert structure < 0.08 * 300


def test_a_real_fall_is_found_through_noise_that_the_seeds_share():
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 0.05, 3)
    noise = generator.normal(0, 0.001, (3, 3))
    means = {2: 0.75, 4: 0.9, 8: 0.85}
    found = width_verdict({w: list(m + shared + n) for (w, m), n in zip(means.items(), noise, strict=True)})
    assert (found.kind, found.knee.bits) == ("non-monotonic", 4)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({}, "must be a mapping"),
        (None, "must be a mapping"),
        ([0.9, 0.8], "must be a mapping"),
        ({4: []}, "must be a list, one for each seed"),
        ({4: 0.9}, "must be a list, one for each seed"),
        ({4: "0.9"}, "must be a list, one for each seed"),
        ({4: (v for v in [0.9])}, "must be a list, one for each seed"),
        ({4: ["0.9"]}, "fractions in \\[0, 1\\] or NaN, got '0.9'"),
        ({4: [None]}, "fractions in \\[0, 1\\] or NaN, got None"),
        ({4: [90.0]}, "fractions in \\[0, 1\\] or NaN, got 90.0 at 4 bits; divide percentages by 100"),
        ({4: [-0.1]}, "fractions"),
        ({4: [True]}, "fractions"),
        ({4: [0.9, 0.9], 8: [0.9]}, "the same seeds"),
        ({"4": [0.9]}, "bits must be a number"),
        ({0: [0.9]}, "in \\[1, 32\\], got 0"),
        ({64: [0.9]}, "in \\[1, 32\\], got 64"),
    ],
)
@pytest.mark.parametrize("function", [knee, width_verdict])
def test_bad_accuracies_are_one_sentence(function, bad, says):
    with pytest.raises(BitdialError, match=says) as error:
        function(bad)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [-0.1, 1, NAN, "1%", None, True])
@pytest.mark.parametrize("function", [knee, width_verdict])
def test_a_bad_tolerance_is_refused(function, bad):
    with pytest.raises(BitdialError, match="tolerance must be a fraction"):
        function(PLATEAU, tolerance=bad)


@pytest.mark.parametrize("bad", [0.1, {3: 0.1}, {4: -0.1}, {4: NAN}, {4: "x"}, [0.1] * 4])
def test_a_bad_spread_is_refused(bad):
    with pytest.raises(BitdialError, match="spread must give a standard deviation"):
        width_verdict(PLATEAU, spread=bad)


def test_nothing_finite_is_refused_by_the_knee():
    with pytest.raises(BitdialError, match="finite for every seed at one width at least"):
        knee({4: [NAN]})
