"""Each test here runs on the GPU, where there is one, and on the CPU, so that it cannot rot where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from bitdial.training.mixed_precision.benchmark import _tf32 as tf32


class Device(str):
    """A device's name, "cpu" or "cuda"."""

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Let layers compute as they do on this device.

        On the CPU that is the way that they take on other devices: no native kernels, nothing read on the host.
        """
        with pytest.MonkeyPatch.context() as patch:
            if self == "cpu":
                for name, module in list(sys.modules.items()):  # whichever has imported it by its name
                    if name.startswith("bitdial.") and hasattr(module, "may_read"):
                        patch.setattr(module, "may_read", lambda x: False)
            yield


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The device; its float32 products and convolutions are exact and repeatable while the test runs."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    with tf32(False):
        yield Device(request.param)
    torch.backends.cudnn.deterministic = before
    if request.param == "cuda":
        torch.cuda.empty_cache()
