"""Files of ONNX: every style, form and kind of layer computes what the network computes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bitdial as bd
from bitdial.errors import BitdialError
from bitdial.export.onnx import export_onnx, read_told
from tests.export.onnx.nets import convolutional, linear, pictures, rows

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

TERNARY = math.log2(3)


def outputs(path: Path, batch: Tensor) -> np.ndarray:
    """What a default session of ONNX Runtime makes of a batch."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: batch.numpy()})[0]  # type: ignore[no-any-return]


def initializers(path: Path) -> dict[str, Any]:
    return {each.name: each for each in onnx.load(path).graph.initializer}


CALIBRATION = [pictures(64), pictures(64, seed=1)]


@pytest.fixture(scope="module")
def ternary(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Any]:
    model = convolutional(weights=TERNARY, activations=4, quantizer="twn")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    return model, path, export_onnx(model, path, pictures(64), calibration=CALIBRATION)


def test_a_ternary_network_is_equal_node_by_node(ternary: Any) -> None:
    _, _, written = ternary
    found = written.parity.unfused
    assert found.wrong == 0
    assert found.difference < 1e-5
    assert found.activations > 1000
    assert {plan.holds for plan in written.layers.values()} == {"codes"}


def test_the_exact_form_leaves_biases_in_floating_point(ternary: Any) -> None:
    """Rounded to whole units, as ONNX Runtime does by itself, they would move outputs at low widths."""
    _, _, written = ternary
    assert written.parity.session.difference < 1e-4


def test_ternary_codes_stand_in_the_file_as_they_are(ternary: Any) -> None:
    _, path, written = ternary
    codes = [
        onnx.numpy_helper.to_array(each) for name, each in initializers(path).items() if ".codes" in name and each.dims
    ]
    whole = [each for each in codes if each.dtype == np.int8 and each.ndim == 4]
    assert len(whole) == len(written.layers)
    assert all(set(np.unique(each)) <= {-1, 0, 1} for each in whole)


def test_batch_norms_are_in_the_scales_which_stay_above_zero(ternary: Any) -> None:
    _, path, _ = ternary
    graph = onnx.load(path).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    numbers = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    scales = [numbers[n.input[1]] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in numbers]
    assert all((each > 0).all() for each in scales)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3, 20])
def test_batches_of_any_size_come_near_the_network(ternary: Any, count: int) -> None:
    model, path, _ = ternary
    batch = pictures(count, seed=5)
    with torch.no_grad():
        expected = model(batch).numpy()
    found = outputs(path, batch)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()  # grids were nudged


def test_metadata_and_sidecar_say_the_same(ternary: Any) -> None:
    _, path, written = ternary
    told = read_told(path)
    assert told == json.loads(written.sidecar.read_text())
    assert told is not None
    assert told["format_version"] == 1
    assert (told["style"], told["form"], told["session_options"]) == ("qdq", "exact", {})
    assert told["input"] == {"name": "input", "shape": [None, 3, 8, 8], "dtype": "float32", "mean": [], "std": []}
    assert set(told["layers"]) == set(written.layers)
    assert all(each["weights"] == pytest.approx(TERNARY) for each in told["layers"].values())
    assert told["parity"]["unfused"]["wrong"] == 0


def test_nothing_of_this_machine_is_in_the_file(ternary: Any) -> None:
    data = ternary[1].read_bytes()
    assert b"site-packages" not in data
    assert str(Path.cwd()).encode() not in data
    assert b"forward" not in data


@pytest.mark.slow
def test_the_same_network_gives_the_same_graph(ternary: Any, tmp_path: Path) -> None:
    model, path, _ = ternary
    export_onnx(model, tmp_path / "net.onnx", pictures(64), calibration=CALIBRATION)
    one, other = (onnx.load(each).graph for each in (path, tmp_path / "net.onnx"))
    assert one == other


