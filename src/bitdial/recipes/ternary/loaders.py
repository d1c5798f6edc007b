"""The images of a run: what is trained on, what is chosen by, what is reported, and in which batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from bitdial.data import BatchLoader, ImageDataset, ImageSplit, build_augmentation, make_loader
from bitdial.data.dataset import stratified_split
from bitdial.recipes.assembly import EVALUATION_BATCH
from bitdial.recipes.ternary.config import TernaryConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class Splits:
    """The images of a run.

    Attributes:
        dataset: whole.
        train: what is trained on.
        validation: training images that were held out to choose by, or None.
    """

    dataset: ImageDataset
    train: ImageSplit
    validation: ImageSplit | None

    @classmethod
    def of(cls, config: TernaryConfig, dataset: ImageDataset) -> Splits:
        """Hold out the configured share of every class, the same for all experiments and seeds of a run.

        Raises:
            BitdialError: there are too few images to hold some out.
        """
        if not config.validation_fraction:
            return cls(dataset, dataset.train, None)
        kept, held_out = stratified_split(dataset.train.labels.cpu(), config.validation_fraction, config.seed)
        return cls(dataset, dataset.train.subset(kept), dataset.train.subset(held_out))

    def to(self, device: torch.device) -> Splits:
        """The same on another device."""
        validation = None if self.validation is None else self.validation.to(device)
        return Splits(self.dataset.to(device), self.train.to(device), validation)

    def training(self, config: TernaryConfig, seed: int, fabric: Fabric | None = None) -> BatchLoader:
        """Augmented batches, the share of this process; order and augmentation are a function of the seed."""
        world, rank = (1, 0) if fabric is None else (fabric.world_size, fabric.global_rank)
        augmentation = build_augmentation(
            self.train,
            standard=config.standard_augmentation,
            cutmix=config.cutmix,
            mixup=config.mixup,
            autoaugment=config.autoaugment,
            randaugment=config.randaugment,
            trivialaugment=config.trivialaugment,
            random_erasing=config.random_erasing_probability if config.random_erasing else 0.0,
            cutmix_alpha=config.cutmix_alpha,
            mixup_alpha=config.mixup_alpha,
            cutmix_probability=config.cutmix_probability,
            mixup_probability=config.mixup_probability,
        )
        return make_loader(
            self.train,
            config.batch_size // world,
            train=True,
            seed=seed,
            rank=rank,
            world_size=world,
            augment=augmentation,
            workers=config.workers,
        )


def plain_batches(split: ImageSplit, config: TernaryConfig) -> BatchLoader:
    """A split in its own order, never augmented, every image once."""
    return make_loader(split, EVALUATION_BATCH, train=False, workers=config.workers)
