"""The answer of every recipe: its parts, and its wording in constructed cases of cyclic training."""

from __future__ import annotations

import math

import pytest

from bitdial.evaluation.answer import (
    Answer,
    against_float,
    against_float_cost,
    certainty,
    cost_tiles,
    seeds_needed,
    still_falling,
)
from bitdial.evaluation.comparison import summarise
from bitdial.evaluation.page import Page, render_page
from bitdial.evaluation.results import ArmResult, EarlyStop, Interval, WidthCost
from bitdial.evaluation.statistics import corrected, interval
from bitdial.evaluation.wording import MINUS
from bitdial.recipes.cyclic.answer import answer_of
from tests.evaluation.fabricate import arms_of
from tests.evaluation.parsing import Parsed

NARROW, WIDE = [0.960, 0.962, 0.961], [0.900, 0.903, 0.902]


def told(*arms: list[ArmResult]) -> Answer:
    every = [arm for group in arms for arm in group]
    return answer_of(every, summarise(every))


def test_a_clear_winner_is_shipped_and_set_against_float() -> None:
    answer = told(
        arms_of("narrow", NARROW, bits=4),
        arms_of("wide", WIDE),
        arms_of("float", [0.970, 0.969, 0.972], kind="baseline", bits=32),
    )
    assert answer.headline == "Ship 4 bits"
    assert answer.quality.startswith("narrow: 96.1% ± 0.2, 0.9 points below float (97.0% ± 0.4; 95% interval ")
    assert "chance" not in answer.quality
    assert answer.certainty.startswith("3 seeds tell it apart from wide at 8 bits (+5.9 points, interval +5.8 to +6.1)")
    assert answer.trouble == []


def test_a_tie_ships_the_narrower_and_says_how_many_seeds_would_tell() -> None:
    answer = told(arms_of("narrow", [0.95, 0.96, 0.955], bits=4), arms_of("wide", [0.957, 0.959, 0.962]))
    assert answer.headline == "Ship 4 bits"
    assert f"3 seeds do not tell it apart from wide at 8 bits ({MINUS}0.4 points, " in answer.certainty
    assert "about 7 would (`--seeds 7`), if seeds go on to scatter as they do." in answer.certainty


def test_a_lead_that_may_be_chance_decides_nothing() -> None:
    answer = told(arms_of("narrow", [0.90, 0.96, 0.93], bits=4), arms_of("wide", [0.95, 0.95, 0.95]))
    assert answer.headline == "Not decided: 4 or 8 bits"


def test_one_seed_ships_what_leads_by_more_than_a_point_and_says_that_it_is_one() -> None:
    answer = told(arms_of("narrow", [0.90], bits=4), arms_of("wide", [0.95]))
    assert answer.headline == "Ship 8 bits"
    assert answer.certainty == (
        "One seed, so no interval, and small differences may be chance; nearest is narrow at 4 bits (5.0 points less). "
        "`--seeds 3` tells more."
    )
    close = told(arms_of("narrow", [0.945], bits=4), arms_of("wide", [0.95]), arms_of("half", [0.944], bits=2))
    assert close.headline == "Ship 8 bits; 2 may be as good"


def test_without_float_it_says_how_to_get_it() -> None:
    assert told(arms_of("a", [0.9])).quality == (
        "a: 90.0%; no float baseline to set it against: `--static.compare_to_baseline` trains one."
    )


def test_arms_that_failed_or_stopped_early_are_named() -> None:
    stopped = arms_of("a", [0.9])[0].model_copy(
        update={"early_stop": EarlyStop(unit="epoch", at=113, of=500, best=73, patience=40)}
    )
    answer = told([stopped], arms_of("b", [math.nan], bits=4))
    assert answer.headline == "Ship 8 bits"
    assert answer.lines["Training"] == (
        "b (seed 0) has no finite accuracy. a (seed 0) stopped early at epoch 113 of 500, best at 73."
    )
    nothing = told(arms_of("b", [math.nan], bits=4))
    assert nothing.headline == "Nothing to ship: no arm has a finite accuracy"
    assert list(nothing.lines) == ["Training"]