@pytest.mark.slow
def test_the_network_itself_stays_as_it_was(tmp_path: Path) -> None:
    model = convolutional()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    export_onnx(model, tmp_path / "net.onnx", pictures(), calibration=[pictures()])
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_the_fast_form_is_fused_and_near(tmp_path: Path) -> None:
    model = convolutional(weights=TERNARY, quantizer="twn")
    batches = [pictures(32, seed) for seed in range(3)]
    written = export_onnx(model, tmp_path / "net.onnx", pictures(), form="fast", calibration=batches)
    from bitdial.export.onnx.traps import operators

    kinds = operators(onnx.load(tmp_path / "net.onnx"))
    assert "QLinearConv" in kinds
    assert "FusedConv" not in kinds
    assert set(written.forms) == {"exact", "fast"}
    assert written.forms["fast"][0].difference < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "weights", "quantizer", "opset", "dtype"),
    [
        ("native", TERNARY, "twn", 25, "INT2"),
        ("native", 2, "uniform", 25, "INT2"),
        ("native", 3, "uniform", 21, "INT4"),
        ("native", 4, "lsq", 21, "INT4"),
        ("native", 4, "uniform", 21, "INT4"),
        ("native", 8, "uniform", 18, "INT8"),
        ("qdq", 8, "nested", 18, "INT8"),
        ("qdq", TERNARY, "ttq", 18, "INT8"),
    ],
)
def test_codes_are_held_in_the_narrowest_type(
    style: str, weights: float, quantizer: str, opset: int, dtype: str, tmp_path: Path
) -> None:
    model = convolutional(weights=weights, quantizer=quantizer)
    written = export_onnx(model, tmp_path / "net.onnx", pictures(), style=style, calibration=[pictures()])
    assert written.opset == opset
    held = [each for name, each in initializers(tmp_path / "net.onnx").items() if len(each.dims) == 4]
    kind = getattr(onnx.TensorProto, dtype)
    assert sum(each.data_type == kind for each in held) == len(written.layers)
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal
    assert written.parity.session is not None
    assert written.parity.session.difference < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("weights", [1, TERNARY, 2, 4, 8])
def test_qonnx_says_grids_by_its_own_nodes(weights: float, tmp_path: Path) -> None:
    quantizer = "binary" if weights == 1 else "uniform"
    model = convolutional(weights=weights, quantizer=quantizer)
    written = export_onnx(model, tmp_path / "net.onnx", pictures(), style="qonnx", calibration=[pictures()])
    graph = onnx.load(tmp_path / "net.onnx").graph
    kinds = [node.op_type for node in graph.node if node.domain == "qonnx.custom_op.general"]
    assert len(kinds) == 2 * len(written.layers)
    assert ("BipolarQuant" in kinds) == (weights == 1)
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in graph.node}
    assert written.parity.session is not None
    assert written.parity.session.difference < 0.02


