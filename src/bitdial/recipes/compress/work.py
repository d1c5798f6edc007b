"""What a codec is trained on and measured with: pictures, and the network by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from bitdial.compression.coding.coder import constriction
from bitdial.compression.models import CompressionModel, build_codec_model
from bitdial.compression.photographs import CropLoader, Photographs, WholePictures, split_off
from bitdial.compression.rate_distortion import RateDistortion
from bitdial.data import Fingerprint
from bitdial.data.published import of_sklearn
from bitdial.errors import BitdialError
from bitdial.own_files import call, is_place
from bitdial.recipes.compress.options import PHOTOGRAPHS, CompressConfig
from bitdial.recipes.options import BROUGHT, OWN
from bitdial.recipes.recipe import Loaders

_COLUMNS = 384
"""Of the photographs, from the left, that are trained on; the others are measured with."""
_FEWEST_BATCHES = 20
"""Of an epoch, where crops are not counted by the user."""
_HELD_OUT = "to hold out, got {}; add some, or leave validation_fraction and early_stopping out"
"""What pictures are split off for besides."""


@dataclass(frozen=True)
class PictureWork:
    """Compressing pictures.

    Attributes:
        options: network, lambda, crops.
        name: what the pictures are called in reports.
        train: what is trained on.
        test: what is measured with, no part of which is in `train`.
        validation: what is evaluated and chosen by in training, no part of which is in the others, or None.
        make_model: a network of a script instead of one by name, or None.
    """

    options: CompressConfig
    name: str
    train: Photographs
    test: Photographs
    validation: Photographs | None = None
    make_model: Callable[[], nn.Module] | None = None

    @property
    def task(self) -> RateDistortion:
        """The cost at the lambda of the options."""
        return RateDistortion(self.options.lambda_value)

    def build(self) -> nn.Module:
        """The network with new weights, by name or the script's."""
        if self.make_model is None:
            return build_codec_model(self.options.model, self.options.model_options)
        model = self.make_model()
        if not isinstance(model, CompressionModel):
            raise BitdialError(
                f"model must be a network of bitdial.compression.models, got {type(model).__name__}; subclass "
                "CompressionModel"
            )
        return model

    def loaders(self, seed: int, rank: int = 0, world_size: int = 1) -> Loaders:
        """Random crops to train on, the middle of whole pictures to validate and measure with."""
        options = self.options
        fewest = -(-_FEWEST_BATCHES * options.batch_size // len(self.train))
        crops = options.crops or max(1, fewest)
        loader = CropLoader(
            self.train, options.side, options.batch_size // world_size, crops, seed, rank, world_size, options.workers
        )
        held_out = None if self.validation is None else WholePictures(self.validation)
        return Loaders(train=loader, test=WholePictures(self.test), recalibration=loader, validation=held_out)

    def under(self, options: CompressConfig) -> Self:
        """The same pictures under the options of one arm."""
        return replace(self, options=options)

    def to(self, device: torch.device) -> Self:
        """The same: crops are moved batch by batch."""
        return self

    def facts(self) -> dict[str, Any]:
        """Name and options of the network."""
        from bitdial.recipes.saved_model import SavedCodec

        named = self.make_model is None
        return {
            "model": self.options.model if named else None,
            "dataset": self.name,
            "codec": SavedCodec(options=self.options.model_options),
        }

    def identify(self) -> Fingerprint:
        """Which pictures there are in each part."""
        return Fingerprint(parts={name: part.marks() for name, part in self._parts().items()})

    def _parts(self) -> dict[str, Photographs]:
        chosen_by = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **chosen_by, "test": self.test}

    def divided_as(self, before: Fingerprint, now: Fingerprint) -> Self:
        """The pictures that there were, each in the part that it was in."""
        parts = self._parts()
        place = {name: (each, i) for each in parts.values() for i, name in enumerate(each.names)}

        def kept(part: str) -> Photographs:
            known = before.parts.get(part)
            names = [name for name in known if name in place] if isinstance(known, dict) else list(parts[part].names)
            if not names:
                raise BitdialError(f"expected pictures in the part {part} of the run's data, got none of those it had")
            found = [(place[name][0].sources[place[name][1]]) for name in names]
            return Photographs(tuple(names), tuple(found))

        validation = kept("validation") if self.validation is not None else None
        return replace(self, train=kept("train"), test=kept("test"), validation=validation)

    def examples(self) -> int | None:
        """The crops of an epoch; as many as are wanted where the user does not say how many of each picture."""
        return None if self.options.crops is None else self.options.crops * len(self.train)

    def told(self, part: str = "") -> str:
        """How many pictures there are."""
        if self.name == PHOTOGRAPHS:
            columns = {"train": _COLUMNS, "test": 640 - _COLUMNS}
            if self.validation is not None:
                columns["train"] -= self.validation[0].shape[-1]
            where = f"the {'right' if part == 'test' else 'left'} {columns[part or 'train']} columns"
            which = "two photographs" if len(self.test if part == "test" else self.train) == 2 else "first photograph"
            return f"{where} of the {which} that ship{'s' * (which[0] == 'f')} with scikit-learn"
        if part == "test":
            return f"{_count(self.test)} held out of {self.name}"
        return f"{self.name}, {_count(self.train)} to train on and {_count(self.test)} to measure with"


