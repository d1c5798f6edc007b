"""The options of data, and the names of data sets: nothing here loads torch."""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal

from pydantic import Field, field_validator

from bitdial.errors import BitdialError, suggest
from bitdial.names import DATASETS
from bitdial.options import Config

Transform = Literal["fft", "rfft", "none"]
HUB = "hf:"
"""What the name of a data set of the Hugging Face Hub begins with."""
LEAST_ALPHA, GREATEST_ALPHA = 0.01, 10_000.0


def check_dataset_name(name: str) -> None:
    """Refuse what is no name of a data set of images.

    Raises:
        BitdialError: the text lists those there are.
    """
    if name.lower().replace("_", "-") not in DATASETS:
        known = f"{', '.join(DATASETS)}, {HUB}NAME and file.py:function"
        raise BitdialError(f"unknown dataset {name!r}; known are {known}{suggest(name, DATASETS)}")


def check_alpha(name: str, value: float) -> float:
    """Return `value` as a float, or refuse what Beta(alpha, alpha) cannot be drawn with."""
    if isinstance(value, bool) or not isinstance(value, Real) or not LEAST_ALPHA <= value <= GREATEST_ALPHA:
        raise BitdialError(
            f"{name} must be a number in [{LEAST_ALPHA}, {GREATEST_ALPHA:g}], got {value!r}; it is the alpha of "
            "Beta(alpha, alpha): 1.0 is usual, less mixes less"
        )
    return float(value)


class SignalOptions(Config):
    """What is taken of recordings; images have none of it."""

    modalities: list[str] | None = Field(None, min_length=1)
    """Modalities to use, such as audio; none: all that the data has."""
    transform: Transform = "fft"
    """fft: real and imaginary part of the whole spectrum of each interval; rfft: half the bins, of which the others are
    the mirror image; none: the samples as they are."""
    split_by: Literal["recording", "segment"] = "recording"
    """What is held out of data with a single index: whole recordings, or segments of recordings that are trained on."""


class AugmentationOptions(Config):
    """What happens to training images; `build_augmentation` puts it together."""

    standard_augmentation: bool = True
    """Random crops, and flips where a mirrored image keeps its meaning."""
    cutmix: bool = False
    """CutMix."""
    cutmix_alpha: float = 1.0
    """The share of the second image is drawn from Beta(alpha, alpha), alpha from .01 to 10000."""
    cutmix_probability: float = Field(0.5, ge=0, le=1)
    """Chance of each batch."""
    mixup: bool = False
    """MixUp; with CutMix too, a batch gets one of them or none."""
    mixup_alpha: float = 1.0
    """The share of the second image is drawn from Beta(alpha, alpha), alpha from .01 to 10000."""
    mixup_probability: float = Field(0.5, ge=0, le=1)
    """Chance of each batch."""
    autoaugment: bool = False
    """AutoAugment's learned policy."""
    randaugment: bool = False
    """RandAugment."""
    trivialaugment: bool = False
    """TrivialAugment."""
    random_erasing: bool = False
    """Random erasing."""
    random_erasing_probability: float = Field(0.25, ge=0, le=1)
    """Chance of each image."""

    def arguments(self) -> dict[str, Any]:
        """What `build_augmentation` takes for them."""
        own = self.model_dump(include=set(AugmentationOptions.model_fields))
        standard, erasing = own.pop("standard_augmentation"), own.pop("random_erasing")
        probability = own.pop("random_erasing_probability")
        return {**own, "standard": standard, "random_erasing": probability if erasing else 0.0}

    @field_validator("cutmix_alpha", "mixup_alpha")
    @classmethod
    def _can_be_drawn_with(cls, value: float) -> float:
        """Refuse here what the augmentation would refuse once the data is loaded."""
        return check_alpha("alpha", value)
