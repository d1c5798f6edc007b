"""Files and runs are loaded to predict with, and what is damaged, changed or of another kind is refused."""

from __future__ import annotations

import hashlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import nn

import bitdial as bd
from bitdial.errors import BitdialError
from bitdial.export import load_packed, save_packed
from bitdial.export.calibration import calibrated
from bitdial.export.container import from_bytes, to_bytes
from bitdial.models import build_model
from bitdial.recipes.saved_model import SavedModel
from bitdial.runtime import OnnxNetwork, load

HOW = {"weights": 4, "activations": 8}


def network() -> nn.Module:
    torch.manual_seed(0)
    model = bd.quantize(build_model("tiny_cnn", num_classes=10, in_channels=1, image_size=8), **HOW)  # type: ignore[arg-type]
    model.train()(torch.randn(16, 1, 8, 8))
    return model.eval()


def described(**other: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "recipe": "ternary", "arm": "ternary", "seed": 0, "model": "tiny_cnn", "quantize": HOW, "num_classes": 10,
        "in_channels": 1, "image_size": 8, "mean": [0.5], "std": [0.25],
    }  # fmt: skip
    return SavedModel(**known | other).model_dump(mode="json", exclude_defaults=True)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_packed(network(), tmp_path_factory.mktemp("packed") / "tiny.safetensors", description=described())


def changed(packed: Path, path: Path, **told: Any) -> Path:
    """The file with another description, under a checksum that is right."""
    tensors, description = from_bytes(packed.read_bytes(), packed)
    path.write_bytes(to_bytes(tensors, {**description, **told}))
    return path


def test_a_packed_file_predicts_as_the_network_that_it_is_of(packed: Path) -> None:
    x = torch.randn(4, 1, 8, 8)
    made = load(packed, threads=1)
    expected = calibrated(load_packed(packed, network()))(x)
    torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-4)
    assert made.described is not None
    assert made.described.mean == [0.5]


def test_a_run_and_the_file_of_its_network_predict_alike(tmp_path: Path) -> None:
    bd.run("joint", model="tiny_cnn", steps=2, bitwidth_options=[2, 8], run_dir=tmp_path / "run")
    x = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    one = load(tmp_path / "run", threads=1)
    files = sorted((tmp_path / "run").rglob("*_best_model.pt")) or sorted((tmp_path / "run" / "models").glob("*.pt"))
    assert np.array_equal(one(x), load(files[0], threads=1)(x))


def test_a_file_written_without_a_description_says_what_to_do(tmp_path: Path) -> None:
    path = save_packed(network(), tmp_path / "bare.safetensors")
    with pytest.raises(BitdialError, match="does not say which network"):
        load(path)


def test_an_onnx_file_gets_the_session_options_that_stand_in_it(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "plain.onnx"
    torch.onnx.export(
        nn.Linear(4, 3),
        (torch.zeros(1, 4),),
        path,
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}},
    )
    x = np.ones((5, 4), np.float32)
    plain = load(path, threads=1)
    assert isinstance(plain, OnnxNetwork)
    assert plain.described is None
    assert plain(x).shape == (5, 3)
    assert isinstance(plain(torch.from_numpy(x)), torch.Tensor)
    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key = "bitdial"
    entry.value = json.dumps({"format_version": 1, "session_options": {"session.x64quantprecision": "1"}})
    onnx.save(model, path)
    told = load(path, threads=1)
    assert "session.x64quantprecision=1" in str(told.chosen)
    assert told.described is None  # it takes no images
    assert np.allclose(told(x), plain(x))
    for wrong in (np.ones((5, 7), np.float32), np.ones(4, np.float32), np.ones((5, 4), np.int64), np.ones(4) > 0):
        expected = rf"input x of the network must be float32 of the shape \(any, 4\), got {wrong.dtype}"
        with pytest.raises(BitdialError, match=expected):
            told(wrong)
    with pytest.raises(BitdialError, match="inputs must be numbers"):
        told(np.array(["a"]))
    with pytest.raises(BitdialError, match="takes 1 inputs"):
        told(x, x)
    with pytest.raises(BitdialError, match="leave way"):
        load(path, way="kernels")


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": ("missing.safetensors", "got nothing"),
    "no path": (3, "must be the path"),
    "a folder that is no run": (".", "run"),
    "a text": ("text.safetensors", "safetensors"),
    "an empty file": ("empty.safetensors", "empty"),
    "a text as a network": ("text.pt", "not a trained network"),
    "a text as onnx": ("text.onnx", "no file of ONNX"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_network_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for ending in ("safetensors", "pt", "onnx"):
        Path(f"text.{ending}").write_text("[red]hello[/red] " * 100)
    Path("empty.safetensors").touch()
    source, sentence = WRONG[name]
    with pytest.raises(BitdialError, match=sentence) as error:
        load(source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 10**9])
def test_threads_are_a_whole_number(packed: Path, threads: Any) -> None:
    with pytest.raises(BitdialError, match="threads must be"):
        load(packed, threads=threads)


def test_ways_are_those_that_there_are(packed: Path) -> None:
    with pytest.raises(BitdialError, match="way must be one of kernels"):
        load(packed, way="kernel")  # type: ignore[arg-type]


DESCRIPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "many classes": ({"num_classes": 10**9}, "holds"),
    "many channels": ({"in_channels": 10**9}, "holds"),
    "a negative number": ({"num_classes": -1}, "built|whole number"),
    "another network": ({"model": "resnet18"}, "holds"),
    "an unknown network": ({"model": "nothing"}, "unknown model"),
    "another quantizer": ({"quantize": {"quantizer": "ternary", "activations": 8}}, "must fit the model"),
    "options that are none": ({"quantize": {"exec": "import os"}}, "cannot be built"),
    "widths that are none": ({"quantize": {"weights": "four"}}, "built|four"),
    "a codec": ({"codec": {}}, "codec|built|model"),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_description_of_another_network_is_refused_before_memory_is_taken(
    name: str, packed: Path, tmp_path: Path
) -> None:
    told, sentence = DESCRIPTIONS[name]
    path = changed(packed, tmp_path / "changed.safetensors", network={**described(), **told})
    before = psutil.Process().memory_info().rss
    with pytest.raises(BitdialError, match=sentence):
        load(path)
    assert psutil.Process().memory_info().rss - before < 2**28


def test_a_file_cannot_have_python_run(packed: Path, tmp_path: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef net(*_, **__): pass\n")
    path = changed(packed, tmp_path / "changed.safetensors", network={**described(), "model": f"{script}:net"})
    with pytest.raises(BitdialError, match=r"must not have run|model=\.\.\."):
        load(path)
    assert not (tmp_path / "ran").exists()


def damaged(data: bytes, draw: random.Random) -> bytes:
    """The bytes of a file with something wrong with them."""
    kind, at = draw.randrange(6), draw.randrange(len(data))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if kind == 2:
        length = draw.randrange(1, 64)
        return data[:at] + draw.randbytes(length) + data[at + length :]
    if kind == 3:
        return data[:at] + draw.randbytes(draw.randrange(1, 4000)) + data[at:]
    if kind == 4:
        return struct.pack("<Q", draw.choice([0, 1, 2**32, 2**63, 2**64 - 1, draw.randrange(2**40)])) + data[8:]
    header = draw.randrange(8, 8 + struct.unpack("<Q", data[:8])[0])  # where the description stands
    return data[:header] + bytes([draw.randrange(32, 127)]) + data[header + 1 :]


def sealed(data: bytes) -> bytes:
    """The same under a checksum that is right, as somebody who means harm would write it."""
    place = data.find(b'\\"sha256\\":\\"')
    if place < 0:
        return data
    start = place + len(b'\\"sha256\\":\\"')
    empty = data[:start] + b"0" * 64 + data[start + 64 :]
    return empty[:start] + hashlib.sha256(empty).hexdigest().encode() + empty[start + 64 :]


def fuzzed(packed: Path, path: Path, count: int) -> int:
    """Load so many damaged files; how many were refused."""
    data, draw, refused = packed.read_bytes(), random.Random(0), 0
    for number in range(count):
        content = damaged(data, draw)
        path.write_bytes(sealed(content) if number % 2 else content)
        try:
            made = load(path, threads=1)
            y = made(torch.zeros(2, 1, 8, 8))
            assert y.shape[0] == 2
            assert number % 2 or content == data  # only a sealed change may pass, of a value that makes sense
        except BitdialError:
            refused += 1
    return refused


def test_damaged_files_are_refused(packed: Path, tmp_path: Path) -> None:
    before = psutil.Process().memory_info().rss
    assert fuzzed(packed, tmp_path / "damaged.safetensors", 150) > 90
    assert psutil.Process().memory_info().rss - before < 2**28


@pytest.mark.slow
def test_two_thousand_damaged_files_are_refused(packed: Path, tmp_path: Path) -> None:
    before = psutil.Process().memory_info().rss
    assert fuzzed(packed, tmp_path / "damaged.safetensors", 2000) > 1200
    assert psutil.Process().memory_info().rss - before < 2**28


def test_an_onnx_file_of_bitdial_predicts_as_its_network(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    x = torch.randn(6, 1, 8, 8)
    model = network()
    about = {"mean": [0.5], "std": [0.25], "classes": [f"class {number}" for number in range(10)]}
    bd.export(model, tmp_path / "tiny.onnx", x, about=about)
    made = load(tmp_path / "tiny.onnx", threads=1)
    assert made.described is not None
    assert (made.described.image_size, made.described.num_classes) == (8, 10)
    assert made.described.class_names[3] == "class 3"
    torch.testing.assert_close(made(x), calibrated(model)(x), rtol=1e-3, atol=1e-3)
    (tmp_path / "tiny.onnx.json").unlink()  # all that it says stands in the file too
    alone = load(tmp_path / "tiny.onnx", threads=1)
    assert alone.described == made.described
    assert alone.chosen == made.chosen


def test_an_onnx_file_without_its_other_file_is_told(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    torch.onnx.export(nn.Linear(4, 3), (torch.zeros(1, 4),), tmp_path / "net.onnx", dynamo=False, opset_version=17)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.weights", size_threshold=0)
    assert load(tmp_path / "net.onnx", threads=1)(np.ones((1, 4), np.float32)).shape == (1, 3)
    (tmp_path / "net.weights").rename(tmp_path / "elsewhere")
    with pytest.raises(BitdialError, match=r"keeps weights in 'net\.weights', which is not beside it; put that file"):
        load(tmp_path / "net.onnx")


def test_an_onnx_file_of_style_qonnx_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    bd.export(network(), tmp_path / "tiny.onnx", torch.randn(6, 1, 8, 8), style="qonnx")
    with pytest.raises(BitdialError, match=r"style qonnx.*export it again with --style qdq"):
        load(tmp_path / "tiny.onnx")
