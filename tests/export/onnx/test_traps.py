"""Where a default session computes something else: each trap made to fire, and its remedy seen to help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import bitdial as bd
from bitdial.errors import BitdialError
from bitdial.export.onnx import export_onnx
from bitdial.export.onnx.biases import MARK
from bitdial.export.onnx.parity import Agreement
from bitdial.export.onnx.proving import too_far
from bitdial.export.onnx.sessions import WHOLE_NUMBERS_OFF, Session, openvino_session
from bitdial.export.onnx.traps import expected_traps, is_far_off, openvino_trap
from bitdial.export.onnx.weights import LayerPlan
from tests.export.onnx.nets import convolutional, linear, pictures, rows

onnx = pytest.importorskip("onnx")


def names(written: Any) -> list[str]:
    return [trap.name for trap in written.parity.traps]


def off(path: Path, batch: torch.Tensor, options: dict[str, str]) -> float:
    """How far a default session with such options is from the file, as a share of the largest output."""
    model = onnx.load(path)
    right, found = Session(model, fused=False)(batch)[0], Session(model, options)(batch)[0]
    return float(np.abs(right - found).max() / np.abs(right).max())


def test_matmulnbits_is_named_and_its_option_is_exact(tmp_path: Path) -> None:
    x = rows(8, 5, 64)
    written = export_onnx(linear(weights=4, activations=32), tmp_path / "net.onnx", x, calibration=[x])
    assert names(written) == ["matmulnbits"]
    assert written.session_options == {"session.qdq_matmulnbits_accuracy_level": "1"}
    assert off(tmp_path / "net.onnx", x, {}) > 1e-3
    assert off(tmp_path / "net.onnx", x, dict(written.session_options)) < 1e-5
    assert written.parity.default is not None
    assert written.parity.session is not None
    assert written.parity.default.difference > 100 * written.parity.session.difference


def test_saturation_is_named_and_its_option_helps(tmp_path: Path) -> None:
    x = rows(8, 5, 64).abs()
    written = export_onnx(linear(weights=8, activations=8), tmp_path / "net.onnx", x, calibration=[x])
    assert "saturation" in names(written)
    options = {"session.x64quantprecision": "1"}
    assert written.session_options == options
    assert off(tmp_path / "net.onnx", x, options) < 0.01
    flags = Path("/proc/cpuinfo")
    if flags.is_file() and "avx2" in flags.read_text() and "vnni" not in flags.read_text():
        assert off(tmp_path / "net.onnx", x, {}) > 2 * off(tmp_path / "net.onnx", x, options)
    if isinstance(written.parity.openvino, Agreement):
        far = is_far_off(written.parity.openvino.difference, 0.0)
        assert ("openvino saturation" in names(written)) == far
        model = onnx.load(tmp_path / "net.onnx")
        right, found = Session(model, fused=False)(x)[0], openvino_session(model, WHOLE_NUMBERS_OFF)(x)[0]
        assert np.abs(right - found).max() < 1e-5 * np.abs(right).max()


def test_few_bits_cannot_saturate() -> None:
    kinds = {"QLinearConv"}
    for weights, activations, largest, fires in [(8, 8, 127, True), (7, 8, 64, False), (8, 4, 127, False)]:
        plan = LayerPlan(weights, activations, "codes", lowest=-largest, highest=largest)
        assert bool(expected_traps(kinds, {"conv": plan})) == fires
    assert not expected_traps({"Conv"}, {"conv": LayerPlan(8, 8, "codes", lowest=-127, highest=127)})


def test_the_fast_form_names_ties(tmp_path: Path) -> None:
    written = export_onnx(convolutional(), tmp_path / "net.onnx", pictures(), form="fast", calibration=[pictures()])
    assert "ties" in names(written)


@pytest.mark.parametrize(("form", "name"), [("fast", "branches"), ("exact", "unsure")])
def test_too_few_equal_classes_are_named(form: str, name: str) -> None:
    assert [trap.name for trap in too_far(Agreement(1000, 0.98, 0.1), form)] == [name]
    assert not too_far(Agreement(1000, 0.9995, 0.1), form)
    without_classes = [trap.name for trap in too_far(Agreement(1000, None, 0.1), form)]
    assert without_classes == (["branches"] if form == "fast" else [])
    assert not too_far(Agreement(1000, None, 0.01), form)


def test_openvino_that_is_far_off_is_named_with_a_remedy_that_helps() -> None:
    wide = {"conv": LayerPlan(8, 8, "codes", lowest=-127, highest=127)}
    few = {"conv": LayerPlan(2, 8, "codes", lowest=-3, highest=3)}
    assert not is_far_off(0.001, 0.001)
    assert not is_far_off(0.1, 0.09)
    assert is_far_off(0.1, 0.001)
    for plans, name in ((wide, "openvino saturation"), (few, "openvino")):
        helped, not_helped = openvino_trap(plans, 0.1, 0.001, 0.002), openvino_trap(plans, 0.1, 0.001, 0.1)
        refused = openvino_trap(plans, 0.1, 0.001, None)
        assert helped.name == not_helped.name == refused.name == name
        assert "LP_TRANSFORMS_MODE" in helped.remedy
        assert "LP_TRANSFORMS_MODE" not in not_helped.remedy
        assert "LP_TRANSFORMS_MODE" not in refused.remedy


def test_a_file_that_openvino_takes_in_floating_point_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So with timm's levit, whose reshapes OpenVINO 2026.4 cannot rewrite."""

    def refusing(model: Any, properties: Any = None) -> Any:
        if properties != WHOLE_NUMBERS_OFF:
            raise BitdialError("OpenVINO 1 cannot run this file (it is new); ONNX Runtime can")
        return Session(model, fused=False)

    monkeypatch.setattr("bitdial.export.onnx.proving.openvino_session", refusing)
    written = export_onnx(
        linear(1, weights=4, activations=8), tmp_path / "net.onnx", rows(4, 64), calibration=[rows(4, 64)]
    )
    (trap,) = [each for each in written.parity.traps if each.name == "openvino refusal"]
    assert trap.what.startswith("OpenVINO 1 cannot run this file (it is new)")
    assert "LP_TRANSFORMS_MODE" in trap.remedy
    assert isinstance(written.parity.openvino, Agreement)


