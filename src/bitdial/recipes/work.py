"""What is learned: images by name, and whatever a user brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import nn

from bitdial.data import (
    AugmentationOptions,
    BatchLoader,
    Fingerprint,
    ImageDataset,
    ImageSplit,
    build_augmentation,
    dataset_from_tensors,
    load_dataset,
    make_loader,
)
from bitdial.data.dataset import missing_classes, stratified_split
from bitdial.data.division import divided_as
from bitdial.data.fingerprint import Part
from bitdial.errors import BitdialError
from bitdial.models import build_model, check_name
from bitdial.recipes.options import SharedConfig
from bitdial.recipes.recipe import Loaders
from bitdial.recipes.script_data import batches_of, identified, pair_of
from bitdial.training import Classification, Task

EVALUATION_BATCH = 256
OWN = "(own)"
"""What options call a network or data that a script brought."""
_BROUGHT = (
    "{}, got one that a script brought; go on from Python: bitdial.run(RECIPE, model=..., data=..., resume=FOLDER)"
)


def check_model_name(name: str) -> None:
    """Refuse a network that does not exist before data is loaded, perhaps over the network."""
    if name == OWN:
        raise BitdialError(_BROUGHT.format("model must be a network's name"))
    check_name(name)


@dataclass(frozen=True)
class ImageWork:
    """Telling images of a data set apart.

    Attributes:
        options: which network, batch size, augmentation.
        dataset: whole.
        train: what is trained on.
        validation: training images that were held out to choose by, or None.
        make_model: a network of a script instead of one by name, or None.
    """

    options: SharedConfig
    dataset: ImageDataset
    train: ImageSplit
    validation: ImageSplit | None = None
    make_model: Callable[[], nn.Module] | None = None
    task: Task = field(default_factory=Classification)

    @classmethod
    def of(cls, options: SharedConfig, dataset: ImageDataset | None = None) -> ImageWork:
        """The images that options name, the same share of every class held out for all arms and seeds of a run.

        Raises:
            BitdialError: no such data, or too few images to hold some out.
        """
        dataset = dataset or load_dataset(options.dataset, options.data_path)
        fraction = getattr(options, "validation_fraction", None)
        if not fraction:
            return cls(options, dataset, dataset.train)
        kept, held_out = stratified_split(dataset.train.labels.cpu(), fraction, options.seed)
        return cls(options, dataset, dataset.train.subset(kept), dataset.train.subset(held_out))

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.dataset.name

    def build(self) -> nn.Module:
        """The network, by name, for the images at hand; or the script's."""
        if self.make_model is not None:
            return self.make_model()
        data = self.dataset
        return build_model(
            self.options.model, num_classes=data.num_classes, in_channels=data.in_channels, image_size=data.image_size
        )

    def loaders(self, seed: int, rank: int = 0, world_size: int = 1) -> Loaders:
        """Augmented batches to train on, each image once to measure on; a function of the seed."""
        options = self.options
        augment: Any = "standard"
        if isinstance(options, AugmentationOptions):
            augment = build_augmentation(self.train, **options.arguments())
        share: dict[str, Any] = {"seed": seed, "rank": rank, "world_size": world_size}
        return Loaders(
            train=self._training(options.batch_size // world_size, augment=augment, **share),
            test=self._plain(self.dataset.test),
            recalibration=self._training(options.batch_size, augment="none", seed=seed),
            validation=None if self.validation is None else self._plain(self.validation),
        )

    def _training(self, batch_size: int, **how: Any) -> BatchLoader:
        return make_loader(self.train, batch_size, train=True, workers=self.options.workers, **how)

    def _plain(self, split: ImageSplit) -> BatchLoader:
        return make_loader(split, EVALUATION_BATCH, train=False, workers=self.options.workers)

    def under(self, options: SharedConfig) -> Self:
        """The same images under the options of one arm."""
        return replace(self, options=options)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, dataset=self.dataset.to(device), train=self.train.to(device), validation=validation)

    def facts(self) -> dict[str, Any]:
        """Name of the network, its classes, shape and normalisation of the images."""
        data = self.dataset
        return {
            "model": None if self.make_model is not None else self.options.model,
            "num_classes": data.num_classes,
            "in_channels": data.in_channels,
            "image_size": data.image_size,
            "dataset": data.name,
            "mean": list(data.mean),
            "std": list(data.std),
            "class_names": list(data.class_names),
        }

    def identify(self) -> Fingerprint:
        """Which images there are in each part."""
        return Fingerprint.of(self.dataset, self._parts())

    def divided_as(self, before: Fingerprint, now: Fingerprint) -> Self:
        """The images divided, numbered and normalised as before, where it is known which is which."""
        same = ("parts", "class_names", "shape", "mean", "std")
        known = all(isinstance(part, dict) for each in (before, now) for part in each.parts.values())
        if not known or all(getattr(before, name) == getattr(now, name) for name in same):
            return self
        called = dict(zip(now.class_names, self.dataset.class_names, strict=True))
        parts = divided_as(before, now, self._parts())
        dataset = replace(
            self.dataset,
            train=parts["train"],
            test=parts["test"],
            class_names=tuple(called.get(name, name) for name in before.class_names),
        )
        lacked = missing_classes(self.dataset)
        notes = (*(note for note in dataset.notes if note not in lacked), *missing_classes(dataset))
        kept = replace(
            self, dataset=replace(dataset, notes=notes), train=parts["train"], validation=parts.get("validation")
        )
        if len(set(self.train.labels.tolist())) > 1:  # a task of a script may do with a single class
            _check_classes(kept)
        return kept

    def _parts(self) -> dict[str, ImageSplit]:
        chosen_by = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **chosen_by, "test": self.dataset.test}

    def told(self, part: str = "") -> str:
        """How many images there are."""
        if part == "test":
            return f"the {len(self.dataset.test)} test images of {self.name}"
        return f"{self.name}, {len(self.train)} training and {len(self.dataset.test)} test images"


