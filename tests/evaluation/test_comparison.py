import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitdial.errors import BitdialError
from bitdial.evaluation.comparison import summarise
from tests.evaluation.fabricate import arms_of, fabricate


def test_groups_over_seeds_in_any_order():
    arms = arms_of("a", [0.90, 0.92, 0.94], bits=4) + arms_of("b", [0.5, 0.6, 0.7], bits=8)
    comparison = summarise(arms[::-1])
    a = comparison.summary("a")
    assert (a.seeds, a.own.n, a.own_bits) == (3, 3, 4)
    assert a.own.mean == pytest.approx(0.92)
    assert a.own.half == pytest.approx(4.30265 * 0.02 / math.sqrt(3), abs=1e-5)
    assert a.accuracy["4"] == a.own
    assert a.accuracy_per_bit == pytest.approx(92 / 4)
    assert comparison.ranking == ["a", "b"]
    assert [row.rank for row in comparison.summaries] == [1, 2]


def test_one_seed_has_no_interval_and_says_so():
    comparison = summarise(arms_of("a", [0.90]) + arms_of("b", [0.89], bits=2))
    assert comparison.recommended == "a"
    assert comparison.summary("a").own.low is None
    assert "one seed" in comparison.reason
    assert "without an interval a small difference may be chance" in comparison.reason


def test_a_difference_inside_its_interval_is_a_tie_that_the_narrower_arm_wins():
    wide = arms_of("wide", [0.950, 0.960, 0.955], bits=8)
    narrow = arms_of("narrow", [0.953, 0.955, 0.954], bits=4)
    comparison = summarise(wide + narrow)
    assert comparison.ranking == ["narrow", "wide"]
    assert "ties with wide" in comparison.reason
    assert comparison.reason.endswith("and it is narrower.")


def test_at_equal_width_the_tie_goes_to_the_cheaper_arm():
    dear = arms_of("dear", [0.950, 0.960, 0.955], bitops=2e12)
    cheap = arms_of("cheap", [0.953, 0.955, 0.954], bitops=1e12)
    comparison = summarise(dear + cheap)
    assert comparison.recommended == "cheap"
    assert "1.00 T simulated BitOps against 2.00 T; 10 s against 10 s" in comparison.reason


def test_few_seeds_that_cannot_tell_do_not_make_a_bad_arm_a_tie():
    # Two seeds: the interval of the difference (20 points) is some 250 points wide and holds 0.
    good = arms_of("good", [0.95, 0.96], bits=8)
    bad = arms_of("bad", [0.85, 0.66], bits=2)
    comparison = summarise(good + bad)
    assert comparison.ranking == ["good", "bad"]
    assert "lies inside the interval and may be chance" in comparison.reason


def test_a_clear_winner_is_called_clear():
    # Differences 10.0, 10.0 and 10.2 points: mean 10.067, s 0.11547, half 4.30265 * 0.11547 / sqrt(3) = 0.287.
    comparison = summarise(arms_of("a", [0.95, 0.96, 0.955]) + arms_of("b", [0.85, 0.86, 0.853], bits=2))
    assert (
        "is the highest, clear of b at 2 bits with 85.4% ± 1.3 (+10.1 points, 95% interval +9.8 to +10.4)"
        in comparison.reason
    )


def test_baseline_and_ablations_are_yardsticks_and_not_recommended():
    arms = (
        arms_of("fp32", [0.97, 0.98, 0.99], kind="baseline", bits=32)
        + arms_of("random", [0.95, 0.953, 0.96], kind="ablation")
        + arms_of("four", [0.92, 0.93, 0.95], bits=4)
    )
    comparison = summarise(arms)
    assert comparison.ranking[0] == "fp32"
    assert comparison.recommended == "four"
    assert "4.7 points below the unquantized baseline" in comparison.reason
    assert comparison.reason.endswith(".")
    assert comparison.reason.count(". ") == 0


def test_a_diverged_arm_comes_last_and_is_not_recommended():
    comparison = summarise(arms_of("nan", [math.nan, 0.9]) + arms_of("low", [0.1, 0.2]))
    assert comparison.ranking == ["low", "nan"]
    assert comparison.recommended == "low"
    assert comparison.pareto == ["low"]
    nothing = summarise(arms_of("nan", [math.nan]))
    assert "nothing here is worth shipping" in nothing.reason


