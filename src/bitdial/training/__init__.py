"""Training: the loop, tasks, optimizers, logs, progress, and what makes a run stoppable at any step."""

from bitdial.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__)
