"""HPCM is the published network: its parameters, its numbers step by step, and nothing seen before it is decoded."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bitdial.compression.models import HPCM, CodingStep, Latents
from bitdial.compression.models.blocks import WindowAttention
from bitdial.compression.models.codec import likelihood
from bitdial.compression.models.steps import TO_SCALE_1, places
from tests.compression.golden import fill, picture

SHARED = {
    "h_a": 3_156_304,
    "h_s": 6_116_448,
    "y_spatial_prior_adaptor_list_s1": 922_560,
    "y_spatial_prior_adaptor_list_s2": 2_767_680,
    "y_spatial_prior_adaptor_list_s3": 5_535_360,
    "adaptive_params_list": 9_600,
    "attn_s1": 1_640_960,
    "attn_s2": 1_640_960,
    "attn_s3": 1_640_960,
    "context_net": 820_480,
}
BASE = {"g_a": 6_716_336, "g_s": 6_716_019, "y_spatial_prior_s1_s2": 11_711_680, "y_spatial_prior_s3": 19_109_440}
LARGE = {"g_a": 11_774_768, "g_s": 11_774_451, "y_spatial_prior_s1_s2": 15_410_560, "y_spatial_prior_s3": 26_507_200}


def count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


@pytest.mark.parametrize(("size", "own", "total"), [("base", BASE, 68_505_299), ("large", LARGE, 89_718_803)])
def test_parameters_of_every_module(size: str, own: dict[str, int], total: int) -> None:
    with torch.device("meta"):
        model = HPCM(size)
    assert {name: count(module) for name, module in model.named_children()} == {**SHARED, **own}
    assert model.means_hyper.numel() == model.scales_hyper.numel() == 256
    assert count(model) == total
    assert not list(model.buffers())


def test_parameters_without_attention() -> None:
    with torch.device("meta"):
        assert count(HPCM(attention=False)) == 63_582_419


# Sums and sums of magnitudes of the symbols, and the bits, of steps 0 (z) to 11.
SAME = [(-324, 4364, 11760.50048655374), (-116, 5978, 16916.451559), (-655, 5765, 19722.860356)]
RELEASED = [
    *SAME,
    (-1462, 10316, 25123.549798),
    (-1284, 10540, 28548.401781),
    (-1446, 10294, 26659.629028),
    (-2525, 22319, 62221.636766),
    (-3027, 22441, 65117.749588),
    (-2236, 21940, 55219.123285),
    (-3350, 21584, 55664.971106),
    (-2881, 21139, 55967.611799),
    (-3328, 20980, 55572.921944),
]
CORRECTED = [
    *SAME,
    (-1366, 10510, 25852.448734),
    (-1314, 10592, 28685.395086),
    (-1424, 10312, 26759.475787),
    (-2541, 22277, 62135.220055),
    (-3063, 22435, 65392.118141),
    (-2254, 21970, 55226.310461),
    (-3283, 21605, 55726.228091),
    (-2903, 21189, 56227.398772),
    (-3356, 21010, 55926.008840),
]


def assert_sums(x: Tensor, total: float, magnitude: float) -> None:
    assert x.abs().sum().item() == pytest.approx(magnitude, rel=1e-12)
    assert x.sum().item() == pytest.approx(total, abs=1e-12 * magnitude)


@pytest.fixture(scope="module")
def golden() -> tuple[HPCM, Latents]:
    with torch.device("meta"):
        model = HPCM()
    model = fill(model.double().to_empty(device="cpu")).eval()
    with torch.no_grad():
        return model, model.analyse(picture(256, 256))


@torch.no_grad()
def test_golden_latents_and_hyper_parameters(golden: tuple[HPCM, Latents]) -> None:
    model, latents = golden
    assert latents.z is not None
    assert_sums(latents.y, -22793.2558838245, 152503.5415791078)
    assert_sums(latents.z, -306.2821140281, 4475.6949067254)
    z = (latents.z - model.means_hyper).round() + model.means_hyper
    assert_sums(model.h_s(z), 173968.1569902360, 334956.6422003634)


Y_BITS = {True: 466734.907010, False: 468569.915882}
Y = {True: (-22734.0326357361, 153687.6719680090), False: (-22757.3360834649, 153868.7276121071)}
IMAGES = {True: (25766.3591085244, 1477655.7497971628), False: (25762.7145046634, 1478517.0009366469)}


@pytest.mark.parametrize("compat", [True, False])
@torch.no_grad()
def test_golden_steps(compat: bool, golden: tuple[HPCM, Latents]) -> None:
    model, latents = golden
    model.compat = compat
    found: list[tuple[int, int]] = []
    bits: list[float] = []

    def read(step: CodingStep) -> Tensor:
        symbols = step.symbols(latents)
        probability = likelihood(symbols, step.scales)
        # The numbers were made with a bound of 1e-9 in float32, which shows in the fifth digit behind the point.
        least = torch.tensor(1e-9, dtype=torch.float32).double()
        bits.append(-torch.where(probability <= 1e-9, least, probability).log2().sum().item())
        found.append((int(symbols.sum()), int(symbols.abs().sum())))
        return symbols

    decoded = model.decode_latents(read, 256, 256)
    steps = RELEASED if compat else CORRECTED
    assert found == [step[:2] for step in steps]
    assert bits == pytest.approx([step[2] for step in steps], abs=1.1e-6, rel=0)
    assert sum(bits[1:]) == pytest.approx(Y_BITS[compat], abs=5e-6, rel=0)
    assert_sums(decoded, *Y[compat])
    assert_sums(model.synthesise(decoded, 256, 256), *IMAGES[compat])


@pytest.mark.parametrize("attention", [True, False])
@torch.no_grad()
def test_a_symbol_changes_what_is_decoded_after_it_and_nothing_else(attention: bool) -> None:
    torch.manual_seed(0)
    model = HPCM("tiny", attention=attention).double().eval()
    symbols: dict[int, Tensor] = {}

    def distributions() -> list[Tensor]:
        found = []

        def read(step: CodingStep) -> Tensor:
            found.append(torch.stack((step.scales, step.means)))
            if step.number not in symbols:
                symbols[step.number] = torch.randint(-3, 4, step.scales.shape)
            return symbols[step.number]

        model.decode(read, 128, 64)
        return found

    before = distributions()
    for step in range(12):
        symbols[step][0, 0, 0, 0] += 1
        changed = [not torch.equal(one, other) for one, other in zip(before, distributions(), strict=True)]
        symbols[step][0, 0, 0, 0] -= 1
        assert not any(changed[: step + 1])
        assert all(changed[step + 1 :])


def entered(compat: bool, height: int, width: int) -> Tensor:
    """The hyper-parameters that scale 2 begins with; each of the given ones is its own number, coded ones are -1."""
    model = HPCM("tiny", compat)
    model.context_net[0] = nn.Identity()
    hyper = torch.arange(128.0 * height * width).view(1, 128, height, width)
    context = -torch.ones(1, 128, height // 4, width // 4)
    return model._enter(2, context[:, :64], context, hyper)[1][0]


def test_the_released_code_misplaces_hyper_parameters_and_ours_does_not() -> None:
    ours, released = entered(False, 16, 16), entered(True, 16, 16)
    coded = places(ours[None], TO_SCALE_1 * 2)[0]
    assert torch.equal(ours == -1, coded)
    assert torch.equal(released == -1, coded)
    wrong = (ours != released).double().view(2, 8, -1).sum(-1) / (~coded).view(2, 8, -1).sum(-1)
    assert [round(100 * share.item()) for share in wrong[0]] == [0, 0, 33, 33, 83, 83, 92, 92]
    assert torch.equal(wrong[0], wrong[1])
    rows = (ours % 256 // 16 - released % 256 // 16).abs()
    assert rows.max() == 2
    # Where it is right: the phase of its group in a 2x2 cell, over all of its channel.
    phases = ((0, 0), (1, 1), (0, 1), (1, 0)) * 4
    for number, (i, j) in enumerate(phases):
        group = slice(8 * number, 8 * number + 8)
        expected = torch.arange(128.0 * 256).view(128, 16, 16)[group, i::2, j::2]
        assert torch.equal(ours[group][~coded[group]], expected[~coded[group]])


@pytest.mark.parametrize(("height", "width"), [(4, 8), (1, 1), (5, 4), (6, 11)])
@torch.no_grad()
def test_attention_inside_windows_that_are_cut_at_the_border(height: int, width: int) -> None:
    torch.manual_seed(0)
    layer = WindowAttention(12, heads=3, window=4).double()
    query, context = torch.randn(2, 2, 12, height, width, dtype=torch.float64)
    expected = layer.conv_out(query)
    for top in range(0, height, 4):
        for left in range(0, width, 4):
            window = (..., slice(top, top + 4), slice(left, left + 4))
            q, k, v = (
                convolution(x[window]).flatten(2).unflatten(1, (3, 4))
                for convolution, x in ((layer.conv_q, query), (layer.conv_k, context), (layer.conv_v, context))
            )
            weights = (q.transpose(-1, -2) @ k / math.sqrt(4)).softmax(-1)
            expected[window] += (v @ weights.transpose(-1, -2)).reshape(query[window].shape)
    torch.testing.assert_close(layer(query, context), expected)


@torch.no_grad()
def test_each_step_has_its_adaptor_in_the_published_order() -> None:
    model = HPCM("tiny").eval()
    calls: list[str] = []
    for name, module in model.named_modules():
        if "adaptor_list" in name and name[-1].isdigit():
            module.register_forward_hook(lambda *_, name=name: calls.append(name[-4:]))
    model.bits(torch.rand(1, 3, 64, 64))
    assert calls == ["s1.0", "s2.2", "s2.0", "s2.1", "s3.5", *(f"s3.{number}" for number in range(5))]
