"""What there is by name: options and help know it without loading what the names stand for, which brings torch.

`tests/test_names.py` holds each list to its registry.
"""

from __future__ import annotations

import sys

NETWORKS = (
    "resnet20", "resnet32", "resnet44", "resnet56", "resnet74", "resnet110", "resnet18", "vgg_small", "mobilenetv2",
    "mlp", "tiny_cnn",
)  # fmt: skip
"""Networks for images; there are torchvision/NAME and timm/NAME besides."""
SIGNAL_NETWORKS = ("signal_cnn", "resnet18")
"""Networks for recordings; the first where none is named."""
CODECS = ("factorized", "scale_hyperprior", "mean_scale_hyperprior", "hpcm_tiny", "hpcm_base", "hpcm_large")
"""Networks for compression."""
DATASETS = ("digits", "fashion-mnist", "mnist", "cifar10", "cifar100", "folder", "npz")
"""Data sets of images."""
RECORDINGS = ("vehicles", "recordings")
"""Data sets of recordings."""
TERNARY = ("twn", "absmean", "ttq", "ternary_lsq")
"""Quantizers whose weights have three values."""
QUANTIZERS = (
    "uniform", "dorefa", *TERNARY, "lsq", "pact", "seq", "binary", "quest", "quest_hadamard", "nested",
)  # fmt: skip
"""Quantizers of weights."""
ONE_WIDTH = (*TERNARY, "binary")
"""Those of them that a dial cannot widen or narrow."""
ACTIVATION_QUANTIZERS = ("uniform", "dorefa", "lsq", "pact", "token", "quest")
"""Quantizers of activations."""


def is_recordings(name: str) -> bool:
    """Whether a data set of this name holds recordings."""
    return name.lower().replace("_", "-") in RECORDINGS


def quantizers() -> dict[str, bool | None]:
    """Name -> whether it is ternary, None where its grid follows the dial; those that a script registered included."""
    known: dict[str, bool | None] = {name: name in TERNARY if name in ONE_WIDTH else None for name in QUANTIZERS}
    numerics = sys.modules.get("bitdial.numerics.quantizers")
    for name, each in () if numerics is None else numerics.QUANTIZERS.items():
        known[name] = None if each.fixed_bits is None else 1 < each.fixed_bits < 2
    return known


def activation_quantizers() -> tuple[str, ...]:
    """The names of quantizers of activations; those that a script registered included."""
    numerics = sys.modules.get("bitdial.numerics.quantizers")
    return tuple(dict.fromkeys([*ACTIVATION_QUANTIZERS, *(numerics.ACTIVATION_QUANTIZERS if numerics else ())]))
