"""Packed files come back bit for bit: weights, outputs, and everything beside them."""

from __future__ import annotations

import copy
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from bitdial.errors import BitdialError
from bitdial.export import StoredWeight, load_packed, packed_sizes, save_packed
from bitdial.export.packed import packed_bytes
from bitdial.layers import BitDial, QuantizedLayer, quantize
from tests.export.models import TERNARY, Net, build, images, snapshot, weights


def assert_same(loaded: nn.Module, original: nn.Module, x: Tensor) -> None:
    """Quantized weights and outputs in evaluation agree in every bit."""
    mine, theirs = weights(loaded), weights(original)
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        assert torch.equal(weight, theirs[name])
        assert weight.dtype == theirs[name].dtype
    assert torch.equal(loaded(x), original(x))


@pytest.mark.parametrize("quantizer", TERNARY)
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("encoding", ["base3", "2bit"])
@pytest.mark.parametrize("activations", [8, 32])
def test_ternary_models_come_back(
    tmp_path: Path, quantizer: str, granularity: str, encoding: Any, activations: int
) -> None:
    original = build(quantizer, granularity=granularity, activations=activations)
    assert save_packed(original, tmp_path / "net.safetensors", encoding) == tmp_path / "net.safetensors"
    other = build(quantizer, seed=5, granularity=granularity, weights=8)
    assert load_packed(tmp_path / "net.safetensors", other) is other
    assert_same(other, original, images(9))
    for tensor in weights(other).values():
        assert not torch.signbit(tensor[tensor == 0]).any()
    assert BitDial(other).weights == BitDial(original).weights
    assert BitDial(other).activations == BitDial(original).activations
    assert torch.equal(other.temperature, original.temperature)


