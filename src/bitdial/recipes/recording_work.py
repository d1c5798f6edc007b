"""What is learned of recordings of several sensors: the class of each segment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from bitdial.data import AugmentationOptions, RecordingDataset, RecordingSplit, load_recordings
from bitdial.data.recordings import held_out_recordings
from bitdial.errors import BitdialError
from bitdial.models import build_signal_model
from bitdial.recipes.dataset_work import DatasetWork, limited
from bitdial.recipes.options import SharedConfig


@dataclass(frozen=True)
class RecordingWork(DatasetWork[RecordingDataset, RecordingSplit]):
    """Telling segments of recordings apart; see `bitdial.models.signals` for what a batch is."""

    thing: ClassVar[str] = "a segment"
    things: ClassVar[str] = "segments"

    @classmethod
    def of(cls, options: SharedConfig, dataset: RecordingDataset | None = None) -> RecordingWork:
        """The recordings that options name; what is chosen by is the validation part, or recordings that are held out.

        Raises:
            BitdialError: no such data, too few recordings to hold some out, or an augmentation of images.
        """
        augmented: dict[str, Any] = options.arguments() if isinstance(options, AugmentationOptions) else {}
        for name in ("cutmix", "mixup", "autoaugment", "randaugment", "trivialaugment", "random_erasing"):
            if augmented.get(name):
                raise BitdialError(f"{name} is an augmentation of images, got it with recordings; leave it out")
        dataset = limited(dataset or load_recordings(options.dataset, options.data_path, options.signals), options)
        fraction = getattr(options, "validation_fraction", None)
        if dataset.validation is not None or not fraction:
            return cls(options, dataset, dataset.train, dataset.validation)
        kept, held_out = held_out_recordings(dataset.train, fraction, options.seed)
        return cls(options, dataset, dataset.train.subset(kept), dataset.train.subset(held_out))

    def build(self) -> nn.Module:
        """The network, by name, for the modalities at hand; or the script's."""
        if self.make_model is not None:
            return self.make_model()
        data = self.dataset
        return build_signal_model(self.options.model, num_classes=data.num_classes, shapes=data.shapes)

    def facts(self) -> dict[str, Any]:
        """The same, and what a modality is."""
        shapes = {name: list(shape) for name, shape in self.dataset.shapes.items()}
        return {**super().facts(), "signals": {"shapes": shapes, "transform": self.train.transform}}