class ReadTwice(nn.Module):
    """A convolution without a bias that a layer and a sum read, as in a residual network without batch norm."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.first: Any = kind(3, 8, 1, bias=False)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return y + torch.sigmoid(self.second(y))


@pytest.mark.parametrize(
    ("style", "kind"),
    [
        ("qdq", nn.Conv2d),
        pytest.param("qdq", nn.ConvTranspose2d, marks=pytest.mark.slow),
        pytest.param("native", nn.Conv2d, marks=pytest.mark.slow),
    ],
)
def test_a_convolution_without_a_bias_that_is_read_twice(style: str, kind: type[nn.Module], tmp_path: Path) -> None:
    """OpenVINO 2026.4 would apply its scale twice; a bias that changes nothing keeps it from that."""
    torch.manual_seed(0)
    model = bd.quantize(ReadTwice(kind), 4, 8, skip=[]).eval()
    written = export_onnx(model, tmp_path / "net.onnx", pictures(), style=style, calibration=[pictures()])
    assert written.parity.unfused is not None
    assert written.parity.unfused.difference < 1e-6
    numbers = [onnx.numpy_helper.to_array(each) for each in onnx.load(tmp_path / "net.onnx").graph.initializer]
    assert sum(each.size == 8 and bool((each == np.float32(MARK)).all()) for each in numbers) == 1
    if isinstance(written.parity.openvino, Agreement):
        assert written.parity.openvino.difference < 0.01


@pytest.mark.slow
def test_a_convolution_of_a_constant_is_held_by_what_it_gives(tmp_path: Path) -> None:
    """OpenVINO 2026.4 computes it wrongly: an embedding of positions was off by 90%."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(2, 3, 1)
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            places = torch.arange(8.0).view(1, 1, 8, 1).expand(1, 2, 8, 8) / 8
            return self.conv(x + self.embed(places))

    torch.manual_seed(0)
    model = bd.quantize(Positions(), 4, 8, skip=[]).eval()
    written = export_onnx(model, tmp_path / "net.onnx", pictures(), calibration=[pictures()])
    assert [name for name, plan in written.layers.items() if "same for every example" in plan.reason] == ["embed"]
    assert sum(node.op_type == "Conv" for node in onnx.load(tmp_path / "net.onnx").graph.node) == 1
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal
    if isinstance(written.parity.openvino, Agreement):
        assert written.parity.openvino.difference < 0.01


def test_a_runtime_that_is_too_old_is_told() -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "net",
        [onnx.helper.make_tensor_value_info("x", 1, [1])], [onnx.helper.make_tensor_value_info("y", 1, [1])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 999)], ir_version=99)
    with pytest.raises(BitdialError, match=r"ONNX Runtime .* cannot run this model \(operator set 999, format 99\)"):
        Session(model)


def test_an_unquantized_network_has_no_traps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    written = export_onnx(net, tmp_path / "net.onnx", rows(4, 64))
    assert names(written) == []
    assert written.layers == {}
