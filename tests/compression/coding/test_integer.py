"""Codecs that decode in whole numbers: the same bits in int64, other threads, other instructions, other batches."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

import bitdial as bd
from bitdial.compression.codec import Codec
from bitdial.compression.coding.container import DamagedFile, read, write
from bitdial.compression.models import HPCM, CompressionModel, MeanScaleHyperprior
from bitdial.errors import BitdialError
from bitdial.export import load_packed, save_packed
from bitdial.layers import BitDial, QuantizedLayer, ranges_per_call
from tests.compression.test_codec import pixels
from tests.compression.test_quantized import quantized
from tests.layers.test_whole import Int64

pytest.importorskip("constriction")

NAMES = ["mean_scale", "hpcm_no_attention"]
each = pytest.mark.parametrize("name", NAMES)
WHOLE = ("<first>",)


_kept = cache(quantized)


def trained(name: str, bits: float = 8) -> CompressionModel:
    return copy.deepcopy(_kept(name, bits, WHOLE))


@torch.no_grad()
def decoded(codec: Codec, batch: int = 1) -> list[Tensor]:
    """Every entropy parameter and the images, from symbols that a formula gives."""
    found: list[Tensor] = []

    def symbols(step: Any) -> Tensor:
        found.extend((step.scales, step.means))
        places = torch.arange(step.scales[0].numel()).view(step.scales[0].shape)
        return (places % 7 - 3).expand(step.scales.shape)

    codec.model.eval()
    return [*found, codec.model.decode(symbols, 64, 60, batch)]


def alike(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(
        torch.equal(a, b) and torch.equal(a.signbit(), b.signbit()) for a, b in zip(one, other, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize("name", ["factorized", "scale", *NAMES])
def test_a_file_gives_the_reconstruction_and_both_are_near_to_the_networks(name: str) -> None:
    model, given = trained(name), pixels(65, 40)
    codec = Codec(model)
    assert codec.arithmetic == "integer"
    data = codec.compress(given)
    back = codec.decompress(data).pixels
    assert torch.equal(back, codec.reconstruct(given))
    estimate = codec.estimated_size(given)
    assert abs(len(data) - estimate) <= 0.002 * estimate + 64
    with torch.no_grad():
        image = (model(given[None].float() / 255).images[0].clamp(0, 1) * 255).round()
    assert (back.double() - image).abs().mean() < 1  # activations at a tie fall to either side


@each
def test_all_is_equal_to_int64(name: str) -> None:
    codec = Codec(trained(name, 6))
    expected, sums = decoded(codec), 0
    for module in codec.model.modules():
        if isinstance(module, QuantizedLayer) and "_product" in vars(module):
            product = vars(module)["_product"]
            vars(module)["_product"] = lambda x, arithmetic, product=product: product(x, Int64(arithmetic))
            sums += 1
    assert sums > 10
    assert alike(decoded(codec), expected)


@each
def test_threads_onednn_and_batches_do_not_show(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, threads = Codec(trained(name)), torch.get_num_threads()
    expected = decoded(codec)
    two = decoded(codec, batch=2)
    assert alike([value[1:] for value in two], expected)
    try:
        torch.set_num_threads(2)
        assert alike(decoded(codec), expected)
        monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
        assert alike(decoded(codec), expected)
    finally:
        torch.set_num_threads(threads)


EXACT = {
    *("add", "sub", "mul", "round", "clamp", "clamp_min", "leaky_relu", "lt", "eq", "where", "remainder"),
    *(
        "cat",
        "stack",
        "slice",
        "select",
        "split",
        "view",
        "unsqueeze",
        "expand",
        "repeat",
        "alias",
        "copy_",
        "_to_copy",
    ),
    *("new_zeros", "ones_like", "arange", "scalar_tensor", "lift_fresh", "_local_scalar_dense", "sum", "alias"),
    "convolution",
}
"""What takes one element at a time or moves them; sums in which all but one are zero; and sums of whole numbers."""


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        self.seen.add(name)
        if name == "convolution":
            assert args[2] is None  # a bias is added by itself
            assert all(torch.equal(value, value.round()) for value in args[:2])
        if name == "sum":
            assert (args[0] != 0).sum(args[1]).max() <= 1
        if name in ("add", "sub"):
            assert (kwargs or {}).get("alpha", 1) == 1
        return func(*args, **(kwargs or {}))


@each
def test_a_decoder_has_no_other_operations(name: str) -> None:
    codec, record = Codec(trained(name)), _Record()
    with record:
        decoded(codec)
    assert {"convolution", "leaky_relu", "round"} <= record.seen
    assert record.seen - EXACT == set()


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(2)
torch.backends.mkldnn.enabled = False
from bitdial.compression.codec import Codec
folder = Path(sys.argv[1])
codec = Codec(torch.load(folder / "model.pt", weights_only=False))
picture = codec.decompress((folder / "file.bd").read_bytes())
(folder / "file.raw").write_bytes(picture.pixels.numpy().tobytes())
"""


