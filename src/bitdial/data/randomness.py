"""Random numbers as a pure function of where they are used, so that a resumed run needs no history."""

from __future__ import annotations

import hashlib
import struct

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
