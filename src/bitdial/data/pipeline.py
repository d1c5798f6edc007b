"""From a name or a recipe's flags to an augmentation."""

from __future__ import annotations

import torch

from bitdial.data import strong
from bitdial.data.augment import (
    Augmentation,
    BatchTransform,
    HorizontalFlip,
    RandomCrop,
    RandomErasing,
    check_probability,
)
from bitdial.data.dataset import ImageSplit, LabelledSplit, Split
from bitdial.data.options import check_alpha
from bitdial.data.strong import AutomaticPolicy, MixOneOf, check_colour_images
from bitdial.errors import BitdialError, suggest

AUGMENTATIONS = ("none", "standard")
# Up to this side AutoAugment's policy found on CIFAR-10 is taken, above it the one found on ImageNet.
_SMALL_IMAGE = 64


def standard(split: ImageSplit) -> Augmentation:
    """Random crop with a padding of an eighth of the side (4 pixels at 32), then a flip where mirroring is harmless."""
    crop = RandomCrop(max(1, round(split.image_size / 8)))
    return Augmentation(pixels=(crop, HorizontalFlip()) if split.flip else (crop,))


def resolve_augmentation(augment: str | Augmentation, split: LabelledSplit) -> Augmentation:
    """Return the pipeline that `augment` names, or `augment` itself."""
    if isinstance(augment, Augmentation):
        return augment
    if augment == "none":
        return Augmentation()
    if augment == "standard":
        return standard(split) if isinstance(split, ImageSplit) else Augmentation()
    raise BitdialError(
        f"augment must be one of {', '.join(AUGMENTATIONS)} or an Augmentation, got {augment!r}"
        f"{suggest(str(augment), AUGMENTATIONS)}"
    )


def build_augmentation(
    split: ImageSplit,
    *,
    standard: bool = True,
    cutmix: bool = False,
    mixup: bool = False,
    autoaugment: bool = False,
    randaugment: bool = False,
    trivialaugment: bool = False,
    random_erasing: float = 0.0,
    cutmix_alpha: float = 1.0,
    mixup_alpha: float = 1.0,
    cutmix_probability: float = 0.5,
    mixup_probability: float = 0.5,
    num_classes: int | None = None,
) -> Augmentation:
    """Build the training augmentation of a split; `make_loader(..., augment=...)` takes it.

    In this order: crop and flip, one automatic policy (both on the stored uint8 images), normalisation, random erasing,
    then CutMix or MixUp or neither.

    Args:
        split: The training split; its device, type and channels decide what fits.
        standard: Random crop, and flip where mirroring is harmless.
        cutmix: CutMix. With it or `mixup`, labels are float32 shares `[B, num_classes]` in every batch.
        mixup: MixUp. With both on a batch gets one of them or none, as `MixOneOf` says: .375, .375, .25 by default.
        autoaugment: AutoAugment's CIFAR-10 policy, or its ImageNet policy for images above 64 pixels.
        randaugment: RandAugment, two operations of magnitude 9 of 30.
        trivialaugment: TrivialAugment (wide), one operation of any magnitude.
        random_erasing: Probability for each image; 0 is off. What is erased gets the mean of the training images.
        cutmix_alpha: The alpha of CutMix's Beta(alpha, alpha).
        mixup_alpha: The alpha of MixUp's Beta(alpha, alpha).
        cutmix_probability: Chance of each batch.
        mixup_probability: Chance of each batch.
        num_classes: Width of mixed labels, that is outputs of the model; by default the dataset's.

    Raises:
        BitdialError: An argument out of range, two automatic policies, or a policy for images that are not uint8 with 1
            or 3 channels.
    """
    if not isinstance(split, ImageSplit):
        raise BitdialError(f"split must be a split such as dataset.train, got {type(split).__name__}")
    policies = {"autoaugment": autoaugment, "randaugment": randaugment, "trivialaugment": trivialaugment}
    for name, switch in {"standard": standard, "cutmix": cutmix, "mixup": mixup, **policies}.items():
        if not isinstance(switch, bool):
            raise BitdialError(f"{name} must be True or False, got {switch!r}; its strength is another argument")
    check_probability("random_erasing", random_erasing)
    # Also when they have no effect yet: a mistake should not wait for the day its flag is switched on.
    check_alpha("cutmix_alpha", cutmix_alpha)
    check_alpha("mixup_alpha", mixup_alpha)
    check_probability("cutmix_probability", cutmix_probability)
    check_probability("mixup_probability", mixup_probability)
    classes = _label_width(split, num_classes)

    cropped = resolve_augmentation("standard" if standard else "none", split).pixels
    policy = _policy(split, [name for name, on in policies.items() if on])
    mixing: list[BatchTransform] = [RandomErasing(random_erasing)] if random_erasing else []
    mixers: list[tuple[BatchTransform, float]] = []
    if cutmix:
        mixers.append((strong.cutmix(classes, cutmix_alpha), cutmix_probability))
    if mixup:
        mixers.append((strong.mixup(classes, mixup_alpha), mixup_probability))
    if mixers:
        transforms, probabilities = zip(*mixers, strict=True)
        mixing.append(MixOneOf(transforms, probabilities, classes))
    return Augmentation((*cropped, *policy), tuple(mixing))


def _label_width(split: ImageSplit, num_classes: int | None) -> int:
    if num_classes is None:
        return split.num_classes
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < split.num_classes:
        raise BitdialError(
            f"num_classes must be a whole number from the dataset's {split.num_classes} classes up, got "
            f"{num_classes!r}; leave it out to take the dataset's"
        )
    return num_classes


def _policy(split: ImageSplit, chosen: list[str]) -> list[BatchTransform]:
    if not chosen:
        return []
    if len(chosen) > 1:
        raise BitdialError(f"{' and '.join(chosen)} are alternatives; switch on one of them, got {len(chosen)}")
    from torchvision.transforms import v2

    # A split on disk decodes to uint8.
    dtype = split.images.dtype if isinstance(split, Split) else torch.uint8
    check_colour_images(chosen[0], dtype, split.in_channels)
    small = split.image_size <= _SMALL_IMAGE
    found_on = v2.AutoAugmentPolicy.CIFAR10 if small else v2.AutoAugmentPolicy.IMAGENET
    policies = {
        "autoaugment": v2.AutoAugment(found_on),
        "randaugment": v2.RandAugment(),
        "trivialaugment": v2.TrivialAugmentWide(),
    }
    return [AutomaticPolicy(policies[chosen[0]])]