def test_a_process_with_other_instructions_decodes_the_same(tmp_path: Path) -> None:
    model, given = trained("hpcm_no_attention"), pixels(60, 45)
    torch.save(model, tmp_path / "model.pt")
    codec = Codec(model)
    (tmp_path / "file.bd").write_bytes(codec.compress(given))
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), *sys.path]))
    other = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "BITDIAL_NATIVE": "0"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths, **other}, timeout=300)
    assert (tmp_path / "file.raw").read_bytes() == codec.reconstruct(given).numpy().tobytes()


def test_files_of_the_two_arithmetics_are_not_each_others() -> None:
    model, given = trained("mean_scale"), pixels(40, 40)
    codecs = [Codec(model, arithmetic=way) for way in ("integer", "float64")]
    assert [codec.arithmetic for codec in codecs] == ["integer", "float64"]
    for one, other in (codecs, codecs[::-1]):
        with pytest.raises(BitdialError, match=f"by the model that wrote it, {one.model_id}, got model"):
            other.decompress(one.compress(given))
    assert Codec(model).model_id == codecs[0].model_id == Codec(copy.deepcopy(model).double()).model_id
    assert Codec(quantized("mean_scale")).arithmetic == "float64"
    assert Codec(quantized("hpcm", 8, WHOLE)).arithmetic == "float64"


def test_the_id_covers_all_that_is_decoded_with() -> None:
    model = trained("mean_scale")
    seen = {Codec(model).model_id}
    layer: Any = model.g_s.branch[0]  # type: ignore[union-attr, index]
    for change in (
        lambda: layer.range_high.mul_(1.01),
        lambda: layer.bias.data[0].add_(1e-6),
        lambda: layer.weight.data[0, 0].mul_(-1),
        lambda: model.means_hyper.data[0, 1].add_(1e-6),
        lambda: BitDial(model).set(activations=7),
        lambda: BitDial(model).set(weights=7),
    ):
        change()
        codec = Codec(model)
        assert codec.arithmetic == "integer"
        assert codec.model_id not in seen
        seen.add(codec.model_id)


@pytest.mark.parametrize(
    "options",
    [
        {"weight_quantizer": "lsq"},
        {"gradients": 8},  # rounded at random, on the way back alone
        {"weight_quantizer": "twn", "activation_quantizer": "dorefa"},
        {"dtype": torch.bfloat16},
    ],
    ids=str,
)
def test_other_quantizers_and_dtypes(options: dict[str, Any]) -> None:
    own = {name: value for name, value in options.items() if name != "dtype"}
    codec = Codec(_with(**own).to(options.get("dtype", torch.float32)), arithmetic="integer")
    assert torch.equal(codec.decompress(codec.compress(pixels(9, 9))).pixels, codec.reconstruct(pixels(9, 9)))


def test_a_packed_network_and_a_pickled_codec_are_the_same_decoder(tmp_path: Path) -> None:
    model, given = trained("mean_scale"), pixels(40, 40)
    codec = Codec(model)
    data = codec.compress(given)
    packed = load_packed(save_packed(model, tmp_path / "net"), trained("mean_scale"))
    for other in (Codec(packed), pickle.loads(pickle.dumps(codec)), copy.deepcopy(codec)):  # type: ignore[arg-type]
        assert other.model_id == codec.model_id
        assert torch.equal(other.decompress(data).pixels, codec.decompress(data).pixels)


