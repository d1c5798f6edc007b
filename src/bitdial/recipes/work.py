"""What is learned: images by name, and whatever a user brings; recordings are in `recording_work`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bitdial.data import (
    RECORDINGS,
    Fingerprint,
    ImageDataset,
    RecordingDataset,
    SignalOptions,
    dataset_from_tensors,
)
from bitdial.data.fingerprint import Part
from bitdial.data.recordings import is_recordings
from bitdial.errors import BitdialError
from bitdial.models import check_name, check_signal_name, own_network
from bitdial.own_files import call, is_place
from bitdial.recipes.dataset_work import EVALUATION_BATCH, check_classes
from bitdial.recipes.dataset_work import ImageWork as ImageWork
from bitdial.recipes.options import BROUGHT, SharedConfig
from bitdial.recipes.options import OWN as OWN
from bitdial.recipes.recipe import Loaders
from bitdial.recipes.recording_work import RecordingWork
from bitdial.recipes.script_data import batches_of, first_of, identified, pair_of
from bitdial.training import Classification, Task

W = TypeVar("W", ImageWork, RecordingWork)


def check_model_name(name: str, dataset: str = "", data: object = None) -> None:
    """Refuse a network that does not exist, or not for this data, before that is loaded, perhaps over the network."""
    if name == OWN:
        raise BitdialError(BROUGHT.format("model must be a network's name"))
    if is_recordings(dataset) or isinstance(data, RecordingDataset):
        check_signal_name(name)
    else:
        check_name(name)


@dataclass(frozen=True)
class OwnWork:
    """What a script brings: a network, and loaders for each seed.

    Attributes:
        make_model: the network with new weights, unquantized or quantized; torch is seeded before it is called.
        make_loaders: seed, rank, number of processes -> the batches.
        task: loss and scores of a batch.
        name: what the data is called in reports.
        parts: the examples of train and test, or how many, as far as can be told.
        sized: batch size -> `make_loaders` for it, or None where the batches are the script's.
        model: the network's name, where it is a function of a file.
    """

    make_model: Callable[[], nn.Module]
    make_loaders: Callable[[int, int, int], Loaders]
    task: Task = field(default_factory=Classification)
    name: str = "data of a script"
    parts: Mapping[str, Part | int | None] = field(default_factory=dict)
    sized: Callable[[int], Callable[[int, int, int], Loaders]] | None = None
    model: str | None = None

    def build(self) -> nn.Module:
        """The script's network."""
        model = self.make_model()
        if not isinstance(model, nn.Module):
            raise BitdialError(f"model must be a torch.nn.Module or a function that makes one, got {model!r:.80}")
        return model

    def loaders(self, seed: int, rank: int = 0, world_size: int = 1) -> Loaders:
        """The script's batches."""
        return self.make_loaders(seed, rank, world_size)

    def under(self, options: Any) -> Self:
        """The same data in batches of the size that the options say, where they are not the script's own."""
        return self if self.sized is None else replace(self, make_loaders=self.sized(options.batch_size))

    def examples(self) -> int | None:
        """Those of the part train, where their number is known."""
        if self.sized is None:
            raise BitdialError(
                "batch_size auto needs data of which batches of any size can be made, got batches; give tensors or a "
                "torch Dataset, or batch_size as a number"
            )
        train = self.parts.get("train")
        return len(train) if isinstance(train, dict) else train

    def to(self, device: torch.device) -> Self:
        """The same: batches are moved one by one."""
        return self

    def facts(self) -> dict[str, Any]:
        """Nothing is known of a script's network, so that a file of it is loaded into one that is given."""
        return {"model": self.model, "dataset": self.name}

    def identify(self) -> Fingerprint:
        """Which examples the script brings, or how many, as far as can be told."""
        notes = [
            f"The data of the part {name} comes from the script: whether it changes cannot be checked."
            for name, part in self.parts.items()
            if part is None
        ]
        return Fingerprint(parts=dict(self.parts), notes=notes)

    def divided_as(self, before: Fingerprint, now: Fingerprint) -> Self:
        """The same: the script divides its data."""
        return self

    def told(self, part: str = "") -> str:
        """The name alone."""
        return self.name


