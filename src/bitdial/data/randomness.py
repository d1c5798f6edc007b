"""Random numbers as a pure function of where they are used, so that a resumed run needs no history."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bitdial.errors import BitdialError


def check_seed(seed: int) -> None:
    """Refuse a seed that is not a whole number in [0, 2**63)."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise BitdialError(f"seed must be a whole number in [0, 2**63), got {seed!r}")


def generator_for(*coordinates: int) -> torch.Generator:
    """Return a fresh CPU generator that depends on all coordinates (for instance seed, epoch, batch) and nothing else.

    The coordinates are hashed (BLAKE2b), not added: (seed 1, epoch 0) and (seed 0, epoch 1) have nothing in common. The
    generator is a CPU one also for data on a GPU, so that a run draws the same augmentation on every device.
    """
    packed = struct.pack(f"<{len(coordinates)}q", *coordinates)
    seed = int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")
    return torch.Generator().manual_seed(seed)


@contextmanager
def global_draws_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let code that draws from torch's global generators draw from `generator` instead.

    The CPU's generator, and the one of `device` where that is a GPU, are seeded by one draw of `generator` and put back
    afterwards: what is drawn inside depends on nothing else and disturbs nothing.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        # Not torch.manual_seed: that would also reseed devices that are not put back.
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.default_generators[device.index].manual_seed(seed)
        yield
