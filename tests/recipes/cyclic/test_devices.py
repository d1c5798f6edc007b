"""Two processes over gloo: one dial, one schedule, one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitdial import BitDial, quantize
from bitdial.layers import QuantizedLayer
from bitdial.recipes.cyclic import CyclicPrecisionScheduler, Loaders, PhaseSetup, train_with_cpt
from bitdial.training import make_fabric, seed_everything
from tests.recipes.cyclic.tiny import LAYERS, batches, model_config, network, precision, training
from tests.training.running import differences

STEPS = 12


class Turns:
    """Notes the widths that each forward pass in training really ran at."""

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[list[float]] = []
        layers = [m for m in model.modules() if isinstance(m, QuantizedLayer)]
        layers[-1].register_forward_hook(
            lambda module, inputs, output: (
                self.seen.append([float(layer.weight_bits) for layer in layers]) if module.training else None
            )
        )


def in_each_process(fabric: Any, root: str) -> None:
    torch.set_num_threads(1)
    rank = fabric.global_rank
    found = {"trained": trained(fabric), "one_sided": one_sided(fabric)}
    torch.save(found, Path(root) / f"rank{rank}.pt")


def trained(fabric: Any) -> dict[str, Any]:
    """Train with every layer at another offset, smoothly, with quantized gradients."""
    seed_everything(0)
    model = quantize(network(), gradients=8)
    turns = Turns(model)
    seed_everything(0, rank=fabric.global_rank)
    mine = [(x[fabric.global_rank :: 2], y[fabric.global_rank :: 2]) for x, y in batches(0)]
    result = train_with_cpt(
        model,
        Loaders(mine, batches(1), mine),
        training(num_cpt_iterations=STEPS),
        precision(layer_wise_cycling=True, layer_cycle_offset=1, smooth_transitions=True, transition_steps=1,
                  gradient_bits=8),
        model_config(),
        setup=PhaseSetup(fabric=fabric),
    )  # fmt: skip
    return {
        "widths": turns.seen,
        "parameters": {name: p.detach() for name, p in model.named_parameters()},
        "loss": result.history.loss,
        "bitops": result.bitops,
        "dial": BitDial(model).weights,
    }


def one_sided(fabric: Any) -> dict[str, list[float]]:
    """Turn the dial in the first process only; look after the next forward pass."""
    seed_everything(0)
    model = quantize(network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    dial = BitDial(model)
    x, y = batches(0)[0]
    if fabric.global_rank == 0:
        dial.set([3, 5, 7.5])
    before = dial.weights
    fabric.backward(nn.functional.cross_entropy(wrapped(x), y))
    wrapped_optimizer.step()
    return {"before": before, "after": dial.weights, "activations": dial.activations}


def test_two_processes(tmp_path: Path) -> None:
    make_fabric(devices=2, strategy="ddp_spawn", accelerator="cpu").launch(in_each_process, str(tmp_path))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))

    one, other = first["trained"], second["trained"]
    scheduler = CyclicPrecisionScheduler(quantize(network()), precision(layer_wise_cycling=True, layer_cycle_offset=1))
    expected = []
    for _ in range(STEPS):
        expected.append(scheduler.bits)
        scheduler.step()
    assert one["widths"] == other["widths"] == expected  # every layer, every step, on both
    assert one["dial"] == other["dial"] == scheduler.bits
    assert differences(one["parameters"], other["parameters"]) == []
    assert one["loss"] == other["loss"]
    assert one["bitops"] == other["bitops"]

    assert first["one_sided"]["before"] == [3, 5, 7.5]
    assert second["one_sided"]["before"] == [8] * LAYERS
    assert first["one_sided"]["after"] == first["one_sided"]["activations"] == [3, 5, 7.5]
    assert second["one_sided"]["after"] == [8] * LAYERS  # every process turns its own dial: widths are no buffers
