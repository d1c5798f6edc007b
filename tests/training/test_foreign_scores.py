"""Scores of other programs: in per cent, negated, of another kind; what early stopping makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.training import EarlyStopping
from bitdial.training.foreign_scores import adapted


def waited(
    best: Any, monitor: str = "accuracy", *, told: dict[str, Any] | None = None, **more: Any
) -> tuple[float | None, int, str]:
    """The best score and counter that a run takes over, and what it says."""
    early = {"counter": 3, "best_score": best, **(told or {})}
    state = {"model_state_dict": {}, "epoch": 73, "early_stopping": early, **more}
    stopping = EarlyStopping(40, mode="max" if monitor == "accuracy" else "min")
    state, notes = adapted(state, monitor, stopping)  # type: ignore[assignment]
    taken = state["early_stopping"]
    return taken["best_score"], taken["counter"], " ".join(notes)


@pytest.mark.parametrize(
    ("best", "share"), [(85.54, 0.8554), (torch.tensor(85.54), 0.8554), (100, 1.0), (0.8554, 0.8554), (1.0, 1.0)]
)
def test_an_accuracy_in_per_cent_is_taken_as_a_fraction(best: Any, share: float) -> None:
    got, counter, said = waited(best, told={"patience": 40})
    assert got == pytest.approx(share)
    assert counter == 3
    assert ("per cent" in said) == (float(best) > 1)


def test_a_small_percentage_is_known_by_the_other_accuracies_of_the_file() -> None:
    assert waited(0.9, val_acc=0.7, train_accuracy=1.4)[0] == pytest.approx(0.009)


@pytest.mark.parametrize(
    ("best", "more"),
    [
        (-0.43, {}), (0.43, {"best_val_loss": 0.43}), (-0.43, {"loss": 0.43}), (0.43, {"told": {"mode": "min"}}),
        (4300.0, {}),
    ],
)  # fmt: skip
def test_a_loss_is_not_compared_with_accuracies(best: float, more: dict[str, Any]) -> None:
    got, counter, said = waited(best, **more)
    assert (got, counter) == (None, 0)
    assert "cannot be compared with accuracy: patience starts anew" in said


@pytest.mark.parametrize(
    ("best", "more", "wanted"),
    [
        (0.43, {}, (0.43, 3)), (-0.43, {}, (0.43, 3)), (-0.43, {"told": {"mode": "max"}}, (0.43, 3)),
        (85.54, {"best_accuracy": 85.54}, (None, 0)), (85.54, {"told": {"mode": "max"}}, (None, 0)),
    ],
)  # fmt: skip
def test_a_run_that_goes_by_its_loss(best: float, more: dict[str, Any], wanted: tuple[float | None, int]) -> None:
    got, counter, said = waited(best, "loss", **more)
    assert (got, counter) == wanted
    assert bool(said) == (best != 0.43)


def test_best_scores_are_of_weights_that_are_not_there() -> None:
    state = {"model_state_dict": {}, "best_score": 85.54, "best_accuracy": 85.54, "best_epoch": 70, "recorder": [1]}
    taken, notes = adapted(state, "accuracy", None)
    assert taken == {"model_state_dict": {}}
    assert "best_score 85.54, best_accuracy 85.54" in notes[0]


def test_a_score_that_is_no_accuracy_has_whatever_unit_it_has() -> None:
    assert adapted(
        {"model_state_dict": {}, "early_stopping": {"counter": 1, "best_score": 31.2}}, "psnr", EarlyStopping(5)
    )[0]["early_stopping"] == {"counter": 1, "best_score": 31.2}


@pytest.mark.parametrize("form", ["on", {"best_score": 3}, [1, 2]])
def test_another_form_starts_anew(form: Any) -> None:
    taken, notes = adapted({"model_state_dict": {}, "early_stopping": form}, "accuracy", EarlyStopping(5))
    assert "early_stopping" not in taken
    assert "has no counter: patience starts anew" in notes[0]


def test_patience_that_was_used_up_before_is_refused() -> None:
    state = {"model_state_dict": {}, "early_stopping": {"counter": 5, "best_score": 85.5, "patience": 5}}
    with pytest.raises(BitdialError, match="has waited for 5 evaluations already, expected less than"):
        adapted(state, "accuracy", EarlyStopping(5))


def test_a_run_of_this_program_that_went_by_another_score() -> None:
    state = {"log_rows": 3, "monitor": "loss", "best_score": 0.4, "early_stopping": {"counter": 1}, "epoch": 2}
    assert adapted(state, "loss", EarlyStopping(5, mode="min")) == (state, [])
    taken, notes = adapted(state, "accuracy", EarlyStopping(5))
    assert taken == {"log_rows": 3, "monitor": "loss", "epoch": 2}
    assert "goes by loss and this run by accuracy" in notes[0]