class Mixed(nn.Module):
    """Layers of every kind that is quantized, on one input."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Conv1d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose1d(6, 4, 2, stride=2)
        self.up2 = nn.ConvTranspose2d(1, 4, 3, stride=2, groups=1)
        self.groups = nn.ConvTranspose2d(4, 4, 2, groups=2)
        self.same = nn.Conv2d(4, 4, 2, padding="same")
        self.mirror = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=4)
        self.fc = nn.Linear(33, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(torch.relu(self.flat(x)))
        x = self.groups(self.up2(x.unsqueeze(1)))
        x = self.mirror(self.same(x))
        return self.fc(x[..., :33]).mean((1, 2))


@pytest.mark.slow
def test_layers_of_every_kind(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = bd.quantize(Mixed(), 4, 8, skip=[]).eval()
    x = rows(4, 4, 8)
    written = export_onnx(model, tmp_path / "net.onnx", x, calibration=[x])
    assert len(written.layers) == 7
    assert written.layers["groups"].holds == "float32"
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal
    assert written.parity.unfused.activations > 0


@pytest.mark.slow
@pytest.mark.parametrize("activations", [1, 2, 4, 8, 12, 16, 32])
def test_inputs_at_every_width(activations: float, tmp_path: Path) -> None:
    model = linear(weights=4, activations=activations)
    written = export_onnx(model, tmp_path / "net.onnx", rows(16, 64), calibration=[rows(64, 64)])
    assert written.opset == (21 if activations in (12, 16) else 18)
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal
    assert any("small, not fast" in note for note in written.notes) == (activations == 32)
    assert any("two levels" in note for note in written.notes) == (activations == 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lsq", "pact", "dorefa"])
def test_learned_grids_of_inputs(kind: str, tmp_path: Path) -> None:
    model = convolutional(activations=4, activation_quantizer=kind)
    written = export_onnx(model, tmp_path / "net.onnx", pictures(), calibration=[pictures()])
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal


@pytest.mark.slow
def test_each_call_of_a_layer_has_its_own_grid(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(50 * self.fc(x))

    from bitdial.layers import ranges_per_call

    model = ranges_per_call(bd.quantize(Twice(), 4, 8, skip=[]), {"fc": 2})
    written = export_onnx(model, tmp_path / "net.onnx", rows(8, 64), calibration=[rows(8, 64)])
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert len({node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}) == 2


@pytest.mark.parametrize("form", ["exact", "fast"])
@pytest.mark.slow
def test_a_convolution_that_is_called_twice(form: str, tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

        def forward(self, x: Tensor) -> Tensor:
            for norm in self.norms:
                x = torch.relu(norm(self.conv(x)))
            return self.conv(x).mean((2, 3))

    model = bd.quantize(Twice(), 4, 8, skip=[]).eval()
    written = export_onnx(model, tmp_path / "net.onnx", pictures(), form=form, calibration=[pictures()])
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal


@pytest.mark.slow
def test_batch_norms_of_each_width_are_those_in_force(tmp_path: Path) -> None:
    from bitdial.layers import batch_norm_per_width

    model = batch_norm_per_width(convolutional(), [2, 4])
    for index, norm in enumerate(m for m in model.modules() if type(m).__name__ == "PerWidth"):
        for row in norm.rows:
            nn.init.normal_(row.weight, std=1.0 + index)
    bd.BitDial(model).set(weights=2, activations=8)
    with torch.no_grad():
        model.train()(pictures())
    written = export_onnx(model.eval(), tmp_path / "net.onnx", pictures(), calibration=[pictures()])
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal


@pytest.mark.slow
def test_a_weight_that_another_module_reads_is_explained(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 16)
            self.head = nn.Linear(64, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.linear(x, self.fc.weight) @ self.fc.weight)

    model = bd.quantize(Tied(), 4, 8, skip=[]).eval()
    written = export_onnx(model, tmp_path / "net.onnx", rows(8, 64), calibration=[rows(8, 64)])
    assert written.layers["fc"].holds == "float32"
    assert written.layers["head"].holds == "codes"
    assert any("reads its weight" in note for note in written.notes)
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_windows(masked: bool, tmp_path: Path) -> None:
    """The exporter's own takes one dimension of batches."""

    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24)
            self.register_buffer("mask", torch.ones(5, 5).tril().bool() if masked else None)

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = self.qkv(x).chunk(3, -1)
            return nn.functional.scaled_dot_product_attention(query, key, value, self.mask, scale=0.5).mean((1, 2, 3))

    model = bd.quantize(Windows(), 4, 8, skip=[]).eval()
    batch = rows(4, 3, 2, 5, 8)  # batch, windows, heads, places, channels
    written = export_onnx(model, tmp_path / "net.onnx", batch, calibration=[batch])
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal
    assert not any("batches have" in note for note in written.notes)