def test_cpt_is_paired_by_seed_at_the_other_arms_width():
    cpt = arms_of("cpt", [0.9, 0.8, 0.7], kind="cpt", bits=8, scores={4: [0.85, 0.75, 0.65]})
    other = arms_of("static_4bit", [0.70, 0.60], bits=4, first_seed=1)  # seeds 1 and 2
    (difference,) = summarise(cpt + other).cpt_differences
    assert (difference.arm, difference.cpt_bits, difference.same_width) == ("static_4bit", 4, True)
    assert difference.difference.n == 2
    assert difference.difference.mean == pytest.approx(0.05)  # (0.75 - 0.70, 0.65 - 0.60)


def test_without_a_score_at_that_width_cpt_stands_at_its_own():
    cpt = arms_of("cpt", [0.9, 0.8, 0.85], kind="cpt", bits=8)
    (difference,) = summarise(cpt + arms_of("mixed", [0.80, 0.72, 0.74], bits=3)).cpt_differences
    assert (difference.cpt_bits, difference.same_width) == (8, False)
    assert difference.difference.mean == pytest.approx((0.10 + 0.08 + 0.11) / 3)
    assert difference.verdict == "better"


def test_arms_without_a_common_seed_are_not_paired():
    cpt = arms_of("cpt", [0.9], kind="cpt")
    assert summarise(cpt + arms_of("b", [0.9], first_seed=7)).cpt_differences == []


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ([0.80, 0.81, 0.80], "better"),
        ([0.99, 0.99, 0.98], "worse"),
        ([0.90, 0.92, 0.88], "inside the interval"),
        ([0.88, 0.89, 0.90], "inside the interval"),  # the same gap in every seed: no spread is no certainty
    ],
)
def test_verdicts(other, verdict):
    cpt = arms_of("cpt", [0.90, 0.91, 0.92], kind="cpt")
    (difference,) = summarise(cpt + arms_of("other", other)).cpt_differences
    assert difference.verdict == verdict


def test_one_shared_seed_gives_no_verdict():
    (difference,) = summarise(arms_of("cpt", [0.9], kind="cpt") + arms_of("b", [0.1])).cpt_differences
    assert difference.verdict == "no interval"


def test_pareto_front():
    arms = (
        arms_of("cheap", [0.5], bitops=1e9)
        + arms_of("beaten", [0.4], bitops=2e9)
        + arms_of("good", [0.9], bitops=3e9)
        + arms_of("same_but_dear", [0.9], bitops=4e9)
    )
    comparison = summarise(arms)
    assert comparison.pareto == ["cheap", "good"]
    assert [row.pareto for row in comparison.summaries if row.name in comparison.pareto] == [True, True]


def test_errors():
    with pytest.raises(BitdialError, match="at least one arm"):
        summarise([])
    with pytest.raises(BitdialError, match="'a' is there twice with seed 0"):
        summarise(arms_of("a", [0.9]) + arms_of("a", [0.9]))


@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=4), min_size=1, max_size=6), st.randoms())
def test_ranking_is_a_permutation_that_never_puts_a_clearly_worse_arm_first(table, random):
    arms = [arm for i, row in enumerate(table) for arm in arms_of(f"a{i}", row, bits=1 + random.randrange(32))]
    comparison = summarise(arms)
    assert sorted(comparison.ranking) == sorted(f"a{i}" for i in range(len(table)))
    best = max(row.own.mean for row in comparison.summaries)
    assert comparison.summary(comparison.recommended).own.mean >= best - 0.01 - 1e-12
    assert comparison.pareto


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_whole_run(seeds):
    comparison = fabricate(seeds=seeds, iterations=40).comparison
    assert len(comparison.summaries) == 9
    assert {item.arm for item in comparison.cpt_differences} == set(comparison.ranking) - {"cpt"}
    assert [item.arm for item in comparison.cpt_differences if not item.same_width] == [
        name for name in comparison.ranking if "mixed" in name
    ]
