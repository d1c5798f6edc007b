"""Schedulers of gamma, the decay of the weights that balance the losses: by the epoch, or when the loss levels off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

from bitdial import schedules
from bitdial.compression.balance.plateau import Plateau
from bitdial.errors import BitdialError, as_bitdial_errors, suggest
from bitdial.schedules._checks import check_count, check_number

_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": (),
    "step": ("step_epochs", "gamma_decay"),
    "adaptive": ("window_size", "threshold", "gamma_decay"),
    "hpcm": ("continuous",),
}
STRATEGIES = tuple(_OPTIONS)


class _GammaScheduler:
    """Sets ``optimizer.gamma``; a subclass says to what."""

    _strategy: str

    def __init__(self, optimizer: Any, total_epochs: int) -> None:
        if not hasattr(optimizer, "gamma"):
            raise BitdialError(
                f"optimizer must have a gamma to set, got {type(optimizer).__name__} without; "
                "pass BalancedOptimizer(optimizer, ...)"
            )
        self.optimizer, self.total_epochs, self.epoch = optimizer, check_count(total_epochs, "total_epochs"), 0

    def _go_to(self, epoch: int) -> None:
        if isinstance(epoch, bool) or not isinstance(epoch, Integral) or not 0 <= epoch <= self.total_epochs:
            raise BitdialError(
                f"epoch must be a whole number in 0..{self.total_epochs} (total_epochs), got {epoch!r}; "
                "count from 0, and give the scheduler the epochs of the whole run"
            )
        self.epoch = int(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return strategy and epoch, and what else the strategy remembers."""
        return {"strategy": self._strategy, "epoch": self.epoch}

    def _take_up(self, state: Mapping[str, Any]) -> None:
        if state.get("strategy") != self._strategy or "epoch" not in state:
            raise BitdialError(
                f"expected the state of a gamma scheduler with strategy {self._strategy!r}, got that of "
                f"{state.get('strategy', 'something else')!r}; resume with the strategy that the run was started with"
            )
        self._go_to(state["epoch"])


