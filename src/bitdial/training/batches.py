"""The stream of batches, which can be taken up again in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler

from bitdial.errors import BitdialError
from bitdial.training.loader_state import LoaderState
from bitdial.training.seeding import random_state, restore_random_state
from bitdial.trees import map_tensors


class BatchStream:
    """Yield each epoch's batches in groups of `group_size`, one per optimizer step; the last has what is left.

    The loader is anything that can be iterated once per epoch. Exact resume in mid-epoch comes in two ways: a loader
    with ``set_epoch(epoch)`` and ``start_at(batch)`` jumps there; any other is rewound to the random state that its
    epoch began with, that of its own generators and counters included (`LoaderState`), and its first batches are
    consumed. (Worker processes that outlive an epoch, ``persistent_workers=True``, keep randomness that nobody can
    rewind: order exact, augmentation not.)

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
        self._memory = LoaderState(loader)
        self._epoch_state: dict[str, Any] | None = None
        self._resumed: Mapping[str, Any] | None = None

    @property
    def size(self) -> int | None:
        """Batches per epoch; None where the loader does not know."""
        return length_of(self.loader)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[tuple[list[Any], bool]]:
        """Yield ``(batches, whether the epoch is over with them)``, from batch number `skip` of the epoch on.

        A loader of unknown length ends with a pair without batches.

        Raises:
            BitdialError: an epoch without a batch.
        """
        batches, size, taken = self._begin(epoch, skip), self.size, skip
        while group := list(islice(batches, self.group_size)):
            taken += len(group)
            over = size is not None and taken >= size
            if over:
                next(batches, None)  # whatever it does after its last batch, such as drawing, belongs to this epoch
            yield group, over
            if over:
                return
        if taken == 0:
            raise BitdialError(
                f"the loader gave no batch in epoch {epoch}; it is empty, shorter than one batch with drop_last, or an "
                "iterator that can be gone through only once"
            )
        yield [], True

    def _begin(self, epoch: int, skip: int) -> Iterator[Any]:
        loader: Any = self.loader
        resumed, self._resumed, now = self._resumed, None, None
        if resumed is not None and not hasattr(loader, "start_at"):
            if skip and resumed["process"] is not None:
                now = random_state()
            _restore(self._memory, resumed["loader"])
            if now is not None:
                restore_random_state(resumed["process"])
        self._memory.set_epoch(epoch)
        if hasattr(loader, "start_at"):
            if skip:
                loader.start_at(skip)
            return iter(self.loader)
        self._epoch_state = {"process": random_state(), "loader": self._memory.state_dict()}
        batches = iter(self.loader)
        for _ in islice(batches, skip):
            pass
        if now is not None:
            restore_random_state(now)
        return batches

    def random_state(self, *, mid_epoch: bool) -> dict[str, Any] | None:
        """Return what another process needs to take up the stream here; None for a loader that jumps.

        `mid_epoch` says whether some batches of the running epoch were used.
        """
        if hasattr(self.loader, "start_at"):
            return None
        if mid_epoch:
            return self._epoch_state
        return {"process": None, "loader": self._memory.state_dict()}

    def load_random_state(self, state: Mapping[str, Any] | None) -> list[str]:
        """Begin the next epoch, or go on in it, from what `random_state` gave; return what will not be exact."""
        self._resumed = state
        if hasattr(self.loader, "start_at"):
            return []
        if state is None or (isinstance(state["loader"], Mapping) and self._memory.differs(state["loader"])):
            return [
                "the loader draws from other generators than the one that was saved: the data goes on from the same "
                "place, but not bit for bit"
            ]
        if any(loader.persistent_workers for loader in self._memory.loaders().values()):
            return [
                "the loader keeps its workers (persistent_workers): the order of the data is exact, random numbers "
                "drawn in the workers are not"
            ]
        return []


def length_of(loader: Iterable[Any]) -> int | None:
    """Batches per epoch; None where the loader does not know, as a `DataLoader` of a stream."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def to_device(batch: Any, device: torch.device) -> Any:
    """Return `batch` with every tensor in it (in tuples, lists, mappings and dataclasses) on `device`."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def _restore(memory: LoaderState, state: Any) -> None:
    if isinstance(state, Mapping):
        memory.load_state_dict(state)
        return
    # a checkpoint of an earlier version: the generators of a DataLoader and its sampler, each once
    owners = (memory.loader, getattr(memory.loader, "sampler", None))
    found = [g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)]
    for generator, saved in zip({id(g): g for g in found}.values(), state, strict=False):
        generator.set_state(saved.cpu())
