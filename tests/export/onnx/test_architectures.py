"""Networks of torchvision and timm as they come: each is exported and equal node by node.

With ``-rP`` each prints its row of the table in docs/onnx.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitdial.export.onnx import OnnxFile, export_onnx
from bitdial.export.onnx.parity import Agreement
from bitdial.layers import quantize
from tests.export.onnx import nets
from tests.layers.test_public_models import NETWORKS, fresh

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs

assert nets  # skips where the extra export is not installed


@pytest.mark.parametrize("name", NETWORKS)
def test_a_public_network_is_exported(name: str, tmp_path: Path) -> None:
    size = NETWORKS[name][1]
    model = quantize(fresh(name), 4, 8).eval()
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    written = export_onnx(model, tmp_path / "net.onnx", x, calibration=[x])
    print(row(name, written))
    parity = written.parity
    assert parity.unfused is not None
    assert parity.unfused.is_equal
    assert not any("batches have" in note for note in written.notes)
    if isinstance(parity.openvino, Agreement):
        off = parity.openvino.difference
        assert ("openvino" in [trap.name for trap in parity.traps]) == (off > max(0.03, 3 * parity.session.difference))


def row(name: str, written: OnnxFile) -> str:
    """A line of the table: size, difference node by node, ties, and how far sessions are off."""
    parity, forms = written.parity, written.forms
    assert parity.unfused is not None
    smaller = written.float32_bytes / written.bytes
    sessions = [percent(forms[form][0].difference) if form in forms else "-" for form in ("exact", "fast")]
    other = parity.openvino
    other_text = percent(other.difference) if isinstance(other, Agreement) else "refused" if other else "-"
    cells = [name, f"{smaller:.1f}x", f"{parity.unfused.difference:.0e}"]
    cells += [f"{parity.unfused.ties} of {parity.unfused.activations:,}", *sessions, other_text]
    return f"| {' | '.join(cells)} |"


def percent(share: float) -> str:
    """A difference as the table has it; what float rounding makes is 0."""
    return f"{100 * share:.2g}%" if share >= 1e-5 else "0"
