"""Networks of torchvision and timm as they come: each is exported and equal node by node, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.export.onnx import export_onnx
from bitdial.layers import quantize
from tests.export.onnx import nets
from tests.layers.test_public_models import NETWORKS, fresh

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # theirs

assert nets  # skips where the extra export is not installed

REFUSED = dict.fromkeys(("timm twins", "timm hiera", "timm nest"), "only 4D query, key, and value are supported")
"""Name -> what the reason says."""


@pytest.mark.parametrize("name", NETWORKS)
def test_a_public_network_is_exported_or_refused(name: str, tmp_path: Path) -> None:
    size = NETWORKS[name][1]
    model = quantize(fresh(name), 4, 8).eval()
    x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    if name in REFUSED:
        with pytest.raises(BitdialError, match=REFUSED[name]):
            export_onnx(model, tmp_path / "net.onnx", x, calibration=[x])
        return
    written = export_onnx(model, tmp_path / "net.onnx", x, calibration=[x])
    assert written.parity.unfused is not None
    assert written.parity.unfused.is_equal
    assert not any("batches have" in note for note in written.notes)
