"""Codecs under the dial: which layers are quantized, and that they train and count bits as before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bitdial as bd
from bitdial.compression.models import CodingStep, CompressionModel
from bitdial.layers import BitDial, QuantizedLayer, cost, skipped_layers
from bitdial.training.step.policies import PolicyRule, govern
from tests.compression.golden import picture
from tests.compression.test_models import MODELS, build

each_model = pytest.mark.parametrize("name", [name for name in MODELS if name != "hpcm_compat"])


def quantized(name: str, bits: float = 8, skip: tuple[str, ...] = ("<first>", "<last>")) -> CompressionModel:
    """One that has seen two pictures, so that its ranges are known."""
    model = build(name)
    bd.quantize(model, bits, bits, skip=skip)
    for height in (64, 128):
        model(picture(height, 64).float())
    return model.eval()


@each_model
def test_the_first_layer_of_analysis_and_the_last_of_synthesis_stay_in_floating_point(name: str) -> None:
    model = quantized(name)
    layers = [n for n, each in model.named_modules() if isinstance(each, nn.Conv2d | nn.ConvTranspose2d)]
    calls: list[str] = []
    for n in layers:
        model.get_submodule(n).register_forward_hook(lambda *_, n=n: calls.append(n))
    model(picture(64, 64).float())
    assert skipped_layers(model) == {calls[0]: "skipped as <first>", calls[-1]: "skipped as <last>"}
    assert all(isinstance(model.get_submodule(n), QuantizedLayer) for n in set(layers) - {calls[0], calls[-1]})
    assert cost(model, picture(64, 64).float()).uncounted == ()


def test_first_and_last_mean_the_same_to_the_dial_and_to_mixed_precision() -> None:
    model = quantized("hpcm", skip=("<first>",))
    dial = BitDial(torch.nn.DataParallel(model))
    dial.set(weights=3, layers="<last>")
    assert {n for n, w in zip(dial.names, dial.weights, strict=True) if w == 3} == {"g_s.branch.6"}
    rules = [PolicyRule(pattern, lambda step: "float32") for pattern in ("<last>", "<first>")]
    governed = govern(dict(model.named_modules()), rules)
    assert governed == {model.get_submodule("g_s.branch.6"): 0, model.get_submodule("g_a.branch.0"): 1}


@each_model
def test_every_parameter_is_trained_at_every_width(name: str) -> None:
    model = quantized(name).train()
    dial, images = BitDial(model), torch.rand(1, 3, 128, 64)
    for bits in (8, 5.5, 1.585):
        dial.set(bits)
        model.zero_grad()
        coded = model(images)
        (coded.images.square().mean() + coded.bits_per_pixel).backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, (bits, parameter_name)
            assert parameter.grad.isfinite().all(), (bits, parameter_name)
            assert parameter.grad.any(), (bits, parameter_name)


@each_model
@torch.no_grad()
def test_the_decoder_follows_the_encoder_and_the_bits_are_those_of_the_symbols(name: str) -> None:
    model, images = quantized(name, 4), picture(70, 40).float()
    latents = model.analyse(images)
    stream: list[Tensor] = []

    def write(step: CodingStep) -> Tensor:
        stream.append(step.symbols(latents))
        return stream[-1]

    written = model.decode(write, 70, 40)
    rest = iter(stream)
    assert torch.equal(model.decode(lambda step: next(rest), 70, 40), written)
    assert torch.equal(model(images).images, written)
    bits, coded = model.bits(images), model(images)
    assert coded.bits_per_pixel.item() == pytest.approx((bits["z"] + bits["y"]) / (70 * 40), rel=1e-5)
    assert bits["y"] > 0


def test_training_at_8_bits_lowers_the_loss() -> None:
    model, images = quantized("mean_scale").train(), picture(64, 64).float()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def loss() -> Tensor:
        coded = model(images)
        return 0.013 * 255**2 * (coded.images - images).square().mean() + coded.bits_per_pixel

    before = loss().item()
    for _ in range(12):
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert loss().item() < 0.6 * before
