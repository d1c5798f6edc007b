"""What is learned where the data is a data set by name: images, and what work on any data set has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import nn

from bitdial.data import (
    AugmentationOptions,
    BatchLoader,
    Fingerprint,
    ImageDataset,
    ImageSplit,
    RecordingDataset,
    RecordingSplit,
    build_augmentation,
    load_dataset,
    make_loader,
)
from bitdial.data.dataset import missing_classes, stratified_split
from bitdial.data.division import divided_as, of_each_class
from bitdial.errors import BitdialError
from bitdial.models import build_model
from bitdial.recipes.options import SharedConfig
from bitdial.recipes.recipe import Loaders
from bitdial.training import Classification, Task

EVALUATION_BATCH = 256
D = TypeVar("D", ImageDataset, RecordingDataset)
P = TypeVar("P", ImageSplit, RecordingSplit)


@dataclass(frozen=True)
class DatasetWork(Generic[D, P]):
    """Telling the samples of a data set apart.

    Attributes:
        options: which network, batch size, augmentation.
        dataset: whole.
        train: what is trained on.
        validation: samples to choose by, none of them in `train`, or None.
        make_model: a network of a script instead of one by name, or None.
    """

    options: SharedConfig
    dataset: D
    train: P
    validation: P | None = None
    make_model: Callable[[], nn.Module] | None = None
    task: Task = field(default_factory=Classification)

    thing: ClassVar[str]
    things: ClassVar[str]
    """What is told apart, in words."""

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.dataset.name

    def loaders(self, seed: int, rank: int = 0, world_size: int = 1) -> Loaders:
        """Augmented batches to train on, each sample once to measure on; a function of the seed."""
        options = self.options
        share: dict[str, Any] = {"seed": seed, "rank": rank, "world_size": world_size}
        return Loaders(
            train=self._training(options.batch_size // world_size, augment=self.augmentation(), **share),
            test=self._plain(self.dataset.test),
            recalibration=self._training(options.batch_size, augment="none", seed=seed),
            validation=None if self.validation is None else self._plain(self.validation),
        )

    def _training(self, batch_size: int, **how: Any) -> BatchLoader:
        return make_loader(self.train, batch_size, train=True, workers=self.options.workers, **how)

    def _plain(self, split: ImageSplit | RecordingSplit) -> BatchLoader:
        return make_loader(split, EVALUATION_BATCH, train=False, workers=self.options.workers)

    def under(self, options: SharedConfig) -> Self:
        """The same data under the options of one arm."""
        return replace(self, options=options)

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, dataset=self.dataset.to(device), train=self.train.to(device), validation=validation)

    def facts(self) -> dict[str, Any]:
        """Name of the network, its classes, normalisation of the samples."""
        data = self.dataset
        return {
            "model": None if self.make_model is not None else self.options.model,
            "num_classes": data.num_classes,
            "dataset": data.name,
            "mean": list(data.mean),
            "std": list(data.std),
            "class_names": list(data.class_names),
        }

    def identify(self) -> Fingerprint:
        """Which samples there are in each part."""
        return Fingerprint.of(self.dataset, self._parts())

    def divided_as(self, before: Fingerprint, now: Fingerprint) -> Self:
        """The data divided, numbered and normalised as before, where it is known which is which."""
        same = ("parts", "class_names", "shape", "mean", "std")
        known = all(isinstance(part, dict) for each in (before, now) for part in each.parts.values())
        if not known or all(getattr(before, name) == getattr(now, name) for name in same):
            return self
        called = dict(zip(now.class_names, self.dataset.class_names, strict=True))
        parts: dict[str, Any] = divided_as(before, now, self._parts())
        dataset: Any = replace(
            self.dataset,
            train=parts["train"],
            test=parts["test"],
            class_names=tuple(called.get(name, name) for name in before.class_names),
        )
        lacked: tuple[str, ...] = missing_classes(self.dataset, self.thing)
        notes = (*(note for note in self.dataset.notes if note not in lacked), *missing_classes(dataset, self.thing))
        dataset = replace(dataset, notes=notes)
        kept = replace(self, dataset=dataset, train=parts["train"], validation=parts.get("validation"))
        if len(set(self.train.labels.tolist())) > 1:  # a task of a script may do with a single class
            check_classes(kept)
        return kept

    def examples(self) -> int:
        """Those that are trained on."""
        return len(self.train)

    def _parts(self) -> dict[str, Any]:
        chosen_by = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **chosen_by, "test": self.dataset.test}

    def told(self, part: str = "") -> str:
        """How many samples there are."""
        if part == "test":
            return f"the {len(self.dataset.test)} test {self.things} of {self.name}"
        return f"{self.name}, {len(self.train)} training and {len(self.dataset.test)} test {self.things}"

    def build(self) -> nn.Module:
        """The network with new weights."""
        raise NotImplementedError

    def augmentation(self) -> Any:
        """What happens to training samples."""
        return "none"


@dataclass(frozen=True)
class ImageWork(DatasetWork[ImageDataset, ImageSplit]):
    """Telling images apart."""

    thing: ClassVar[str] = "an image"
    things: ClassVar[str] = "images"

    @classmethod
    def of(cls, options: SharedConfig, dataset: ImageDataset | None = None) -> ImageWork:
        """The images that options name, the same share of every class held out for all arms and seeds of a run.

        Raises:
            BitdialError: no such data, or too few images to hold some out.
        """
        dataset = limited(dataset or load_dataset(options.dataset, options.data_path), options)
        fraction = getattr(options, "validation_fraction", None)
        if not fraction:
            return cls(options, dataset, dataset.train)
        kept, held_out = stratified_split(dataset.train.labels.cpu(), fraction, options.seed)
        return cls(options, dataset, dataset.train.subset(kept), dataset.train.subset(held_out))

    def build(self) -> nn.Module:
        """The network, by name, for the images at hand; or the script's."""
        if self.make_model is not None:
            return self.make_model()
        data = self.dataset
        return build_model(
            self.options.model, num_classes=data.num_classes, in_channels=data.in_channels, image_size=data.image_size
        )

    def augmentation(self) -> Any:
        """What the options ask for; "standard" where they know of none."""
        if isinstance(self.options, AugmentationOptions):
            return build_augmentation(self.train, **self.options.arguments())
        return "standard"

    def facts(self) -> dict[str, Any]:
        """The same, and the shape of an image."""
        return {**super().facts(), "in_channels": self.dataset.in_channels, "image_size": self.dataset.image_size}


def limited(dataset: D, options: SharedConfig) -> D:
    """The data set with as many examples as options say."""
    limits = {"train": options.limit_train, "validation": options.limit_test, "test": options.limit_test}
    for part, limit in limits.items():
        split = getattr(dataset, part, None)
        if limit is not None and split is not None and limit < len(split):
            dataset = replace(dataset, **{part: split.subset(of_each_class(split.labels.cpu(), limit))})
    return dataset


def check_classes(work: DatasetWork[Any, Any]) -> None:
    """Refuse data of a single class.

    Raises:
        BitdialError: the text names it.
    """
    present = set(work.train.labels.tolist())
    if len(present) == 1:
        raise BitdialError(
            f"expected {work.things} of at least two classes in {work.name} to train on, got only those of "
            f"'{work.dataset.class_names[present.pop()]}'; add another class"
        )
