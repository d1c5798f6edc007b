"""Networks by name, before any is loaded or built: whether there is one, and families that have several."""

from __future__ import annotations

import re

from bitdial.errors import BitdialError, suggest
from bitdial.names import NETWORKS, SIGNAL_NETWORKS
from bitdial.own_files import is_place, own_file

LIBRARIES = ("torchvision", "timm")
"""Whose networks there are as LIBRARY/NAME."""
_FAMILY = re.compile(r"(v?\d|_).*")
"""What is behind the name of a family in that of a network."""


def in_library(name: str) -> bool:
    """Whether a name is one of a whole library; `bitdial.models.check_name` asks the library for it."""
    library, _, inner = name.partition("/")
    return library in LIBRARIES and bool(inner)


def check_name(name: str) -> None:
    """Refuse a name that is none of a network for images, nor in a library.

    Raises:
        BitdialError: the text lists those there are.
    """
    if is_place(name):
        own_file(name)
        return
    if in_library(name) or name in NETWORKS:
        return
    if name in SIGNAL_NETWORKS:
        raise BitdialError(
            f"{name} is a network for recordings, such as --dataset vehicles, got images; choose another"
        )
    raise BitdialError(
        f"unknown model {name!r}; known are {', '.join(NETWORKS)}, torchvision/NAME, timm/NAME and file.py:function"
        f"{suggest(name, NETWORKS)}"
    )


def check_signal_name(name: str) -> None:
    """Refuse what `build_signal_model` has no network for.

    Raises:
        BitdialError: an unknown name, or that of a network for images alone.
    """
    if is_place(name):
        own_file(name)
    elif name not in SIGNAL_NETWORKS:
        raise BitdialError(
            f"model must be a network for recordings ({', '.join(SIGNAL_NETWORKS)}), got {name!r}"
            f"{suggest(name, SIGNAL_NETWORKS)}"
        )


def variant_of(family: str, variant: str | None = None) -> str:
    """Return the name of a network that may be given as a family (``ResNet``) and one of its variants (``resnet18``).

    Args:
        family: a network's name, or what the names of its variants begin with, before a number, in any case.
        variant: which of them; None where `family` is a name, or has one variant only.

    Raises:
        BitdialError: no such family or variant, or a family of several without a variant; the text lists them.
    """
    if variant is None and ("/" in family or is_place(family) or family in NETWORKS or family in SIGNAL_NETWORKS):
        return family
    variants = [name for name in NETWORKS if family.lower() in (name, _FAMILY.sub("", name))]
    if not variants:
        near = suggest(
            family.lower(), ({_FAMILY.sub("", name) for name in NETWORKS} if variant else set()) | {*NETWORKS}
        )
        raise BitdialError(
            f"unknown model {family!r}; known are {', '.join(NETWORKS)}, torchvision/NAME and timm/NAME{near}"
        )
    if variant is None and len(variants) > 1:
        raise BitdialError(
            f"model {family!r} is a family, expected one of its variants beside it, got none; "
            f"give --model_variant, one of {', '.join(variants)}"
        )
    if variant is not None and variant not in variants:
        raise BitdialError(
            f"model_variant must be one of {', '.join(variants)} for the model {family!r}, "
            f"got {variant!r}{suggest(variant.lower(), variants)}"
        )
    return variant or variants[0]
