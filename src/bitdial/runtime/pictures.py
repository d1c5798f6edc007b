"""Pictures as a network takes them, and what it says of them in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitdial.data.augment import Normalise
from bitdial.data.images import decode
from bitdial.errors import BitdialError
from bitdial.recipes.saved_model import SavedModel

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow takes it


@dataclass(frozen=True)
class Guess:
    """A class that a network takes a picture for.

    Attributes:
        name: of the class, or its number.
        share: its probability as the network has it (softmax).
    """

    name: str
    share: float


class Pictures:
    """Reads pictures for a network, and its answers.

    Args:
        described: what is known of the network.

    Raises:
        BitdialError: it takes no pictures, or nothing is known of what it takes.
    """

    def __init__(self, described: SavedModel | None) -> None:
        if described is None:
            raise BitdialError(
                "the file does not say what its network takes (size, mean and deviation of images); call it from "
                "Python: bitdial.runtime.load(file)(batch)"
            )
        size, channels = described.image_size, described.in_channels
        if described.signals is not None or not described.num_classes or size is None or channels is None:
            raise BitdialError("expected a network that tells images apart, got another kind; call it from Python")
        if channels not in (1, 3) or len(described.mean) != channels or len(described.std) != channels:
            raise BitdialError(
                f"expected a network of grey or colour images whose mean and deviation are known, got {channels} "
                f"channels and {len(described.mean)} means; call it from Python with a batch that you have prepared"
            )
        self._size, self._channels = size, channels
        self._normalise = Normalise(tuple(described.mean), tuple(described.std))
        self._names = described.class_names or [str(number) for number in range(described.num_classes)]

    def read(self, path: Path) -> Tensor:
        """A picture as ``(channels, size, size)``, uint8: made square as in training, grey where the network is.

        Raises:
            BitdialError: it cannot be read.
        """
        pixels = decode(path, self._size)
        if self._channels == 3:
            return pixels
        return (pixels.double() * torch.tensor(_LUMA).double().view(3, 1, 1)).sum(0, keepdim=True).round().byte()

    def batch(self, pictures: Sequence[Tensor]) -> Tensor:
        """Some of them, as the network takes them."""
        return self._normalise(torch.stack(list(pictures)))

    def guesses(self, outputs: Any, most: int) -> list[list[Guess]]:
        """The likeliest classes of each picture, the first one first."""
        shares = torch.as_tensor(outputs).float().softmax(1)
        found = shares.topk(min(most, shares.shape[1]), 1)
        return [
            [Guess(self._name(number), share) for number, share in zip(numbers, values, strict=True)]
            for numbers, values in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]

    def _name(self, number: int) -> str:
        return self._names[number] if number < len(self._names) else str(number)
