"""What is not a sound packed file of this very model is refused in a sentence, and the model stays as it was."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.export import DamagedPackedFile, load_packed, save_packed
from bitdial.export.container import from_bytes, to_bytes
from bitdial.export.packed import packed_bytes
from bitdial.layers import quantize
from tests.export.models import Net, build, images, same_state, snapshot, weights


@pytest.fixture(scope="module")
def sound() -> bytes:
    return packed_bytes(build("ttq", granularity="channel"))


def header_length(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def refuse(data: bytes, path: Path, kind: type[BitdialError] = DamagedPackedFile) -> str:
    """Load into a fresh model, which must refuse and stay as it was; return the sentence."""
    path.write_bytes(data)
    model = build("ttq", seed=5, granularity="channel")
    before, own, out = snapshot(model), weights(model), model(images(3))
    with pytest.raises(kind) as caught:
        load_packed(path, model)
    assert same_state(model, before)
    assert all(torch.equal(weight, own[name]) for name, weight in weights(model).items())
    assert torch.equal(model(images(3)), out)
    sentence = str(caught.value)
    assert path.name in sentence
    assert "\n" not in sentence
    return sentence


def test_every_byte_is_covered(sound: bytes) -> None:
    generator = random.Random(0)
    for place in range(len(sound)):
        for flip in (1 << generator.randrange(8), generator.randrange(1, 256)):
            changed = bytearray(sound)
            changed[place] ^= flip
            with pytest.raises(BitdialError):
                from_bytes(bytes(changed), "net")


def test_every_cut_and_every_extension_is_noticed(sound: bytes) -> None:
    for length in range(len(sound)):
        with pytest.raises(BitdialError):
            from_bytes(sound[:length], "net")
    for more in (b"\0", b" ", b"\n", sound):
        with pytest.raises(BitdialError):
            from_bytes(sound + more, "net")


def test_damage_in_the_data_leaves_the_model_as_it_was(sound: bytes, tmp_path: Path) -> None:
    start = header_length(sound)
    for place in (start, (start + len(sound)) // 2, len(sound) - 1):
        changed = bytearray(sound)
        changed[place] ^= 16
        assert "is damaged: its bytes do not match their checksum; fetch or export it again" in refuse(
            bytes(changed), tmp_path / "net"
        )
    assert "is damaged" in refuse(sound[:-1], tmp_path / "net")
    assert "is damaged: its header cannot be read" in refuse(sound[: start // 2], tmp_path / "net")
    assert "is damaged: it is empty" in refuse(b"", tmp_path / "net")


def test_two_files_glued_together_in_the_middle_are_noticed(sound: bytes) -> None:
    other = packed_bytes(build("ttq", seed=3, granularity="channel"))
    assert len(other) == len(sound)
    middle = (header_length(sound) + len(sound)) // 2
    with pytest.raises(DamagedPackedFile):
        from_bytes(sound[:middle] + other[middle:], "net")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (safetensors.torch.save({"weight": torch.zeros(3)}), "got another safetensors file"),
        (safetensors.torch.save({"weight": torch.zeros(3)}, {"format": "pt"}), "got another safetensors file"),
        (safetensors.torch.save({}, {"bitdial": "yes"}), "its description cannot be read"),
        (safetensors.torch.save({}, {"bitdial": "[]"}), "its description has no format"),
        (safetensors.torch.save({}, {"bitdial": '{"format":"packed"}'}), "its description has no format"),
        (pickle.dumps({"weight": 3}), "must be a safetensors file, got another kind"),
        (b"PK\x03\x04" + bytes(100), "must be a safetensors file, got another kind"),
        (b"precision is a hyper-parameter", "must be a safetensors file, got another kind"),
        (bytes(1000), "must be a safetensors file, got another kind"),
        (b"{}", "must be a safetensors file, got another kind"),
        ((2**63).to_bytes(8, "little") + b'{"a":1}', "its header cannot be read"),
        ((9).to_bytes(8, "little") + b'{"a":[1]}', "got another safetensors file"),
        ((8).to_bytes(8, "little") + b'{"a":[1]', "its header cannot be read"),
        ((4000).to_bytes(8, "little") + b'{"a":' + b"[" * 3995, "its header cannot be read"),
    ],
)
def test_other_files_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    assert message in refuse(data, tmp_path / "net", BitdialError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "must be of format \"packed\", version 1, got 'packed', version 2"),
        ({"version": "1"}, "got 'packed', version '1'"),
        ({"format": "codebook"}, "got 'codebook', version 1"),
    ],
)
def test_other_versions_are_refused(sound: bytes, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    tensors, description = from_bytes(sound, "net")
    text = json.dumps({**description, **change}, separators=(",", ":"))
    assert message in refuse(safetensors.torch.save(tensors, {"bitdial": text}), tmp_path / "net", BitdialError)


def test_a_missing_file_a_folder_and_a_number(tmp_path: Path) -> None:
    model = build()
    for path, message in (
        (tmp_path / "nothing", r"packed file .*nothing cannot be read: No such file"),
        (tmp_path, r"packed file .* cannot be read: Is a directory"),
        (3, "path must be the path of a file, got int"),
        (None, "path must be the path of a file, got NoneType"),
    ):
        with pytest.raises(BitdialError, match=message):
            load_packed(path, model)  # type: ignore[arg-type]


def _record(layer: str, **changes: Any) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    def change(tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
        description["layers"][layer].update(changes)

    return change


def _tensor(key: str, value: Any) -> Callable[[dict[str, Tensor], dict[str, Any]], None]:
    def change(tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value(tensors.get(key))

    return change


def _set_byte(place: int, byte: int) -> Callable[[Tensor], Tensor]:
    def change(codes: Tensor) -> Tensor:
        codes = codes.clone()
        codes[place] = byte
        return codes

    return change


@pytest.mark.parametrize("byte", [243, 250, 255])
def test_bytes_that_stand_for_no_trits_are_refused_under_a_sound_checksum_too(
    sound: bytes, byte: int, tmp_path: Path
) -> None:
    tensors, description = from_bytes(sound, "net")
    _tensor("conv.weight.packed", _set_byte(2, byte))(tensors, description)
    sentence = refuse(to_bytes(tensors, description), tmp_path / "net")
    assert f'the weights of layer "conv" make no sense: packed trits must be bytes up to 242, got {byte}' in sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_record("conv", form="base4"), "its description of the layers makes no sense (conv.form"),
        (_record("conv", levels="3"), "its description of the layers makes no sense (conv.levels"),
        (_record("conv", comment="hello"), "its description of the layers makes no sense (conv.comment"),
        (lambda t, d: d["layers"]["conv"].pop("shape"), "its description of the layers makes no sense (conv.shape"),
        (lambda t, d: d.pop("layers"), "its description of the layers makes no sense"),
        (lambda t, d: d.update(layers=[1]), "its description of the layers makes no sense"),
        (_record("conv", form="2bit"), 'the weights of layer "conv" make no sense: 378 codes of shape'),
        (_record("conv", form="grid"), 'the weights of layer "conv" make no sense: scales of 6 groups must have'),
        (_record("conv", form="table"), 'the weights of layer "conv" make no sense: scales of 6 groups must have'),
        (_record("conv", groups=4), 'the weights of layer "conv" make no sense: 378 weights must divide into 4'),
        (_record("conv", groups=0), 'the weights of layer "conv" make no sense: 378 weights must divide into 0'),
        (_record("conv", groups=-6), 'the weights of layer "conv" make no sense: 378 weights must divide into -6'),
        (_record("conv", groups=3), 'the weights of layer "conv" make no sense: scales of 3 groups must have'),
        (_tensor("conv.weight.packed", None), 'the weights of layer "conv" are missing'),
        (_tensor("fc1.weight.scales", None), 'the weights of layer "fc1" are missing'),
        (_tensor("conv.weight.packed", lambda t: t[:-1]), 'the weights of layer "conv" make no sense: 378 codes'),
        (_tensor("conv.weight.packed", lambda t: t.to(torch.int16)), 'the weights of layer "conv" make no sense'),
        (_tensor("conv.weight.scales", lambda t: t.double()), 'the weights of layer "conv" make no sense: scales'),
        (_tensor("fc1.weight.scales", lambda t: t[:, :-1]), 'the weights of layer "fc1" make no sense: scales'),
        (_tensor("fc1.weight.packed", _set_byte(-1, 242)), "must be filled up with zeros"),
    ],
)
def test_nonsense_under_a_sound_checksum_is_damage(sound: bytes, change: Any, message: str, tmp_path: Path) -> None:
    tensors, description = from_bytes(sound, "net")
    change(tensors, description)
    assert message in refuse(to_bytes(tensors, description), tmp_path / "net")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_tensor("stem.weight", None), "stem.weight is in the model and not in the file"),
        (_tensor("more", lambda _: torch.zeros(1)), "more is in the file and not in the model"),
        (_tensor("stem.bias", lambda t: t[:-1]), "stem.bias is torch.float32 (6,) in the file and torch.float32 (7,)"),
        (
            _tensor("stem.bias", lambda t: t.half()),
            "stem.bias is torch.float16 (7,) in the file and",
        ),
        (_tensor("norm.num_batches_tracked", lambda t: t.float()), "norm.num_batches_tracked is torch.float32 ()"),
        (lambda t, d: d["layers"].pop("fc1"), 'layer "fc1" is quantized in the model and not in the file'),
        (_record("conv", shape=[6, 7, 3, 4]), 'layer "conv" has shape [6, 7, 3, 4] in the file and [6, 7, 3, 3]'),
        (_record("conv", dtype="float16"), 'layer "conv" has dtype float16 in the file and float32 in the model'),
        (_record("conv", kind="QuantConv1d"), 'layer "conv" has kind QuantConv1d in the file and QuantConv2d'),
    ],
)
def test_what_does_not_fit_the_model_is_refused(sound: bytes, change: Any, message: str, tmp_path: Path) -> None:
    tensors, description = from_bytes(sound, "net")
    change(tensors, description)
    sentence = refuse(to_bytes(tensors, description), tmp_path / "net", BitdialError)
    assert message in sentence
    assert "must fit the model" in sentence


def _net(**options: Any) -> nn.Module:
    return quantize(Net(**options), quantizer="twn")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: build("ttq"), 'layer "conv" has quantizer twn in the file and ttq in the model'),
        (lambda: build("uniform"), 'layer "conv" has quantizer twn in the file and uniform in the model'),
        (lambda: build("twn", granularity="tensor"), 'layer "conv" has granularity channel in the file and tensor'),
        (lambda: build("twn", skip=()), 'layer "stem" is quantized in the model and not in the file'),
        (lambda: build("twn", skip=("<first>", "<last>", "fc1")), 'layer "fc1" is quantized in the file and not in'),
        (lambda: _net(stride=2), 'layer "conv" has options'),
        (lambda: _net(width=8), 'layer "conv" has options'),
        (lambda: build("twn").half(), 'layer "conv" has dtype float32 in the file and float16 in the model'),
        (
            lambda: quantize(nn.Linear(3, 3)),
            'layer "conv" is quantized in the file and not in the model',
        ),
        (lambda: Net(), "model must have quantized layers, got none"),
        (lambda: Net().state_dict(), "model must be a torch.nn.Module, got OrderedDict"),
        (lambda: build("twn").to("meta"), "must hold data, got a tensor without any"),
        (lambda: _renamed(), "is in the file and not in the model"),
    ],
)
def test_another_model_is_refused(other: Callable[[], Any], message: str, tmp_path: Path) -> None:
    path = save_packed(build("twn"), tmp_path / "net")
    model = other()
    whole = isinstance(model, nn.Module) and not any(p.is_meta for p in model.parameters())
    before = snapshot(model) if whole else {}
    with pytest.raises(BitdialError) as caught:
        load_packed(path, model)
    assert message in str(caught.value)
    assert not whole or same_state(model, before)


def _renamed() -> nn.Module:
    model = build("twn")
    model.normalisation = model.norm
    del model.norm
    return model


def test_a_model_that_cannot_be_written_is_put_back(tmp_path: Path) -> None:
    path = save_packed(build("twn"), tmp_path / "net")
    model = build("twn", seed=5)
    with torch.inference_mode():
        model.temperature = torch.tensor(7.0)  # the last tensor of the state: others are written before it
    before = snapshot(model)
    with pytest.raises(BitdialError, match=r"model must be writable, got .*; build it outside inference mode"):
        load_packed(path, model)
    assert same_state(model, before)


def test_unquantized_weights_cannot_enter_a_layer_that_holds_packed_ones(tmp_path: Path) -> None:
    packed = save_packed(build("twn"), tmp_path / "packed")
    floating = save_packed(build("twn", weights=32), tmp_path / "float")
    model = load_packed(packed, build("twn", seed=5))
    before = snapshot(model)
    with pytest.raises(BitdialError, match='layer "conv" of the model holds weights from a packed file'):
        load_packed(floating, model)
    assert same_state(model, before)


def test_the_checksum_is_the_sha256_of_the_file_with_zeros_in_its_place(sound: bytes) -> None:
    _, description = from_bytes(sound, "net")
    digest = description["sha256"].encode()
    assert sound.count(digest) == 1
    assert hashlib.sha256(sound.replace(digest, b"0" * 64)).hexdigest().encode() == digest