@pytest.mark.parametrize("bits", [1, 1.585, 2, 2.32, 3, 4, 5, 6.7, 7, 8])
@pytest.mark.parametrize("quantizer", ["uniform", "dorefa"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_grids_of_up_to_8_bits_come_back(tmp_path: Path, bits: float, quantizer: str, granularity: str) -> None:
    original = build(quantizer, weights=bits, granularity=granularity)
    save_packed(original, tmp_path / "net")
    other = load_packed(tmp_path / "net", build(quantizer, seed=5, granularity=granularity))
    assert_same(other, original, images(9))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_a_uniform_grid_takes_its_bits_and_one_step_a_channel(bits: int) -> None:
    sizes = packed_sizes(build("uniform", weights=bits))
    count = 6 * 7 * 9 + 11 * 6
    assert sizes.packed_weights == count
    assert count * bits <= 8 * sizes.weights <= count * bits + 16
    assert sizes.scales == 4 * (6 + 11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("quantizer", [*TERNARY, "uniform"])
def test_other_dtypes_come_back(tmp_path: Path, dtype: torch.dtype, quantizer: str) -> None:
    original = build(quantizer).to(dtype)
    save_packed(original, tmp_path / "net")
    other = load_packed(tmp_path / "net", build(quantizer, seed=5).to(dtype))
    assert_same(other, original, images(9).to(dtype))


@pytest.mark.parametrize("quantizer", [*TERNARY, "uniform"])
def test_layers_at_32_bits_are_stored_as_they_are(tmp_path: Path, quantizer: str) -> None:
    original = build(quantizer)
    BitDial(original).set(weights=32, layers="conv")
    save_packed(original, tmp_path / "net")
    other = load_packed(tmp_path / "net", build(quantizer, seed=5))
    assert_same(other, original, images(9))
    layer = other.get_submodule("conv")
    assert torch.equal(layer.weight, original.get_submodule("conv").weight)
    BitDial(other).set(weights=2)  # the float weights came along, learned scales too: they quantize as before
    BitDial(original).set(weights=2)
    assert torch.equal(layer.quantized_weight(), original.get_submodule("conv").quantized_weight())


def test_a_loaded_model_stays_on_its_grid_whatever_the_dial_says(tmp_path: Path) -> None:
    original = build("ttq")
    save_packed(original, tmp_path / "net")
    other = load_packed(tmp_path / "net", build("ttq", seed=5))
    before = weights(other)
    for bits in (2, 8, 32):
        BitDial(other).set(weights=bits)
        for name, weight in weights(other).items():
            assert torch.equal(weight, before[name])
    for layer in other.modules():
        if isinstance(layer, QuantizedLayer):
            assert isinstance(layer.weight_quantizer, StoredWeight)
            assert not layer.weight.requires_grad
    assert other.get_parameter("head.weight").requires_grad


def test_a_loaded_model_refuses_other_weights_and_takes_its_own(tmp_path: Path) -> None:
    original = build("twn")
    save_packed(original, tmp_path / "net")
    other = load_packed(tmp_path / "net", build("twn", seed=5))
    other.load_state_dict(other.state_dict())
    with pytest.raises(BitdialError, match='layer "conv" holds weights from a packed file and must keep them'):
        other.load_state_dict(original.state_dict())


@pytest.mark.parametrize("quantizer", [*TERNARY, "uniform", "dorefa"])
def test_saving_a_loaded_model_gives_the_same_file(tmp_path: Path, quantizer: str) -> None:
    original = build(quantizer)
    first, second = save_packed(original, tmp_path / "a"), tmp_path / "b"
    loaded = load_packed(first, build(quantizer, seed=5))
    save_packed(loaded, second)
    again = load_packed(second, build(quantizer, seed=6))
    assert_same(again, original, images(9))
    if quantizer != "dorefa":
        assert first.read_bytes() == second.read_bytes()
    assert load_packed(first, loaded) is loaded  # and a loaded model takes another file
    assert_same(loaded, original, images(9))


def test_the_same_model_gives_the_same_bytes() -> None:
    assert packed_bytes(build("ttq")) == packed_bytes(build("ttq"))


def test_copies_of_a_loaded_model_are_loaded_models(tmp_path: Path) -> None:
    save_packed(build("ttq"), tmp_path / "net")
    loaded = load_packed(tmp_path / "net", build("ttq", seed=5))
    for twin in (copy.deepcopy(loaded), pickle.loads(pickle.dumps(loaded))):
        assert_same(twin, loaded, images(9))


def test_wrapped_and_compiled_models_are_unwrapped(tmp_path: Path) -> None:
    original = build("twn")
    compiled = torch.compile(original, backend="eager")
    averaged = torch.optim.swa_utils.AveragedModel(original)
    assert packed_bytes(compiled) == packed_bytes(original) == packed_bytes(averaged)  # type: ignore[arg-type]
    save_packed(original, tmp_path / "net")
    wrapped = nn.DataParallel(build("twn", seed=5))
    assert load_packed(tmp_path / "net", wrapped) is wrapped
    assert_same(wrapped.module, original, images(9))


def test_one_layer_is_a_model(tmp_path: Path) -> None:
    original = quantize(nn.Linear(13, 7), quantizer="ttq").eval()
    save_packed(original, tmp_path / "net")
    other = load_packed(tmp_path / "net", quantize(nn.Linear(13, 7), quantizer="ttq").eval())
    assert_same(other, original, torch.randn(3, 13))


class Tied(nn.Module):
    """An embedding whose matrix a quantized layer uses, a layer used twice, and a norm under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.first = nn.Linear(6, 6)
        self.again = self.first
        self.norm = nn.LayerNorm(6)
        self.norm_again = self.norm
        self.out = nn.Linear(6, 9, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        for layer, norm in ((self.first, self.norm), (self.again, self.norm_again)):
            x = norm(torch.relu(layer(x)))
        return self.out(x)


def test_tied_weights_and_shared_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = quantize(Tied(), quantizer="ternary_lsq", skip=()).eval()
    torch.manual_seed(1)
    other = quantize(Tied(), quantizer="ternary_lsq", skip=()).eval()
    save_packed(original, tmp_path / "net")
    load_packed(tmp_path / "net", other)
    x = torch.arange(9).view(3, 3)
    assert_same(other, original, x)
    # The embedding looks up floats, the layer multiplies ternary ones: loading must not give either the other's.
    assert torch.equal(other.embedding.weight, original.embedding.weight)
    with safe_open(tmp_path / "net", framework="pt") as file:
        assert {"first.weight.packed", "out.weight.packed", "embedding.weight"} <= set(file.keys())
        assert not any(key.startswith(("again.", "norm_again.")) for key in file.keys())  # noqa: SIM118


def test_extreme_weights_come_back(tmp_path: Path) -> None:
    original = build("ttq", granularity="channel", trained=False)
    with torch.no_grad():
        weight = original.get_submodule("conv").weight
        weight[0] = 0.0
        weight[1] = weight[1].abs()  # one sign
        weight[2] *= 1e-42
        weight[3] *= 1e36
    save_packed(original, tmp_path / "net")
    other = load_packed(tmp_path / "net", build("ttq", seed=5, granularity="channel"))
    assert_same(other, original, images(9))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_weights_come_back(tmp_path: Path) -> None:
    def net() -> nn.Module:
        return quantize(nn.Sequential(nn.Linear(0, 4), nn.Linear(4, 0)), quantizer="twn", skip=()).eval()

    original = net()
    save_packed(original, tmp_path / "net")
    assert_same(load_packed(tmp_path / "net", net()), original, torch.zeros(2, 0))


def test_layout_in_memory_is_the_models_own(tmp_path: Path) -> None:
    original = build("twn").to(memory_format=torch.channels_last)
    save_packed(original, tmp_path / "net")
    other = load_packed(tmp_path / "net", build("twn", seed=5).to(memory_format=torch.channels_last))
    assert other.get_submodule("conv").weight.is_contiguous(memory_format=torch.channels_last)
    assert_same(other, original, images(9).to(memory_format=torch.channels_last))


def test_saving_and_loading_change_neither_model_nor_randomness(tmp_path: Path) -> None:
    model, other = build("ttq").train(), build("ttq", seed=5).train()
    before, random = snapshot(model), torch.get_rng_state()
    save_packed(model, tmp_path / "net")
    for name, tensor in snapshot(model).items():
        assert torch.equal(tensor, before[name])
    load_packed(tmp_path / "net", other)
    assert model.training
    assert other.training
    assert torch.equal(torch.get_rng_state(), random)


def test_any_reader_of_safetensors_can_list_the_file(tmp_path: Path) -> None:
    save_packed(build("twn"), tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        assert list(file.metadata()) == ["bitdial"]
        assert file.get_tensor("conv.weight.packed").dtype == torch.uint8
        assert file.get_tensor("conv.weight.scales").shape == (6,)
        assert file.get_tensor("stem.weight").shape == (7, 2, 3, 3)
        assert "conv.weight" not in file.keys()  # noqa: SIM118
        assert not any("gradient" in key or "weight_quantizer" in key for key in file.keys())  # noqa: SIM118


def test_a_folder_that_is_missing_is_made_and_nothing_else_left(tmp_path: Path) -> None:
    path = save_packed(build(), tmp_path / "a" / "b" / "net")
    assert os.listdir(path.parent) == ["net"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


@pytest.mark.parametrize("broken", ["fsync", "replace", "fdopen"])
def test_a_failure_while_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = save_packed(build(), tmp_path / "net")
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(BitdialError, match="cannot be written: No space left on device"):
            save_packed(build(seed=3), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["net"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_packed(build(), tmp_path / "net")
    before = path.read_bytes()

    class Killed(BaseException):
        pass

    def kill(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(Killed):
            save_packed(build(seed=3), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda path: save_packed(Net(), path), "model must have quantized layers, got none"),
        (lambda path: save_packed("net", path), "model must be a torch.nn.Module, got str"),
        (lambda path: save_packed(build(), path, "base4"), "encoding must be base3 or 2bit, got 'base4'; did you mean"),
        (lambda path: save_packed(build(), path, None), "encoding must be base3 or 2bit, got None"),
        (lambda path: save_packed(build(), 3), "path must be the path of a file, got int"),
        (lambda path: save_packed(build(), path.parent), "packed file .* cannot be written: Is a directory"),
        (lambda path: save_packed(build("uniform", weights=9), path), 'weights of layer "conv" must be ternary or'),
        (lambda path: save_packed(build("dorefa", weights=31.5), path), 'weights of layer "conv" .* got 31.5 bits'),
        (lambda path: save_packed(_with("conv.weight", torch.nan), path), 'weights of layer "conv" must be finite'),
        (lambda path: save_packed(_with("fc1.weight", torch.inf), path), 'weights of layer "fc1" must be finite'),
        (lambda path: save_packed(build().to("meta"), path), "must hold data, got a tensor without any"),
        (lambda path: save_packed(_Stateful(), path), "a packed file can hold tensors only, got dict under"),
        (lambda path: packed_sizes(Net()), "model must have quantized layers, got none"),
        (lambda path: packed_sizes(build(), "2 bits"), "encoding must be base3 or 2bit, got '2 bits'; did you mean"),
        (lambda path: packed_sizes(build("uniform", weights=12)), "weights of layer .* got 12 bits"),
    ],
)  # fmt: skip
def test_bad_arguments_get_a_sentence_and_no_file(tmp_path: Path, act: Any, message: str) -> None:
    with pytest.raises(BitdialError, match=message):
        act(tmp_path / "net")
    assert not os.listdir(tmp_path)


def _with(name: str, value: float) -> nn.Module:
    model = build("twn")
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = value
    return model


class _Stateful(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(quantize(nn.Linear(3, 3)))

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("quantizer", ["uniform", "dorefa", "twn", "absmean", "ttq", "ternary_lsq"])
def test_the_state_of_a_loaded_model_is_not_quantized_again(quantizer: str, strict: bool, tmp_path: Path) -> None:
    def fresh() -> nn.Module:
        torch.manual_seed(1)
        return quantize(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4)), 3, 8, quantizer=quantizer, skip=())

    file = save_packed(fresh(), tmp_path / "net.safetensors")
    loaded = load_packed(file, fresh())
    model = fresh()
    with pytest.raises(BitdialError, match='layer "0" of the state holds weights that come from a packed file'):
        model.load_state_dict(loaded.state_dict(), strict=strict)
    again = load_packed(file, fresh())
    again.load_state_dict(loaded.state_dict())
    old = {name: value for name, value in loaded.state_dict().items() if not name.endswith("stored")}
    again.load_state_dict(old)  # as earlier releases wrote it
    x = torch.randn(3, 6)
    assert torch.equal(again.eval()(x), loaded.eval()(x))
    second = load_packed(save_packed(loaded, tmp_path / "second.safetensors"), fresh())
    assert torch.equal(second.eval()(x), loaded.eval()(x))


def spectral(layer: nn.Module) -> None:
    torch.nn.utils.spectral_norm(layer)


def normed(layer: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "is deprecated"
        torch.nn.utils.weight_norm(layer)


COMPUTED: dict[str, tuple[Callable[[nn.Module], Any], Callable[[nn.Module], Any]]] = {
    "weight_norm": (parametrizations.weight_norm, lambda m: parametrize.remove_parametrizations(m, "weight")),
    "spectral_norm": (parametrizations.spectral_norm, lambda m: parametrize.remove_parametrizations(m, "weight")),
    "orthogonal": (parametrizations.orthogonal, lambda m: parametrize.remove_parametrizations(m, "weight")),
    "older weight_norm": (normed, torch.nn.utils.remove_weight_norm),
    "older spectral_norm": (spectral, torch.nn.utils.remove_spectral_norm),
    "pruning": (lambda m: prune.l1_unstructured(m, "weight", 0.5), lambda m: prune.remove(m, "weight")),
}


@pytest.mark.parametrize("way", COMPUTED)
def test_weights_that_are_computed_are_refused_and_nothing_is_changed(way: str, tmp_path: Path) -> None:
    def fresh() -> nn.Module:
        torch.manual_seed(1)
        layers = [nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 4)]
        return quantize(nn.Sequential(*layers), 3, 8, skip=()).eval()

    compute, make_permanent = COMPUTED[way]
    file = save_packed(fresh(), tmp_path / "net.safetensors")
    model, x = fresh(), torch.randn(3, 6)
    compute(model[2])
    model(x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BitdialError, match='layer "2" must have its weight as a parameter, got one that is computed'):
        save_packed(model, tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()
    with pytest.raises(BitdialError, match=r"make it permanent first, with torch\.nn\.utils\.parametrize"):
        load_packed(file, model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    make_permanent(model[2])
    loaded = load_packed(save_packed(model, tmp_path / "other.safetensors"), fresh())
    assert torch.equal(loaded(x), model(x))
