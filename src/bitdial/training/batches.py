"""The stream of batches, which can be taken up again in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from bitdial.errors import BitdialError
from bitdial.training.seeding import random_state, restore_random_state


class BatchStream:
    """Yield the batches of each epoch in groups, one group per optimizer step.

    Args:
        loader: anything that can be iterated once per epoch. Exact resume in mid-epoch comes in two ways: a loader with
            ``set_epoch(epoch)`` and ``start_at(batch)`` jumps there; any other is rewound to the random state that its
            epoch began with and its first batches are consumed. (Worker processes that outlive an epoch,
            ``persistent_workers=True``, keep randomness that nobody can rewind: order exact, augmentation not.)
        group_size: batches per group; an epoch's last group holds what is left.
        world_size: processes that share the data.

    Raises:
        BitdialError: something that cannot be iterated, or a DataLoader that would feed every process the same data.
    """

    def __init__(self, loader: Iterable[Any], group_size: int, world_size: int = 1) -> None:
        if not isinstance(loader, Iterable):
            raise BitdialError(f"expected a loader, an iterable of batches, got {type(loader).__name__}")
        if world_size > 1 and isinstance(loader, DataLoader) and not isinstance(loader.sampler, DistributedSampler):
            raise BitdialError(
                f"{world_size} processes would all see the same batches; give the DataLoader a "
                "sampler=DistributedSampler(...), or make the loader with rank and world_size"
            )
        self.loader = loader
        self.group_size = group_size
        self.epoch_state: dict[str, Any] | None = None
        """Random state at the beginning of the running epoch, for loaders that draw from the process's generators."""

    @property
    def size(self) -> int | None:
        """Batches per epoch; None where the loader does not know."""
        try:
            return len(self.loader)  # type: ignore[arg-type]
        except (TypeError, NotImplementedError):
            return None

    def epoch(
        self, epoch: int, skip: int = 0, epoch_state: Mapping[str, Any] | None = None
    ) -> Iterator[tuple[list[Any], bool]]:
        """Yield ``(batches, whether the epoch is over with them)``.

        A loader of unknown length ends with a pair without batches.

        Args:
            epoch: its number, from 0.
            skip: batches of it that were already used.
            epoch_state: `epoch_state` at its beginning; needed when `skip` is not 0.

        Raises:
            BitdialError: an epoch without a batch.
        """
        batches, size, taken = self._begin(epoch, skip, epoch_state), self.size, skip
        while group := list(islice(batches, self.group_size)):
            taken += len(group)
            over = size is not None and taken >= size
            yield group, over
            if over:
                next(batches, None)  # lets a generator or worker pool finish what it does after its last batch
                return
        if taken == 0:
            raise BitdialError(
                f"the loader gave no batch in epoch {epoch}; it is empty, shorter than one batch with drop_last, or an "
                "iterator that can be gone through only once"
            )
        yield [], True

    def _begin(self, epoch: int, skip: int, epoch_state: Mapping[str, Any] | None) -> Iterator[Any]:
        loader: Any = self.loader
        for part in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            set_epoch = getattr(part, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
        if hasattr(loader, "start_at"):
            self.epoch_state = None
            if skip:
                loader.start_at(skip)
            return iter(loader)
        if not skip or epoch_state is None:
            self.epoch_state = {"process": random_state(), "loader": _generator_states(self.loader)}
            batches = iter(self.loader)
            return islice(batches, skip, None)
        now = random_state()
        self.epoch_state = dict(epoch_state)
        restore_random_state(epoch_state["process"])
        _restore_generators(self.loader, epoch_state["loader"])
        batches = iter(self.loader)
        for _ in islice(batches, skip):
            pass
        restore_random_state(now)
        return batches


def _generators(loader: Iterable[Any]) -> list[torch.Generator]:
    """Return the generators that a DataLoader and its sampler own, each once."""
    owners = (loader, getattr(loader, "sampler", None))
    found = [g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)]
    return list({id(g): g for g in found}.values())


def _generator_states(loader: Iterable[Any]) -> list[torch.Tensor]:
    return [g.get_state() for g in _generators(loader)]


def _restore_generators(loader: Iterable[Any], states: list[torch.Tensor]) -> None:
    for generator, state in zip(_generators(loader), states, strict=False):
        generator.set_state(state.cpu())
