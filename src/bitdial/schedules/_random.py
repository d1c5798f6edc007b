"""Widths drawn at random, without a random state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from bitdial.schedules._checks import check_count, check_step, check_whole, check_widths
from bitdial.schedules._types import Schedule


@dataclass(frozen=True)
class RandomBits:
    """One of `widths` for every `hold` steps, drawn by hashing the seed and the number of the draw."""

    widths: tuple[float, ...]
    seed: int
    hold: int

    def __call__(self, step: int) -> float:
        draw = f"{self.seed}:{check_step(step) // self.hold}".encode()
        # A hash rather than a generator: any step can be asked for in any order, and nothing needs to be saved.
        number = int.from_bytes(blake2b(draw, digest_size=8).digest(), "little")
        return self.widths[number % len(self.widths)]


def random_bits(widths: Sequence[float], seed: int = 0, hold: int = 1) -> Schedule:
    """Return a schedule that draws one of `widths`, evenly, and holds it for `hold` steps.

    The draw is a hash of ``seed`` and ``step // hold``: the same on every machine and every rank, untouched by the
    global random states, and the same after a resume. For draws that are independent between layers use
    ``per_layer(random_bits(widths), offset)`` with an offset larger than the run.

    Args:
        widths: what to draw from, each in [1, 32]; repeat one to draw it more often.
        seed: any whole number; another seed is another sequence.
        hold: steps that a drawn width is kept.

    Raises:
        ValueError: a width is outside [1, 32], `seed` is not whole, or `hold` is below 1.

    >>> bits = random_bits([2, 4, 8], seed=1, hold=2)
    >>> [int(bits(step)) for step in range(10)] == [int(bits(step)) for step in range(10)]
    True
    >>> bits(0) == bits(1)
    True
    """
    return RandomBits(check_widths(widths), check_whole(seed, "seed"), check_count(hold, "hold"))
