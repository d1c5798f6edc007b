"""Files of a trained network: what comes out of them is what the network makes of a picture, anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bitdial.compression.codec import Codec
from bitdial.compression.coding.container import DamagedFile, read, write
from bitdial.compression.models import FactorizedPrior
from bitdial.errors import BitdialError
from tests.compression.golden import picture
from tests.compression.test_models import MODELS, build, each_model

pytest.importorskip("constriction")

SIZES = [(64, 64), (1, 1), (65, 40), (7, 130)]


def pixels(height: int, width: int) -> Tensor:
    return (picture(height, width)[0].clamp(0, 1) * 255).round().to(torch.uint8)


@each_model
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_file_gives_what_the_network_makes_of_the_picture(name: str, height: int, width: int) -> None:
    codec, given = Codec(build(name)), pixels(height, width)
    data = codec.compress(given)
    back = codec.decompress(data)
    assert back.pixels.shape == given.shape
    assert torch.equal(back.pixels, codec.reconstruct(given))
    assert back.mode == "RGB"
    assert codec.decompress(codec.compress(given, "L")).mode == "L"
    estimate = codec.estimated_size(given)
    assert abs(len(data) - estimate) <= 0.002 * estimate + 64
    assert len(read(data).chunks) == codec.model.steps + (name != "factorized")


@each_model
def test_the_reconstruction_is_that_of_the_model_in_evaluation(name: str) -> None:
    model, given = build(name), pixels(64, 65)
    whole = model.double().eval()(given[None].double() / 255).images[0]
    assert torch.equal(Codec(model.float()).reconstruct(given), (whole.clamp(0, 1) * 255).round().to(torch.uint8))


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(int(sys.argv[1]))
torch.backends.mkldnn.enabled = sys.argv[2] == "mkldnn"
from bitdial.compression.codec import Codec
from tests.compression.test_codec import MODELS, build
for name in MODELS:
    data = Path(sys.argv[3], name + ".bd").read_bytes()
    codec = Codec(build(name))
    Path(sys.argv[3], name + ".raw").write_bytes(codec.decompress(data).pixels.numpy().tobytes())
"""


@pytest.mark.parametrize(("threads", "with_mkldnn"), [(2, "no"), pytest.param(1, "mkldnn", marks=pytest.mark.slow)])
def test_another_process_decodes_the_same(threads: int, with_mkldnn: str, tmp_path: Path) -> None:
    given, expected = pixels(70, 45), {}
    for name in MODELS:
        codec = Codec(build(name))
        (tmp_path / f"{name}.bd").write_bytes(codec.compress(given))
        expected[name] = codec.reconstruct(given).numpy().tobytes()
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
    words = [sys.executable, "-c", SCRIPT, str(threads), with_mkldnn, str(tmp_path)]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": paths}, timeout=300)
    assert {name: (tmp_path / f"{name}.raw").read_bytes() for name in MODELS} == expected


def test_the_codec_is_known_by_its_weights() -> None:
    one, again, other = Codec(build("scale")), Codec(build("scale")), build("scale")
    assert one.model_id == again.model_id
    with torch.no_grad():
        other.g_s.branch[-1].bias[0] += 1e-6  # type: ignore[union-attr, index, operator]
    data = one.compress(pixels(64, 64))
    with pytest.raises(BitdialError, match=f"decoded by the model that wrote it, {one.model_id}, got model"):
        Codec(other).decompress(data, path="a.bd")


def test_the_model_stays_as_it_was() -> None:
    model = build("mean_scale").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Codec(model).compress(pixels(5, 5))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_preview_comes_nearer_with_every_step() -> None:
    codec, given = Codec(build("hpcm")), pixels(64, 128)
    data, whole = codec.compress(given), codec.reconstruct(given).double()
    away = [(codec.decompress(data, preview=k).pixels.double() - whole).square().mean().item() for k in (1, 5, 8, 11)]
    assert away[-1] == 0
    assert away[0] > away[1] > 0
    file = read(data)
    cut = write(type(file)(file.model_id, 128, 64, "RGB", file.chunks[:3], file.symbols_crc))  # z, and two steps of y
    assert torch.equal(codec.decompress(cut, preview=2).pixels, codec.decompress(data, preview=2).pixels)
    with pytest.raises(DamagedFile, match="cannot be decoded here"):
        codec.decompress(cut)