@pytest.mark.slow
def test_an_input_of_several_tensors_keeps_its_names(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(64, 8), nn.Linear(32, 8)

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return self.left(x["audio"]) + self.right(x["ground"])

    model = bd.quantize(Two(), 4, 8, skip=[])
    batch = {"audio": rows(4, 64), "ground": rows(4, 32)}
    export_onnx(model, tmp_path / "net.onnx", batch, calibration=[batch])
    told = read_told(tmp_path / "net.onnx")
    assert told is not None
    assert [each["name"] for each in told["inputs"]] == ["audio", "ground"]
    assert told["input"]["name"] == "audio"


@pytest.mark.slow
def test_a_batch_that_cannot_vary_is_told(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + torch.arange(len(x)).view(-1, 1)  # len() is a constant of a graph

    model = bd.quantize(Fixed(), 4, 8, skip=[])
    written = export_onnx(model, tmp_path / "net.onnx", rows(4, 64), calibration=[rows(4, 64)])
    assert any("batches have 4 examples" in note for note in written.notes)
    told = read_told(tmp_path / "net.onnx")
    assert told is not None
    assert told["input"]["shape"] == [4, 64]


def test_the_package_can_be_called_and_is_a_package_still(tmp_path: Path) -> None:
    model = linear(1, weights=4, activations=8)
    written = bd.export(model, tmp_path / "net.onnx", rows(4, 64), calibration=[rows(4, 64)])
    assert isinstance(written, bd.export.OnnxFile)
    packed = bd.export(model, tmp_path / "net.safetensors")
    assert isinstance(bd.export.load_packed(packed, linear(1, weights=4, activations=8)), nn.Module)


def test_a_file_that_would_compute_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitdial.export.onnx import held

    original = held._Rounded.__init__

    def off(self: Any, grid: Any) -> None:
        original(self, grid)
        self.scale *= 1.01

    monkeypatch.setattr(held._Rounded, "__init__", off)
    with pytest.raises(BitdialError, match="Nothing was written"):
        export_onnx(linear(1, weights=4, activations=8), tmp_path / "net.onnx", rows(4, 64), calibration=[rows(64, 64)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("path", "example", "options", "message"),
    [
        (3, None, {}, "must end with .onnx or .safetensors, got int"),
        ("net.pt", None, {}, "must end with"),
        (".", None, {}, "must end with"),
        ("net.onnx", None, {"calibration": None}, "an example is needed"),
        ("net.onnx", "picture.png", {}, "batch of inputs"),
        ("net.onnx", torch.zeros(0, 64), {}, "at least one example"),
        ("net.onnx", torch.tensor(1.0), {}, "at least one example"),
        ("net.onnx", torch.zeros(4, 63), {}, "must take the example"),
        ("net.onnx", torch.full((4, 64), math.nan), {}, "NaN or infinity"),
        ("net.onnx", torch.zeros(4, 64), {"style": "qqd"}, "did you mean 'qdq'"),
        ("net.onnx", torch.zeros(4, 64), {"form": "quick"}, "exact, fast"),
        ("net.onnx", torch.zeros(4, 64), {"style": "native", "form": "fast"}, "style qdq"),
        ("net.onnx", torch.zeros(4, 64), {"calibration": []}, "at least one"),
        ("net.onnx", torch.zeros(4, 64), {"calibration": torch.zeros(4, 64)}, "iterable of batches"),
        ("net.onnx", torch.zeros(4, 64), {"test": 3}, "iterable of batches"),
        ("net.onnx", torch.zeros(4, 64), {"calibration": None}, "calibration batches are needed"),
    ],
)
def test_bad_input_gets_a_sentence(
    path: Any, example: Any, options: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = linear(weights=4, activations=8)
    with pytest.raises(BitdialError, match=message):
        bd.export(model, path, example, **{"calibration": [rows(8, 64)], **options})
    assert not list(tmp_path.iterdir())


def test_what_is_no_network_or_gives_no_tensors(tmp_path: Path) -> None:
    with pytest.raises(BitdialError, match=r"torch\.nn\.Module"):
        export_onnx("net", tmp_path / "net.onnx", rows(4, 64))  # type: ignore[arg-type]

    class Shape(nn.Module):
        def forward(self, x: Tensor) -> int:
            return len(x)

    with pytest.raises(BitdialError, match="must give tensors"):
        export_onnx(Shape(), tmp_path / "net.onnx", rows(4, 64))


@pytest.mark.parametrize("kind", ["token", "quest"])
def test_grids_of_every_input_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    model = linear(weights=4, activations=8, activation_quantizer=kind)
    with pytest.raises(BitdialError, match=f'layer "0" cannot be written: .*{kind}'):
        export_onnx(model, tmp_path / "net.onnx", rows(4, 64), calibration=[rows(4, 64)])


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(BitdialError, match=r"needs onnxscript; install it with pip install 'bitdial\[export\]'"):
        export_onnx(linear(weights=4, activations=8), tmp_path / "n.onnx", rows(4, 64), calibration=[rows(4, 64)])


@pytest.mark.parametrize(("content", "message"), [(b"", None), (b"no model at all" * 20, "no file of ONNX")])
def test_reading_what_a_strange_file_says(content: bytes, message: str | None, tmp_path: Path) -> None:
    path = tmp_path / "strange.onnx"
    path.write_bytes(content)
    if message is None:
        assert read_told(path) is None
    else:
        with pytest.raises(BitdialError, match=message):
            read_told(path)
    with pytest.raises(BitdialError, match="cannot be read"):
        read_told(tmp_path / "missing.onnx")
