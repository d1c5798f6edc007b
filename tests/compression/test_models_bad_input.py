"""What a codec cannot take is refused in one sentence that says what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitdial.compression.models import HPCM, CodingStep, FactorizedPrior, MeanScaleHyperprior, ScaleHyperprior
from bitdial.errors import BitdialError


def model() -> MeanScaleHyperprior:
    return MeanScaleHyperprior(4, 4)


def images(*shape: int) -> Tensor:
    return torch.rand(*shape)


def spoiled(value: float) -> Tensor:
    found = images(1, 3, 8, 8)
    found[0, 1, 2, 3] = value
    return found


IMAGES = {
    "grey": (images(1, 1, 8, 8), r"\[B, 3, H, W\].* got \[1, 1, 8, 8\]; .*expand"),
    "alpha": (images(1, 4, 8, 8), r"got \[1, 4, 8, 8\]"),
    "channels last": (images(1, 8, 8, 3), r"got \[1, 8, 8, 3\]"),
    "one image": (images(3, 8, 8), r"got \[3, 8, 8\]; .*images\[None\]"),
    "no height": (images(1, 3, 0, 8), r"one pixel, got \[1, 3, 0, 8\]"),
    "no width": (images(1, 3, 8, 0), r"one pixel, got \[1, 3, 8, 0\]"),
    "no image": (images(0, 3, 8, 8), r"one image .*got \[0, 3, 8, 8\]"),
    "bytes": (images(1, 3, 8, 8).mul(255).byte(), "floats of 0..1, got torch.uint8; divide bytes by 255"),
    "integers": (images(1, 3, 8, 8).long(), "floats of 0..1, got torch.int64"),
    "float64": (images(1, 3, 8, 8).double(), "dtype torch.float32, got torch.float64"),
    "another device": (images(1, 3, 8, 8).to("meta"), "device cpu, got meta"),
    "an array": (images(1, 3, 8, 8).numpy(), "tensor .* got ndarray"),
}


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("call", ["__call__", "bits", "analyse"])
def test_images(case: str, call: str) -> None:
    given, sentence = IMAGES[case]
    with pytest.raises(BitdialError, match=sentence):
        getattr(model(), call)(given)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", ["bits", "analyse"])
def test_values_that_are_not_finite(value: float, call: str) -> None:
    with pytest.raises(BitdialError, match="images must be finite"):
        getattr(model(), call)(spoiled(value))


@pytest.mark.parametrize("part", ["g_a", "h_a"])
def test_weights_that_are_not_finite(part: str) -> None:
    spoilt = model()
    with torch.no_grad():
        next(getattr(spoilt, part).parameters()).fill_(float("nan"))
    with pytest.raises(BitdialError, match=r"latents must be finite, got NaN .* the weights have diverged"):
        spoilt.bits(images(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["channels", "latent_channels"])
@pytest.mark.parametrize("number", [0, -4, 6, 8.0, True, "8"])
@pytest.mark.parametrize("kind", [FactorizedPrior, ScaleHyperprior, MeanScaleHyperprior])
def test_channels(kind: Callable[..., object], number: object, name: str) -> None:
    with pytest.raises(BitdialError, match=f"^{name} must be a multiple of 4 from 4 up, got {number!r}"):
        kind(**{name: number})


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ("bse", "size must be one of tiny, base, large, got 'bse'; did you mean 'base'"),
        ("Base", "got 'Base'; did you mean 'base'"),
        (320, "one of tiny, base, large, got 320$"),
        (None, "got None$"),
        (["base"], "got \\['base'\\]"),
    ],
)
def test_size(size: object, sentence: str) -> None:
    with pytest.raises(BitdialError, match=sentence):
        HPCM(size)  # type: ignore[arg-type]


@pytest.mark.parametrize("switch", ["compat", "attention"])
@pytest.mark.parametrize("value", ["false", None, 1])
def test_switches(switch: str, value: object) -> None:
    with pytest.raises(BitdialError, match=f"{switch} must be True or False, got {value!r}"):
        HPCM("tiny", **{switch: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["height", "width", "batch"])
@pytest.mark.parametrize("value", [0, -8, 8.0, True, None])
def test_size_of_what_is_decoded(name: str, value: object) -> None:
    sizes = {"height": 8, "width": 8, "batch": 1, name: value}
    with pytest.raises(BitdialError, match=f"{name} must be a whole number from 1 up, got {value!r}"):
        model().decode(lambda step: torch.zeros_like(step.scales), **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("reply", [None, torch.zeros(3), [0, 1], 0])
def test_symbols_of_another_shape(reply: object) -> None:
    def read(step: CodingStep) -> Tensor:
        return torch.zeros_like(step.scales) if step.number == 0 else reply  # type: ignore[return-value]

    with pytest.raises(BitdialError, match=r"symbols of step 1 must be a tensor \[1, 4, 4, 4\], got"):
        model().decode(read, 8, 8)
