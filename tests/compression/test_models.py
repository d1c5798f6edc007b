"""Every codec: any size, one way from symbols back for encoder and decoder, every parameter trained."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from bitdial.compression.models import (
    HPCM,
    CodingStep,
    CompressionModel,
    FactorizedPrior,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from bitdial.compression.models.codec import likelihood
from tests.compression.golden import picture

MODELS: dict[str, Callable[[], CompressionModel]] = {
    "factorized": partial(FactorizedPrior, 16, 16),
    "scale": partial(ScaleHyperprior, 16, 16),
    "mean_scale": partial(MeanScaleHyperprior, 16, 16),
    "hpcm": partial(HPCM, "tiny"),
    "hpcm_compat": partial(HPCM, "tiny", compat=True),
    "hpcm_no_attention": partial(HPCM, "tiny", attention=False),
}
each_model = pytest.mark.parametrize("name", MODELS)


def build(name: str) -> CompressionModel:
    """With latents that are wide enough for symbols other than zero."""
    torch.manual_seed(0)
    model = MODELS[name]()
    with torch.no_grad():
        model.g_a.branch[-1].weight.mul_(100)  # type: ignore[union-attr, operator]
    return model


@each_model
@pytest.mark.parametrize(("height", "width"), [(64, 64), (1, 1), (65, 40), (100, 200)])
@torch.no_grad()
def test_what_is_decoded_is_what_the_encoder_had(name: str, height: int, width: int) -> None:
    model = build(name).eval()
    images = torch.rand(2, 3, height, width)
    latents = model.analyse(images)
    stream: list[Tensor] = []

    def write(step: CodingStep) -> Tensor:
        symbols = step.symbols(latents)
        stream.append(symbols.to(torch.int32))
        return symbols

    written = model.decode(write, height, width, batch=2)
    assert any(symbols.any() for symbols in stream)
    rest = iter(stream)
    decoded = model.decode(lambda step: next(rest), height, width, batch=2)
    assert next(rest, None) is None
    assert len(stream) == model.steps + (latents.z is not None)
    assert sum(symbols.numel() for symbols in stream) == sum(each.numel() for each in latents if each is not None)
    assert decoded.shape == images.shape
    assert torch.equal(decoded, written)
    assert torch.equal(decoded, model(images).images)


@each_model
@torch.no_grad()
def test_sides_are_padded_by_repeating_the_border(name: str) -> None:
    model = build(name).double().eval()
    images = torch.rand(1, 3, 70, 64, dtype=torch.float64)
    full = model.multiple * 5 if name == "factorized" else 128
    padded = torch.cat((images, images[:, :, -1:].expand(-1, -1, full - 70, -1)), 2)
    for one, other in zip(model.analyse(images), model.analyse(padded), strict=True):
        assert (one is None) == (other is None)
        assert one is None or (other is not None and torch.equal(one, other))


@each_model
def test_bits_are_those_of_the_rounded_latents(name: str) -> None:
    model = build(name).double()
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    bits = model.bits(images)  # in training mode too: no noise
    expected = [0.0] * (1 + model.steps)
    latents = model.analyse(images)

    def read(step: CodingStep) -> Tensor:
        symbols = step.symbols(latents)
        expected[step.number] = -likelihood(symbols, step.scales).log2().sum().item()
        return symbols

    model.decode(read, 64, 96, batch=2)
    assert [bits["z"], *bits["steps"]] == pytest.approx(expected)
    assert bits["y"] == pytest.approx(sum(expected[1:]))
    assert bits["z"] > 0 or name == "factorized"
    model.eval()
    coded = model(images)
    assert coded.bits_per_pixel.item() == pytest.approx((bits["z"] + bits["y"]) / (2 * 64 * 96))
    assert coded.z_bits.shape == (2,)
    assert coded.y_bits.shape == (2, model.steps)
    assert model.float().bits(images.float())["y"] == pytest.approx(bits["y"], rel=0.01)


@each_model
def test_noise_in_training_is_in_the_bits_alone(name: str) -> None:
    model, images = build(name), torch.rand(1, 3, 64, 64)
    one, other = model(images), model(images)
    assert torch.equal(one.images, other.images)
    assert not torch.equal(one.y_bits, other.y_bits)
    model.eval()
    torch.testing.assert_close(model(images).images, one.images)
    assert torch.equal(model(images).y_bits, model(images).y_bits)


@each_model
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = build(name)
    coded = model(torch.rand(2, 3, 128, 64))
    (coded.images.square().mean() + coded.bits_per_pixel).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", ["factorized", "mean_scale", "hpcm"])
def test_training_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model, images = MODELS[name](), picture(64, 64).float()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def loss() -> Tensor:
        coded = model(images)
        return 0.013 * 255**2 * (coded.images - images).square().mean() + coded.bits_per_pixel

    def measured() -> float:
        model.eval()
        with torch.no_grad():
            found = loss().item()
        model.train()
        return found

    before = measured()
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert measured() < 0.5 * before


@each_model
@torch.no_grad()
def test_zeros_for_the_last_steps_make_a_preview(name: str) -> None:
    model = build(name).eval()
    latents = model.analyse(picture(64, 64).float())
    seen: list[int] = []

    def read(step: CodingStep) -> Tensor:
        seen.append(step.number)
        return step.symbols(latents) if step.number < 6 else torch.zeros(step.scales.shape, dtype=torch.int32)

    assert model.decode(read, 64, 64).isfinite().all()
    assert seen == list(range(latents.z is None, model.steps + 1))


@each_model
def test_built_anywhere_copied_and_restored(name: str) -> None:
    with torch.device("meta"):
        meta = MODELS[name]()
        meta(torch.rand(1, 3, 70, 64))
    model = build(name).eval()
    restored = meta.to_empty(device="cpu").eval()
    restored.load_state_dict(model.state_dict())
    images = torch.rand(1, 3, 64, 64)
    for other in (copy.deepcopy(model), restored):
        assert torch.equal(other(images).images, model(images).images)
    torch.set_default_dtype(torch.float64)
    try:
        assert {each.dtype for each in MODELS[name]().parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(torch.float32)


@each_model
@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_counts_bits_in_float32(name: str, autocast: bool) -> None:
    model, images = build(name), torch.rand(1, 3, 64, 64)
    if not autocast:
        model, images = model.bfloat16(), images.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        coded = model(images)
    assert coded.y_bits.dtype == torch.float32
    assert coded.bits_per_pixel.isfinite()
    coded.bits_per_pixel.backward()


def test_probabilities_of_a_latent_sum_to_one() -> None:
    values = torch.arange(-400.0, 401.0, dtype=torch.float64)[:, None]
    scales = torch.tensor([0.12, 0.5, 1.0, 4.0, 60.0], dtype=torch.float64)
    assert likelihood(values, scales).sum(0) == pytest.approx(torch.ones(5).numpy(), abs=1e-6)


def test_channels_are_parameters() -> None:
    for model, (channels, latents) in itertools.product(
        (FactorizedPrior, ScaleHyperprior, MeanScaleHyperprior), [(4, 8), (12, 4)]
    ):
        small = model(channels, latents)
        y, z = small.analyse(torch.rand(1, 3, 64, 64))
        assert y.shape == (1, latents, 4, 4)
        assert z is None if model is FactorizedPrior else z is not None and z.shape == (1, channels, 1, 1)
        assert math.isfinite(small.bits(torch.rand(1, 3, 64, 64))["y"])
