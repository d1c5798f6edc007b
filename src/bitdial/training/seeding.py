"""Every source of randomness of a process, seeded together, saved together, restored together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bitdial.errors import BitdialError


def seed_everything(seed: int, *, rank: int = 0) -> None:
    """Seed Python, NumPy and torch (CPU and every CUDA device).

    Args:
        seed: a whole number in [0, 2**32).
        rank: added to the seed, so that the processes of one run draw different dropout masks. Seed with rank 0 while
            the model is being built, so that every process builds the same one.

    Raises:
        BitdialError: a seed that is not a whole number of that range.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise BitdialError(f"seed must be a whole number in [0, 2**32), got {seed!r}")
    value = (seed + rank) % 2**32
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def random_state() -> dict[str, Any]:
    """Return the state of every generator of this process as plain numbers and tensors.

    The result survives ``torch.save`` and ``torch.load(..., weights_only=True)``. CUDA generators are included for
    every device once CUDA is in use.
    """
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": {
            "kind": str(kind),
            "keys": torch.from_numpy(np.asarray(keys, dtype=np.int64).copy()),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put every generator back to `state`, as `random_state` gave it; anything else is a `BitdialError`.

    States of CUDA devices that this machine lacks are passed over: nothing here draws from them.
    """
    try:
        python, numpy_, cpu, cuda = state["python"], state["numpy"], state["torch"], state["cuda"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        keys = numpy_["keys"].numpy().astype(np.uint32)
        np.random.set_state((numpy_["kind"], keys, numpy_["position"], numpy_["has_gauss"], numpy_["cached"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BitdialError(f"expected a random state made by random_state(), got one that lacks {error}") from error
    torch.set_rng_state(cpu.cpu())
    if torch.cuda.is_available():
        for device, saved in enumerate(cuda[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved.cpu(), device)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Let the body draw what it likes; afterwards every generator is where it was before."""
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)