@dataclass(frozen=True)
class OwnWork:
    """What a script brings: a network, and loaders for each seed.

    Attributes:
        make_model: the network with new weights, unquantized or quantized; torch is seeded before it is called.
        make_loaders: seed, rank, number of processes -> the batches.
        task: loss and scores of a batch.
        name: what the data is called in reports.
        parts: the examples of train and test, or how many, as far as can be told.
    """

    make_model: Callable[[], nn.Module]
    make_loaders: Callable[[int, int, int], Loaders]
    task: Task = field(default_factory=Classification)
    name: str = "data of a script"
    parts: Mapping[str, Part | int | None] = field(default_factory=dict)

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
        """The same: a script's work does not depend on options."""
        return self

    def to(self, device: torch.device) -> Self:
        """The same: batches are moved one by one."""
        return self

    def facts(self) -> dict[str, Any]:
        """Nothing is known of a script's network, so that a file of it is loaded into one that is given."""
        return {"model": None, "dataset": self.name}

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
) -> ImageWork | OwnWork:
    """The work that options name, with whatever a script brings instead.

    Args:
        options: name network and data where the script brings none.
        model: a network (each arm gets a copy) or a function that makes one; None: ``options.model`` by name.
        data: ``(train, test)``, each a pair of tensors, a torch Dataset, or an iterable that gives batches again; a
            third entry gives batches to re-estimate batch norm from; or an `ImageDataset`. None: ``options.dataset``.
        task: loss and scores of a batch; classification if None.

    Raises:
        BitdialError: something else, or a network by name for data of which nobody knows the shape.
    """
    make = _maker(model)
    if make is None:
        check_model_name(options.model)
    if data is None and options.dataset == OWN:
        raise BitdialError(_BROUGHT.format("dataset must be the name of a data set"))
    if data is None or isinstance(data, ImageDataset):
        return replace(_classes(ImageWork.of(options, data), task), make_model=make)
    if not isinstance(data, Sequence) or len(data) not in (2, 3):
        raise BitdialError(
            "data must be (train, test) or (train, test, recalibration), each a pair of tensors, a torch Dataset or an "
            f"iterable of batches, got {type(data).__name__}"
        )
    if make is None:
        return _classes(ImageWork.of(options, _images(data)), task)
    parts = data

    def loaders(seed: int, rank: int, world_size: int) -> Loaders:
        share = options.batch_size // world_size
        train = batches_of(parts[0], share, "train", seed, rank, world_size)
        test = batches_of(parts[1], EVALUATION_BATCH, "test")
        return Loaders(train, test, batches_of(parts[2], share, "recalibration") if len(parts) > 2 else train)

    known = {name: identified(part, name) for name, part in zip(("train", "test"), parts, strict=False)}
    return OwnWork(make, loaders, task or Classification(), parts=known)


def _classes(work: ImageWork, task: Task | None) -> ImageWork:
    """The work with its task, for which there must be classes to tell apart where it is the usual one."""
    if task is None:
        _check_classes(work)
    return replace(work, task=task or Classification())


def _check_classes(work: ImageWork) -> None:
    present = set(work.train.labels.tolist())
    if len(present) == 1:
        raise BitdialError(
            f"expected images of at least two classes in {work.name} to train on, got only those of "
            f"'{work.dataset.class_names[present.pop()]}'; add another class"
        )


def _maker(model: object) -> Callable[[], nn.Module] | None:
    if model is None:
        return None
    if isinstance(model, nn.Module):
        return lambda: deepcopy(model)
    if callable(model):
        return model
    raise BitdialError(
        f"model must be a network's name, a torch.nn.Module or a function that makes one, got {model!r:.80}"
    )


def _images(data: Sequence[Any]) -> ImageDataset:
    pairs = [pair_of(part) for part in data[:2]]
    if any(pair is None or pair[0].ndim != 4 for pair in pairs):
        raise BitdialError(
            "a network by name needs data as tensors, ((x, y), (x_test, y_test)) with images [N, C, H, W], got "
            "something else; give model= too, a module or a function that makes one"
        )
    (train, test) = (pair for pair in pairs if pair is not None)
    return dataset_from_tensors("tensors of a script", train, test)