def work_of(
    options: SharedConfig, model: object = None, data: object = None, task: Task | None = None
) -> ImageWork | RecordingWork | OwnWork:
    """The work that options name, with whatever a script brings instead.

    Args:
        options: name network and data where the script brings none.
        model: a network (each arm gets a copy) or a function that makes one; None: ``options.model`` by name.
        data: ``(train, test)``, each a pair of tensors, a torch Dataset, or an iterable that gives batches again; a
            third entry gives batches to re-estimate batch norm from; or an `ImageDataset` or a `RecordingDataset`.
            None: ``options.dataset``.
        task: loss and scores of a batch; classification if None.

    Raises:
        BitdialError: something else, or a network by name for data of which nobody knows the shape.
    """
    make, name = maker(model), "tensors of a script"
    if data is None and is_place(options.dataset):
        data, name = call(options.dataset, data_path=options.data_path), options.dataset
    read = is_recordings(options.dataset)
    if options.signals != SignalOptions() and not (data is None and read):
        raise BitdialError(
            f"signals.* are for recordings that are read by name ({', '.join(RECORDINGS)}), got them with the data set "
            f"{options.dataset!r}; leave them out"
        )
    if make is None:
        check_model_name(options.model, options.dataset, data)
    if (data is None and read) or isinstance(data, RecordingDataset):
        return replace(_classes(RecordingWork.of(options, data), task), make_model=make)
    if data is None and options.dataset == OWN:
        raise BitdialError(BROUGHT.format("dataset must be the name of a data set"))
    if data is None or isinstance(data, ImageDataset):
        return replace(_classes(ImageWork.of(options, data), task), make_model=make)
    if not isinstance(data, Sequence) or len(data) not in (2, 3):
        raise BitdialError(
            "data must be (train, test) or (train, test, recalibration), each a pair of tensors, a torch Dataset or an "
            f"iterable of batches, got {type(data).__name__}"
        )
    limits = (options.limit_train, options.limit_test, options.limit_train)
    parts = [first_of(part, limit) for part, limit in zip(data, limits, strict=False)]
    own = options.model if make is None and is_place(options.model) else None
    if make is None and (own is None or _image_pairs(data)):
        return _classes(ImageWork.of(options, _images(data, name)), task)
    make = make or partial(own_network, options.model)

    def sized(batch_size: int) -> Callable[[int, int, int], Loaders]:
        def loaders(seed: int, rank: int, world_size: int) -> Loaders:
            share = batch_size // world_size
            train = batches_of(parts[0], share, "train", seed, rank, world_size)
            test = batches_of(parts[1], EVALUATION_BATCH, "test")
            return Loaders(train, test, batches_of(parts[2], share, "recalibration") if len(parts) > 2 else train)

        return loaders

    known = {name: identified(part, name) for name, part in zip(("train", "test"), parts, strict=False)}
    cut = pair_of(parts[0]) is not None or isinstance(parts[0], Dataset)
    made = sized(options.batch_size)
    called = {"name": name} if is_place(name) else {}
    return OwnWork(make, made, task or Classification(), parts=known, sized=sized if cut else None, model=own, **called)


def _classes(work: W, task: Task | None) -> W:
    """The work with its task, for which there must be classes to tell apart where it is the usual one."""
    if task is None:
        check_classes(work)
    return replace(work, task=task or Classification())


def maker(model: object) -> Callable[[], nn.Module] | None:
    """What makes a script's network anew: its function, or copies of its module; None for None."""
    if model is None:
        return None
    if isinstance(model, nn.Module):
        return lambda: deepcopy(model)
    if callable(model):
        return model
    raise BitdialError(
        f"model must be a network's name, a torch.nn.Module or a function that makes one, got {model!r:.80}"
    )


def _image_pairs(data: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
    """Train and test as tensors, where both are images; else nothing."""
    pairs = [pair for part in data[:2] if (pair := pair_of(part)) is not None and pair[0].ndim == 4]
    return pairs if len(pairs) == 2 else []


def _images(data: Sequence[Any], name: str) -> ImageDataset:
    pairs = _image_pairs(data)
    if not pairs:
        raise BitdialError(
            "a network by name needs data as tensors, ((x, y), (x_test, y_test)) with images [N, C, H, W], got "
            "something else; give model= too, a module or a function that makes one"
        )
    return dataset_from_tensors(name, *pairs)