def _count(pictures: Photographs) -> str:
    return f"{len(pictures)} picture{'' if len(pictures) == 1 else 's'}"


def work_of(options: CompressConfig, model: object = None, data: object = None, task: object = None) -> PictureWork:
    """The pictures that options name, with whatever a script brings instead.

    Args:
        options: name network and pictures where the script brings none.
        model: a `CompressionModel` (each arm gets a copy), or a function that makes one.
        data: ``(train, test)``, each a list of uint8 tensors ``[3, H, W]``.
        task: None; a codec has its own.

    Raises:
        BitdialError: no such pictures, or something else.
    """
    constriction()  # not found missing when training is over
    if task is not None:
        raise BitdialError("the task of a codec is its rate and distortion, got another; leave task out")
    if model is None and options.model == OWN:
        raise BitdialError(BROUGHT.format("model must be a codec's name"))
    if isinstance(model, nn.Module):
        given = model
        make: Any = lambda: deepcopy(given)  # noqa: E731
    elif model is None or callable(model):
        make = model
    else:
        raise BitdialError(f"model must be a codec's name, a CompressionModel or what makes one, got {model!r:.80}")
    held_out, name = options.validation_fraction or 0.0, "pictures of a script"
    if data is None and is_place(str(options.data_path)):
        name = str(options.data_path)
        data = call(name)
    if data is None and options.data_path is None:
        train, test, validation = _photographs(held_out)
        train, test = train.first(options.limit_train), test.first(options.limit_test)
        validation = validation and validation.first(options.limit_train)
        return PictureWork(options, PHOTOGRAPHS, train, test, validation, make)
    if data is not None:
        train, test = _given(data)
    else:
        assert options.data_path is not None
        name = options.data_path.resolve().name or str(options.data_path)
        train, test = _of_folders(options, Photographs.of_folder(options.data_path))
    train, test = train.first(options.limit_train), test.first(options.limit_test)
    if held_out:
        train, validation = split_off(train, held_out, options.seed, _HELD_OUT)
    else:
        validation = None
    return PictureWork(options, name, train, test, validation, make)


def _of_folders(options: CompressConfig, pictures: Photographs) -> tuple[Photographs, Photographs]:
    """What is trained on and what is measured with."""
    if options.test_path is None:
        return split_off(pictures, options.test_share, options.seed)
    assert options.data_path is not None
    test = Photographs.of_folder(options.test_path)
    if options.test_path.resolve() == options.data_path.resolve():
        raise BitdialError(
            f"test_path must be another folder than data_path, got {options.test_path} for both; leave it out to "
            "hold pictures out"
        )
    return pictures, Photographs(tuple(f"test/{name}" for name in test.names), test.sources)


def _photographs(held_out: float) -> tuple[Photographs, Photographs, Photographs | None]:
    """The left of both to train on, the right to measure with; a share of the left, at its right end, held out."""
    files = sorted((of_sklearn("the two photographs come") / "images").glob("*.jpg"))
    names = tuple(file.stem for file in files)
    pixels = [torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files]
    end = _COLUMNS - (min(max(1, round(held_out * _COLUMNS)), _COLUMNS - 1) if held_out else 0)

    def columns(called: str, first: int, last: int | None) -> Photographs:
        parts = tuple(image[:, :, first:last].contiguous() for image in pixels)
        return Photographs(tuple(f"{name}, {called}" for name in names), parts)

    validation = columns("middle", end, _COLUMNS) if held_out else None
    return columns("left", 0, end), columns("right", _COLUMNS, None), validation


def _given(data: Any) -> tuple[Photographs, Photographs]:
    if not isinstance(data, Sequence) or len(data) != 2:
        raise BitdialError(f"data must be (train, test), each a list of pictures, got {type(data).__name__}")
    parts = []
    for name, part in zip(("train", "test"), data, strict=True):
        whole = isinstance(part, Sequence) and part
        if not whole or not all(
            isinstance(each, Tensor)
            and each.dtype == torch.uint8
            and each.ndim == 3
            and len(each) == 3
            and each.numel()
            for each in part
        ):
            raise BitdialError(f"{name} must be a list of uint8 tensors [3, H, W], one for each picture, at least one")
        names = tuple(f"{name}-{number}" for number in range(len(part)))
        parts.append(Photographs(names, tuple(each.cpu() for each in part)))
    return parts[0], parts[1]