def test_a_machine_that_computes_other_tables_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, given = Codec(build("hpcm")), pixels(64, 64)
    data, scales = codec.compress(given), codec._tables
    refused = []
    for wrong in range(codec.model.steps):

        def other(step: Any, wrong: int = wrong) -> Any:
            indexes, tables = scales(step)
            if step.number == wrong + 1:
                indexes = indexes.clone()
                indexes.view(-1)[0] = (indexes.view(-1)[0].int() + 9) % 128
            return indexes, tables

        monkeypatch.setattr(codec, "_tables", other)
        try:
            assert torch.equal(codec.decompress(data).pixels, codec.reconstruct(given))  # that symbol is alike in both
        except DamagedFile as error:
            refused.append(str(error))
        monkeypatch.setattr(codec, "_tables", scales)
    assert len(refused) > 5
    assert all("computes other entropy parameters" in sentence for sentence in refused)


@pytest.mark.parametrize("garbage", range(8))
def test_garbage_that_the_checksums_vouch_for(garbage: int) -> None:
    codec = Codec(build("mean_scale"))
    file = read(codec.compress(pixels(40, 40)))
    noise = torch.Generator().manual_seed(garbage)
    chunks = tuple(bytes(torch.randint(256, (4 * (garbage % 5),), generator=noise).tolist()) for _ in file.chunks)
    with pytest.raises(DamagedFile):
        codec.decompress(write(type(file)(file.model_id, 40, 40, "RGB", chunks, file.symbols_crc)))


BAD: list[tuple[Any, str]] = [
    (lambda codec: Codec(torch.nn.Linear(2, 2)), "made of a network of bitdial.compression.models, got Linear"),
    (lambda codec: codec.compress(torch.zeros(1, 3, 4, 4)), r"pixels must be a uint8 tensor \[3, H, W\], got"),
    (lambda codec: codec.compress(pixels(4, 4)[:1]), r"got torch.uint8 \[1, 4, 4\]"),
    (lambda codec: codec.compress(torch.zeros(3, 0, 4, dtype=torch.uint8)), r"\[3, 0, 4\]"),
    (lambda codec: codec.compress("photo.jpg"), "got str; read_picture"),
    (lambda codec: codec.compress(pixels(4, 4), "CMYK"), "mode must be"),
    (lambda codec: codec.decompress(b""), "damaged: it is empty"),
    (lambda codec: codec.decompress(b"\x89PNG\r\n"), "another kind of file"),
    (lambda codec: codec.decompress("out.bd"), "must be read from bytes, got str"),
    (lambda codec: codec.decompress(codec.compress(pixels(4, 4))[:-1]), "is damaged"),
    (lambda codec: codec.decompress(codec.compress(pixels(9, 9)), max_pixels=80), "at most 80 pixels, got 9 x 9"),
    (lambda codec: codec.decompress(codec.compress(pixels(4, 4)), preview=0), "preview must be"),
    (lambda codec: codec.decompress(codec.compress(pixels(4, 4)), preview=2), "preview must be"),
    (lambda codec: codec.decompress(codec.compress(pixels(4, 4)), preview=True), "preview must be"),
]


@pytest.mark.parametrize(("call", "says"), BAD)
def test_bad_input_gets_one_sentence(call: Any, says: str) -> None:
    with pytest.raises(BitdialError, match=says) as caught:
        call(Codec(build("factorized")))
    assert "\n" not in str(caught.value)


def test_weights_that_have_diverged() -> None:
    model = FactorizedPrior(8, 8)
    with torch.no_grad():
        model.scales_hyper[0, 3] = float("nan")
    with pytest.raises(BitdialError, match="weights must be finite, got NaN or infinity in scales_hyper"):
        Codec(model)
    with torch.no_grad():
        model.scales_hyper.fill_(1)
        model.g_a.branch[-1].weight.fill_(3e37)  # type: ignore[union-attr, operator]
    with pytest.raises(BitdialError):
        Codec(model).compress(pixels(9, 9))