@pytest.mark.parametrize("arithmetic", ["integer", "float64"])
def test_a_file_that_fails_does_not_shift_the_ranges_of_calls(arithmetic: str) -> None:
    model = bd.quantize(HPCM("tiny", attention=False), skip=WHOLE)
    ranges_per_call(model, {"y_spatial_prior_s3": 6, "y_spatial_prior_s1_s2": 4})
    model(torch.rand(1, 3, 64, 64))
    codec, given = Codec(model, arithmetic=arithmetic), pixels(64, 64)  # type: ignore[arg-type]
    data = codec.compress(given)
    expected, file = codec.decompress(data).pixels, read(data)
    with pytest.raises(DamagedFile):
        codec.decompress(write(type(file)(file.model_id, 64, 64, "RGB", file.chunks[:3], 0)))
    assert torch.equal(codec.decompress(data).pixels, expected)


def test_the_model_stays_as_it_was() -> None:
    model = trained("scale").train()
    Codec(model)
    assert all("_product" not in vars(module) for module in model.modules())
    assert model(torch.rand(1, 3, 64, 64)).images.dtype == torch.float32


class _Odd(MeanScaleHyperprior):
    pass


def _changed(**changes: Any) -> CompressionModel:
    model = trained("mean_scale")
    for name, value in changes.items():
        model.g_s.branch[int(name[1:])] = value  # type: ignore[union-attr, operator]
    return model


def _widths(**widths: float) -> CompressionModel:
    model = trained("mean_scale")
    BitDial(model).set(**widths)  # type: ignore[arg-type]
    return model


def _with(**options: Any) -> Any:
    return bd.quantize(MeanScaleHyperprior(8, 8), skip=WHOLE, **options)


BAD: dict[str, Any] = {
    "floating point; call bitdial.quantize": lambda: MeanScaleHyperprior(8, 8),
    "g_s.branch.6: it stands in floating point": lambda: quantized("mean_scale"),
    "attn_s1, attn_s2, attn_s3: a softmax .* HPCM": lambda: quantized("hpcm", 8, WHOLE),
    "got g_s.branch.0, .* and 18 more: it stands at 32 bits": lambda: _widths(activations=32),
    "more: it stands at 32 bits; turn the dial to 16 or less$": lambda: _widths(weights=32),
    "g_s.branch.0: its sums could reach": lambda: _widths(weights=22, activations=30),
    "g_s.branch.1: GELU is not known to take one": lambda: _changed(_1=nn.GELU()),
    "g_s.branch.1: it stands in floating point": lambda: _changed(_1=nn.BatchNorm2d(16)),
    "the network: _Odd is not known to take one": lambda: bd.quantize(_Odd(8, 8), skip=WHOLE),
    "activation quantizer lsq has no fixed grid": lambda: _with(quantizer="lsq"),
    "granularity group:2 has several steps": lambda: _with(granularity="group:2"),
    "rotates its input": lambda: _with(quantizer="quest_hadamard", activation_quantizer="uniform"),
}


@pytest.mark.parametrize("says", BAD)
def test_what_cannot_decode_in_whole_numbers_is_refused_by_name(says: str) -> None:
    model = BAD[says]()
    with pytest.raises(BitdialError, match=says) as caught:
        Codec(model, arithmetic="integer")
    assert str(caught.value).startswith("the decoder's side must compute in whole numbers throughout, got ")
    assert "\n" not in str(caught.value)


def test_weights_that_hooks_compute() -> None:
    parametrized, pruned = MeanScaleHyperprior(8, 8), _with()
    parametrizations.weight_norm(parametrized.g_s.branch[0])  # type: ignore[union-attr, index, arg-type]
    with pytest.raises(BitdialError, match=r"got g_s.branch.0: ParametrizedConvTranspose2d is not known [^;]*; take"):
        Codec(bd.quantize(parametrized, skip=WHOLE), arithmetic="integer")  # type: ignore[arg-type]
    prune.l1_unstructured(pruned.g_s.branch[0], "weight", 0.5)
    with pytest.raises(BitdialError, match="network that can be copied, got one with weights that hooks compute"):
        Codec(pruned)


@pytest.mark.parametrize("wrong", ["int64", 8, True, ""])
def test_an_unknown_arithmetic(wrong: Any) -> None:
    with pytest.raises(BitdialError, match="arithmetic must be integer or float64, got"):
        Codec(MeanScaleHyperprior(8, 8), arithmetic=wrong)