def test_a_width_that_the_arm_was_not_trained_for_is_named() -> None:
    answer = told(arms_of("a", [0.9], scores={4: [0.95]}))
    assert answer.headline == "Ship 4 bits"
    assert answer.quality.startswith("a at 4 bits (not trained for that width): 95.0%")


def test_loss_that_still_falls_asks_for_longer_training() -> None:
    (arm,) = arms_of("a", [0.9])
    history = arm.history.model_copy(update={"step": list(range(20)), "bits": [8.0] * 20})
    for losses, longer in (([1 / (1 + step) for step in range(20)], True), ([1.0] * 20, False)):
        answer = told([arm.model_copy(update={"history": history.model_copy(update={"loss": losses})})])
        assert ("longer training may gain more" in answer.certainty) == longer
    assert not still_falling([3.0, 2.0])


def test_shipping_is_set_against_float_and_costs_have_their_seconds() -> None:
    costs = {"4": WidthCost(size_bytes=1 << 10, bitops=16e6), "32": WidthCost(size_bytes=8 << 10, bitops=1024e6)}
    arm = arms_of("a", [0.9], bits=4)[0].model_copy(update={"costs": costs, "forward_seconds": 0.002})
    answer = told([arm])
    assert answer.cost == (
        "1.0 KiB, 8.0x smaller than float (8.0 KiB); 16.0 M BitOps an example, 64x fewer than float (simulated; "
        "2.0\u00a0ms here, as they are computed in floating point)."
    )
    assert [(tile.value, tile.label) for tile in answer.tiles] == [
        ("90.0%", "accuracy as shipped"),
        ("1.0 KiB", "size of the file, weights packed"),
        ("16.0 M", "BitOps an example (simulated); takes 2.0\u00a0ms here"),
        ("1.00 T", "BitOps to train (simulated); took 10\u00a0s"),
    ]
    assert against_float_cost(None, None, None, None, None) == ""
    assert [tile.label for tile in cost_tiles(None, 1e6, None, None, 3.0)] == ["to train (wall-clock)"]


def test_against_float() -> None:
    base = Interval(mean=0.9, n=1)
    assert against_float(base, base, Interval(mean=0.0, n=1), missing="x") == "90.0%, as float (90.0%)."
    above = against_float(Interval(mean=0.91, n=1), base, Interval(mean=0.01, n=1), missing="x")
    assert above == "91.0%, 1.0 points above float (90.0%)."
    doubt = against_float(base, base, Interval(mean=-0.01, low=-0.03, high=0.01, n=3), missing="x")
    assert doubt.endswith(f"95% interval {MINUS}3.0 to +1.0, perhaps by chance).")
    assert "interval" not in against_float(base, base, interval([-0.01, -0.02]), missing="x")


@pytest.mark.parametrize("comparisons", [1, 10])
def test_so_many_seeds_would_tell_and_one_less_would_not(comparisons: int) -> None:
    level = corrected(comparisons)
    gap = interval([0.01, 0.03, -0.01], confidence=level)
    needed = seeds_needed(gap, confidence=level)
    assert needed is not None
    half = {
        n: interval([0.01 + 0.02 * math.sqrt((n - 1) / n) * (-1) ** i for i in range(n)], confidence=level)
        for n in range(4, 60, 2)  # even counts: mean .01 and the spread of the three seeds, .02
    }
    tells = [n for n, each in half.items() if each.low is not None and each.low > 0]
    assert tells[0] in (needed, needed + 1)
    assert seeds_needed(interval([0.0001, 0.03, -0.03])) is None


def test_no_rival_says_nothing_and_a_lost_one_that_it_is_lost() -> None:
    assert certainty(None, "") == ""
    assert "no finite difference to b" in certainty(Interval(mean=math.nan, n=2), "b")


def test_the_page_shows_headline_and_lines_and_escapes_them() -> None:
    answer = Answer("Ship <4> bits", "a & b", "", "give `--seeds 3`", trouble=["x."])
    page = render_page(Page("t", [], [], headline=answer.headline, lines=answer.lines))
    assert Parsed(page).text.endswith("Ship <4> bits Accuracy a & b How sure give --seeds 3 Training x.")
    assert "<code>--seeds 3</code>" in page
