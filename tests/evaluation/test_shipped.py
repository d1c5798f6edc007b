"""What runs would ship, side by side: who leads, what is not compared, and what is said of data and cost."""

from __future__ import annotations

from typing import Any

import pytest

from bitdial.evaluation.shipped import Entry, Shipped, headline, notes, place


def entry(name: str, *scores: float, test: str = "a", train: str = "b", **more: Any) -> Entry:
    shipped = Shipped(f"net of {name}", dict(enumerate(scores)), **{"bitops": 1e9, "seconds": 2.0, **more})
    return Entry(name, "joint", shipped, "digits", test, train)


def verdicts(*entries: Entry) -> dict[str, str]:
    return {each.entry.name: each.verdict for each in place(entries)}


def test_the_interval_of_the_paired_difference_says_how_sure_it_is() -> None:
    one, two, three = entry("one", 0.9, 0.91, 0.92), entry("two", 0.8, 0.81, 0.821), entry("three", 0.91, 0.90, 0.911)
    found = place([two, one, three])
    assert [each.entry.name for each in found] == ["one", "three", "two"]
    assert found[0].best
    assert found[1].verdict.startswith("ties (\u22120.3 points, ")
    assert found[2].verdict.startswith("worse (\u221210.0 points, ")
    assert headline(found) == "one leads with 91.0% \u00b1 2.5 (net of one), not told apart from three."


def test_one_seed_has_no_interval_and_other_seeds_are_not_paired() -> None:
    assert verdicts(entry("one", 0.9), entry("two", 0.8))["two"] == "\u221210.0 points, one seed in common: no interval"
    other = Entry("two", "joint", Shipped("x", {7: 0.8}), "digits", "a", "b")
    assert "no seed in common" in verdicts(entry("one", 0.9), other)["two"]
    assert "may be chance" in headline(place([entry("one", 0.9), entry("two", 0.8)]))


def test_other_test_data_and_other_measures_are_not_compared() -> None:
    mine, other = entry("one", 0.9), entry("two", 0.99, test="z")
    codec = entry("codec", 30.0, measure="PSNR", rate=0.5)
    found = place([mine, entry("near", 0.8), other, codec])
    assert {each.entry.name for each in found if each.verdict == "alone on its test data: not compared"} == {
        "two",
        "codec",
    }
    assert headline(found).endswith(" 2 on other test data, or of another kind, are apart.")
    assert headline(place([mine, other])) == "No two runs were measured on the same test data: nothing is compared."
    told = " ".join(notes([mine, other, codec]))
    assert "tested on 2 different sets" in told
    assert "codecs are compared with codecs alone" in told
    assert "trained on the same examples" not in told
    assert "trained on the same examples" in " ".join(notes([mine, entry("two", 0.8, train="c")]))


def test_a_codec_is_compared_at_its_own_rate_alone() -> None:
    def codec(name: str, psnr: float, rate: float) -> Entry:
        return entry(name, psnr, psnr + 0.1, psnr + 0.2, measure="PSNR", rate=rate)

    found = verdicts(codec("one", 32.0, 0.5), codec("two", 30.0, 0.2), entry("three", 31, 31.2, 31.1, **NEAR))
    assert found["two"] == "at another rate: not compared"
    assert found["three"].startswith("worse (\u22121.0 dB, ")


NEAR: dict[str, Any] = {"measure": "PSNR", "rate": 0.501}


@pytest.mark.parametrize(
    ("bitops", "told"),
    [
        (1.03e9, "equal simulated BitOps"),
        (3e9, "two took 3.0 times the simulated BitOps of one"),
        (None, "not counted"),
    ],
)
def test_what_training_cost_is_said(bitops: float | None, told: str) -> None:
    assert told in " ".join(notes([entry("one", 0.9), entry("two", 0.9, bitops=bitops)]))
