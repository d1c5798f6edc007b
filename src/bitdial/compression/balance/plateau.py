"""A gamma that decays when the loss levels off."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from bitdial.schedules._checks import check_count, check_number


class Plateau:
    """A gamma that decays towards `final` whenever the loss levels off.

    Over a window of the last `window_size` losses the relative improvement is (mean of the first half - mean of the
    second half) / |mean of the first half|. Below `threshold`, gamma becomes ``final + (gamma - final) * gamma_decay``
    and the window starts anew. A loss that is not finite is not looked at.
    """

    def __init__(
        self, initial: float, final: float, window_size: int = 50, threshold: float = 0.01, gamma_decay: float = 0.5
    ) -> None:
        self.gamma, self.final = initial, final
        self.threshold = check_number(threshold, "threshold")
        self.decay = check_number(gamma_decay, "gamma_decay", least=0)
        self._losses: deque[float] = deque(maxlen=check_count(window_size, "window_size", least=2))

    def see(self, loss: float) -> None:
        """Take one more loss into the window, and decay where it is full and flat."""
        value, losses = float(loss), self._losses
        if not math.isfinite(value):
            return
        losses.append(value)
        size = len(losses)
        if size < (losses.maxlen or 0):
            return
        seen, half = list(losses), size // 2
        before, after = sum(seen[:half]) / half, sum(seen[half:]) / (size - half)
        improvement = (before - after) / max(abs(before), 1e-300)  # a loss of 0 cannot become better
        if improvement < self.threshold:
            self.gamma = self.final + (self.gamma - self.final) * self.decay
            losses.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return gamma and the losses of the window."""
        return {"gamma": self.gamma, "losses": list(self._losses)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.gamma = float(state["gamma"])
        self._losses.clear()
        self._losses.extend(float(loss) for loss in state["losses"])
