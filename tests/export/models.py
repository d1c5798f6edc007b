"""Models for the tests of packed files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bitdial.layers import QuantizedLayer, quantize

TERNARY = ["twn", "absmean", "ttq", "ternary_lsq"]


class Net(nn.Module):
    """Floating point around two layers whose sizes divide by neither 4 nor 5; a buffer besides."""

    def __init__(self, width: int = 7, stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, 6, 3, stride=stride, padding=1, bias=False)
        self.fc1 = nn.Linear(6, 11)
        self.head = nn.Linear(11, 3)
        self.register_buffer("temperature", torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.head(torch.relu(self.fc1(x))) / self.temperature


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(seed))


def build(quantizer: str = "twn", seed: int = 0, trained: bool = True, **options: Any) -> nn.Module:
    """Return a quantized net in evaluation; a trained one has seen batches, and has scales off their start."""
    torch.manual_seed(seed)
    model = quantize(Net(), quantizer=quantizer, **{"weights": 4, "activations": 8, **options})
    if trained:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in range(3):
            optimizer.zero_grad()
            model(images(batch)).square().mean().backward()
            optimizer.step()
    return model.eval()


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the quantized weights by layer."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLayer)}
    return {name: layer.quantized_weight().detach() for name, layer in layers.items()}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_state(model: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether the state is what it was, bit for bit."""
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in now)
