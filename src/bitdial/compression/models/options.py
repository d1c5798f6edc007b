"""What a codec's network is built with, as options: nothing here loads torch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from bitdial.errors import BitdialError, suggest
from bitdial.names import CODECS
from bitdial.options import Config
from bitdial.own_files import is_place, own_file

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
        own_file(name)
        return
    if name not in CODECS:
        hint = suggest(name, CODECS) or f"; there are: {', '.join(CODECS)}"
        raise BitdialError(f"model must be one of the codecs, got '{name}'{hint}")
    own = _HPCM if name.startswith("hpcm_") else _SMALL
    for option in options.given():
        if option not in own:
            raise BitdialError(f"{option} is no option of {name}, which has {' and '.join(own)}; leave it out")
