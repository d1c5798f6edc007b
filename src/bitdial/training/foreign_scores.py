"""Scores in a checkpoint of another loop, or of a run with another goal, in the terms of the run that goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError

if TYPE_CHECKING:
    from bitdial.training.scoring import EarlyStopping

OF_THE_LOOP = "log_rows"
"""What only a checkpoint of `bitdial.training.fit` has."""
_BEST = ("best_score", "best_step", "best_epoch")
_KEPT = frozenset(
    {
        "model_state_dict", "optimizer_state_dict", "optimizer_settings", "scheduler_state_dict", "scaler_state_dict",
        "ema_state_dict", "early_stopping", "epoch", "step", "applied_steps",
    }
)  # fmt: skip
"""What another loop may mean by the same words."""
_COUNTERS = ("counter", "wait", "wait_count", "num_bad_epochs")
_SCORES = ("best_score", "best", "best_metric", "best_value")


def adapted(
    state: Mapping[str, Any], monitor: str, stopping: EarlyStopping | None
) -> tuple[Mapping[str, Any], list[str]]:
    """Return a state whose scores can be compared with those of this run, and a sentence for each that changed.

    Accuracies are fractions here, and many programs write per cent; some write a loss as a score, negated, so that more
    of it is better. A best score also belongs to weights, which a run that begins with a file does not have.

    Args:
        state: a loaded checkpoint.
        monitor: the score that this run goes by.
        stopping: its early stopping.

    Raises:
        BitdialError: as much patience as there is was used up before, so that nothing would be trained.
    """
    if OF_THE_LOOP in state:
        if state.get("monitor", monitor) == monitor:
            return state, []
        left = {name: value for name, value in state.items() if name not in (*_BEST, "early_stopping")}
        return left, [f"the checkpoint goes by {state['monitor']} and this run by {monitor}: the best is sought anew"]
    if "model_state_dict" not in state:
        return state, []  # bare weights
    kept = {name: value for name, value in state.items() if name in _KEPT}
    notes = []
    found = [f"{name} {_short(value)}" for name, value in _numbers(state) if name.startswith("best_")]
    if found:
        notes.append(
            f"{', '.join(found)} in the checkpoint: of weights that are not kept here; the best is sought anew"
        )
    waited = kept.pop("early_stopping", None)
    if waited and stopping is not None:
        counter, best, note = _waited(waited, state, monitor, stopping)
        notes += note
        if counter is not None:
            kept["early_stopping"] = {"counter": counter, "best_score": best}
    return kept, notes


def _waited(
    waited: Any, state: Mapping[str, Any], monitor: str, stopping: EarlyStopping
) -> tuple[int | None, float | None, list[str]]:
    """Evaluations without improvement, the best score before them in this run's terms, and what is to be said."""
    told = dict(waited) if isinstance(waited, Mapping) else {}
    counter = next((told[name] for name in _COUNTERS if isinstance(told.get(name), int)), None)
    given = next((number for name in _SCORES if (number := _number(told.get(name))) is not None), None)
    if counter is None or counter < 0:
        return None, None, ["early stopping in the checkpoint has no counter: patience starts anew"]
    notes = []
    patience = told.get("patience")
    if isinstance(patience, int) and patience != stopping.patience:
        notes.append(
            f"early stopping in the checkpoint has a patience of {patience}, this run one of {stopping.patience}"
        )
    best, why = (None, "") if given is None else _comparable(given, told, state, monitor, stopping.mode)
    if why:
        notes.append(f"the best_score {_short(given)} of early stopping in the checkpoint {why}")
    if best is None:
        return (0 if given is not None else counter), None, notes
    if counter >= stopping.patience:
        raise BitdialError(
            f"early stopping in the checkpoint has waited for {counter} evaluations already, expected less than "
            f"early_stopping_patience, {stopping.patience}: nothing would be trained; raise it, or leave out "
            "early_stopping"
        )
    return counter, best, notes


def _comparable(
    best: float, told: Mapping[str, Any], state: Mapping[str, Any], monitor: str, mode: str
) -> tuple[float | None, str]:
    """The score in this run's terms, None where it is of another kind; and what is to be said of it."""
    anew = f"cannot be compared with {monitor}: patience starts anew"
    theirs = {name: value for name, value in (*_numbers(state), *_numbers(told)) if name not in _SCORES}
    accuracies = [value for name, value in theirs.items() if "acc" in name]
    losses = [value for name, value in theirs.items() if "loss" in name]
    if mode == "min":
        if best < 0:
            return -best, f"is a negated loss: it is taken as {_short(-best)}"
        return (None, anew) if best in accuracies or told.get("mode") == "max" else (best, "")
    if told.get("mode") == "min" or best in losses or -best in losses:
        return None, anew
    if "acc" not in monitor:
        return best, ""
    percent = best > 1 or any(value > 1 for value in accuracies)
    share = best / 100 if percent else best
    if not 0 <= share <= 1:
        return None, anew
    return share, f"is in per cent: it is taken as {_short(share)}" if percent else ""


def _numbers(state: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in state.items():
        number = _number(value)
        if isinstance(name, str) and number is not None:
            yield name.lower(), number


def _number(value: Any) -> float | None:
    """A finite number, also one in a tensor; None for all else."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) and not isinstance(value, str) else None


def _short(value: float | None) -> str:
    return f"{value:.6g}"