class AdaptiveGammaScheduler(_GammaScheduler):
    """Moves ``optimizer.gamma`` from `initial_gamma` over the epochs of a run; it is there from the start.

    With g0, g1 the initial and final gamma, t the epoch and T `total_epochs`:

    ============  ==================================================================================================
    ``linear``    ``g0 - (g0 - g1) t / T``
    ``cosine``    ``g1 + (g0 - g1) / 2 (1 + cos(pi t / T))``
    ``step``      g0, times `gamma_decay` (.5) at each of `step_epochs` (a third and two thirds of T)
    ``adaptive``  ``g1 + (gamma - g1) * gamma_decay`` (.5) whenever the loss levels off, see `Plateau`; options
                  `window_size` (50) and `threshold` (.01)
    ``hpcm``      three phases, see `bitdial.schedules.hpcm`; option `continuous` (False)
    ============  ==================================================================================================

    ``step`` and ``hpcm`` end where their factors lead and have no use for g1. All but ``adaptive`` are pure functions
    of the epoch.

    Args:
        optimizer: a `BalancedOptimizer`, or whatever else has a ``gamma``.
        strategy: one of the above.
        initial_gamma, final_gamma: g0 and g1, from 0 up.
        total_epochs: of the whole run.
        options: those of the strategy.

    Raises:
        BitdialError: an unknown strategy or option, a number out of bounds, or an optimizer without gamma.
    """

    def __init__(
        self,
        optimizer: Any,
        strategy: str = "cosine",
        initial_gamma: float = 0.006,
        final_gamma: float = 0.001,
        total_epochs: int = 3000,
        **options: Any,
    ) -> None:
        if strategy not in STRATEGIES:
            raise BitdialError(
                f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}{suggest(str(strategy), STRATEGIES)}"
            )
        self._strategy = strategy
        for name in options:
            if name not in _OPTIONS[strategy]:
                takes = ", ".join(_OPTIONS[strategy]) or "none"
                raise BitdialError(f"options of strategy {strategy} are {takes}, got {name!r}; leave it out")
        with as_bitdial_errors():
            super().__init__(optimizer, total_epochs)
            first = check_number(initial_gamma, "initial_gamma", least=0)
            last = check_number(final_gamma, "final_gamma", least=0)
            self._plateau = Plateau(first, last, **options) if strategy == "adaptive" else None
            self._schedule = self._made(first, last, options)
        optimizer.gamma = self.gamma

    def _made(self, first: float, last: float, options: Mapping[str, Any]) -> schedules.Schedule | None:
        total = self.total_epochs
        if self._strategy == "step":
            thirds = [drop for drop in (total // 3, 2 * total // 3) if drop]
            made = schedules.step_decay(first, options.get("gamma_decay", 0.5), options.get("step_epochs", thirds))
            if made.starts[-1] > total:
                raise BitdialError(
                    f"step_epochs must be within the run's {total} epochs, got {list(made.starts[1:])}; lower them"
                )
            return made
        if self._strategy == "hpcm":
            return schedules.hpcm(first, total, **options)
        if self._strategy == "adaptive":
            return None
        made_of = schedules.linear_decay if self._strategy == "linear" else schedules.cosine_decay
        return made_of(first, last, total)

    @property
    def gamma(self) -> float:
        """The gamma of the present epoch."""
        if self._plateau is not None:
            return self._plateau.gamma
        assert self._schedule is not None
        return self._schedule(self.epoch)

    def step(self, epoch: int, current_loss: float | None = None) -> float:
        """Set ``optimizer.gamma`` to that of `epoch`, and return it.

        Args:
            epoch: from 0 to `total_epochs`.
            current_loss: for ``adaptive``: what is to go down, one for each call. Before the first epoch there is none.

        Raises:
            BitdialError: an epoch out of bounds, or no loss where the strategy lives on it.
        """
        self._go_to(epoch)
        if self._plateau is not None:
            if current_loss is not None:
                self._plateau.see(current_loss)
            elif epoch > 0:
                raise BitdialError("strategy adaptive needs the loss, got none; call step(epoch, current_loss)")
        gamma = self.optimizer.gamma = self.gamma
        return gamma

    def state_dict(self) -> dict[str, Any]:
        """Return strategy and epoch; for ``adaptive`` gamma and the window of losses too."""
        return super().state_dict() | ({} if self._plateau is None else self._plateau.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave (`BitdialError`: it is of another strategy), and set the gamma."""
        self._take_up(state)
        if self._plateau is not None:
            self._plateau.load_state_dict(state)
        self.optimizer.gamma = self.gamma


class HPCMGammaScheduler(_GammaScheduler):
    """The three phases of `bitdial.schedules.hpcm`, for one gamma or for one of each task.

    A codec that codes in scales reports the bits of each; a loss of each is a task, with a gamma of its own:
    ``{"distortion": .006, "s1": .008, "s2": .006, "s3": .004}``, in the order of the tasks.

    Args:
        optimizer: a `BalancedOptimizer`, with as many tasks as there are gammas.
        total_epochs: of the whole run.
        initial_gamma: from 0 up; or a mapping of such numbers by name.
        continuous: as in `bitdial.schedules.hpcm`.

    Raises:
        BitdialError: a number out of bounds, an optimizer without gamma or with another number of tasks.
    """

    _strategy = "hpcm"

    def __init__(
        self,
        optimizer: Any,
        total_epochs: int = 3000,
        initial_gamma: float | Mapping[str, float] = 0.006,
        *,
        continuous: bool = False,
    ) -> None:
        each = isinstance(initial_gamma, Mapping)
        named = dict(initial_gamma) if isinstance(initial_gamma, Mapping) else {"initial_gamma": initial_gamma}
        with as_bitdial_errors():
            super().__init__(optimizer, total_epochs)
            self._schedules: dict[str, Callable[[int], float]] = {
                name: schedules.hpcm(check_number(value, f"gamma of {name}" if each else name, least=0), total_epochs,
                                     continuous=continuous)
                for name, value in named.items()
            }  # fmt: skip
        self._each = each
        self._set()

    @property
    def gamma(self) -> float | dict[str, float]:
        """The gamma of the present epoch; those of all tasks where there are several."""
        gammas = {name: schedule(self.epoch) for name, schedule in self._schedules.items()}
        return gammas if self._each else gammas["initial_gamma"]

    def _set(self) -> float | dict[str, float]:
        gamma = self.gamma
        self.optimizer.gamma = tuple(gamma.values()) if isinstance(gamma, dict) else gamma
        return gamma

    def step(self, epoch: int, current_loss: float | None = None) -> float | dict[str, float]:
        """Set ``optimizer.gamma`` to that of `epoch`, or to one of each task, and return it; the loss is not asked."""
        self._go_to(epoch)
        return self._set()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave (`BitdialError`: it is of another strategy), and set the gamma."""
        self._take_up(state)
        self._set()
