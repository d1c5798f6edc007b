"""Where a default session computes something else: each trap made to fire, and its remedy seen to help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bitdial.export.onnx import export_onnx
from bitdial.export.onnx.held import LayerPlan
from bitdial.export.onnx.parity import Agreement
from bitdial.export.onnx.sessions import Session
from bitdial.export.onnx.traps import expected_traps, openvino_traps
from bitdial.export.onnx.writing import _too_far
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
    assert [trap.name for trap in _too_far(Agreement(1000, 0.98, 0.1), form)] == [name]
    assert not _too_far(Agreement(1000, 0.9995, 0.1), form)
    assert not _too_far(Agreement(1000, None, 0.1), form)


def test_openvino_that_is_far_off_is_named() -> None:
    plans = {"conv": LayerPlan(8, 8, "codes", lowest=-127, highest=127)}
    assert [trap.name for trap in openvino_traps(plans, 0.1, 0.001)] == ["openvino saturation"]
    assert not openvino_traps(plans, 0.001, 0.001)
    few = {"conv": LayerPlan(2, 8, "codes", lowest=-3, highest=3)}
    assert [trap.name for trap in openvino_traps(few, 0.1, 0.001)] == ["openvino"]
    assert not openvino_traps(few, 0.1, 0.09)


def test_a_runtime_that_is_too_old_is_told() -> None:
    from bitdial.errors import BitdialError

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
