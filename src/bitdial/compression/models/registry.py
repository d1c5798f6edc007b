"""The networks by name, as options and files call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bitdial.compression.models.codec import CompressionModel
from bitdial.compression.models.hpcm import HPCM, SIZES
from bitdial.compression.models.hyperprior import FactorizedPrior, MeanScaleHyperprior, ScaleHyperprior
from bitdial.compression.models.options import CodecOptions, check_model
from bitdial.errors import BitdialError
from bitdial.own_files import call, is_place

MODELS: Mapping[str, Callable[..., CompressionModel]] = {
    "factorized": FactorizedPrior,
    "scale_hyperprior": ScaleHyperprior,
    "mean_scale_hyperprior": MeanScaleHyperprior,
    **{f"hpcm_{size}": lambda size=size, **how: HPCM(size, **how) for size in SIZES},
}
"""Name -> what makes the network."""


def build_codec_model(name: str, options: CodecOptions | None = None) -> CompressionModel:
    """The network of a name, with new weights.

    Raises:
        BitdialError: see `check_model`.
    """
    options = options or CodecOptions()
    check_model(name, options)
    if is_place(name):
        made = call(name, **options.given())
        if not isinstance(made, CompressionModel):
            raise BitdialError(f"{name} must make a CompressionModel, got {type(made).__name__}; subclass it")
        return made
    return MODELS[name](**options.given())
