"""The networks by name, as options and files call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from bitdial.compression.models.codec import CompressionModel
from bitdial.compression.models.hpcm import HPCM, SIZES
from bitdial.compression.models.hyperprior import FactorizedPrior, MeanScaleHyperprior, ScaleHyperprior
from bitdial.errors import BitdialError, suggest
from bitdial.options import Config
from bitdial.own_files import call, is_place, own_function

MODELS: Mapping[str, Callable[..., CompressionModel]] = {
    "factorized": FactorizedPrior,
    "scale_hyperprior": ScaleHyperprior,
    "mean_scale_hyperprior": MeanScaleHyperprior,
    **{f"hpcm_{size}": lambda size=size, **how: HPCM(size, **how) for size in SIZES},
}
"""Name -> what makes the network."""
_SMALL, _HPCM = ("channels", "latent_channels"), ("attention", "compat")


class CodecOptions(Config):
    """What a network is built with, besides its name."""

    channels: int | None = Field(None, ge=4, multiple_of=4)
    """Channels of the transforms; for hpcm_* they belong to the name. None: 32."""
    latent_channels: int | None = Field(None, ge=4, multiple_of=4)
    """Channels of the latents; for hpcm_* they belong to the name. None: 48."""
    attention: bool | None = None
    """hpcm_*: attention to the carried context; off carries the prior's output. None: on."""
    compat: bool | None = None
    """hpcm_*: misplace hyper-parameters as the released code does, whose weights need it. None: off."""

    def given(self) -> dict[str, Any]:
        """The options that are not None."""
        return self.model_dump(exclude_none=True)


def check_model(name: str, options: CodecOptions) -> None:
    """Refuse a network that does not exist, and options that are not its own.

    Raises:
        BitdialError: the text says which there are.
    """
    if is_place(name):
        own_function(name)
        return
    if name not in MODELS:
        hint = suggest(name, MODELS) or f"; there are: {', '.join(MODELS)}"
        raise BitdialError(f"model must be one of the codecs, got '{name}'{hint}")
    own = _HPCM if name.startswith("hpcm_") else _SMALL
    for option in options.given():
        if option not in own:
            raise BitdialError(f"{option} is no option of {name}, which has {' and '.join(own)}; leave it out")


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
