"""What the accuracy benchmarks on Fashion-MNIST share: the images, and float networks that they all start from.

A float ResNet-20 of a seed is trained once (SGD with momentum .9, learning rate .1 along a cosine, weight decay 5e-4,
batch 128, no augmentation) and kept in a folder; whoever asks for it again gets the file. Joint training starts there.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bitdial
from bitdial.data import ImageDataset, load_dataset
from bitdial.models import build_model
from bitdial.training import seed_everything

BATCH = 128
EPOCHS = 3


def images() -> ImageDataset:
    """Fashion-MNIST, from the package `dataset-fashion-mnist` or a download."""
    return load_dataset("fashion-mnist")


def resnet20(data: ImageDataset) -> nn.Module:
    """The network, with new weights."""
    return build_model(
        "resnet20", num_classes=data.num_classes, in_channels=data.in_channels, image_size=data.image_size
    )


def normalised(data: ImageDataset, part: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Images ``[N, 1, 28, 28]`` and labels of "train" or "test", as the network takes them; the first `limit` only."""
    split = getattr(data, part)
    picked = slice(None, limit)
    mean, std = (torch.tensor(value).view(1, -1, 1, 1) for value in (data.mean, data.std))
    x = split.images[picked].float()
    x = x / 255 if split.images.dtype == torch.uint8 else x
    return (x - mean) / std, split.labels[picked].long()


def batches(x: Tensor, y: Tensor, steps: int, seed: int, batch: int = BATCH) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches, every example once an epoch in an order that the seed gives."""
    draw = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(x), generator=draw).tolist()
        picked, order = order[:batch], order[batch:]
        yield x[picked], y[picked]


def cosine(step: int, steps: int, warmup: int = 20) -> float:
    """Factor on the learning rate: up to 1 over the first steps, then down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        right = sum(int((model(x[i : i + 250]).argmax(1) == y[i : i + 250]).sum()) for i in range(0, len(x), 250))
    model.train()
    return right / len(x)


def float_network(seed: int, folder: Path, epochs: int = EPOCHS) -> nn.Module:
    """The float ResNet-20 of a seed, channels last in memory; trained now as far as it is not in the folder."""
    data, path = images(), folder / f"float-resnet20-{epochs}-seed{seed}.pt"
    seed_everything(seed)
    model = resnet20(data).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    folder.mkdir(parents=True, exist_ok=True)
    x, y = normalised(data, "train")
    steps = epochs * (len(x) // BATCH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    half_way = path.with_suffix(".half")
    done = 0
    if half_way.exists():
        state = torch.load(half_way, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    began = time.perf_counter()
    for step, (bx, by) in enumerate(batches(x, y, steps, seed)):
        if step < done:
            continue
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * cosine(step, steps)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(bx), by).backward()
        optimizer.step()
        if step % 200 == 199:
            print(f"float, seed {seed}: step {step + 1} of {steps}, {time.perf_counter() - began:.0f} s", flush=True)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            _write(state, half_way)
    _write(model.state_dict(), path)
    half_way.unlink(missing_ok=True)
    return model


def joint_network(
    name: str, seed: int, folder: Path, *, epochs: int, test: tuple[Tensor, Tensor], **how: Any
) -> nn.Module:
    """What ``bitdial train joint`` makes of the float network of a seed; a run that is in the folder goes on.

    Args:
        name: of the run.
        seed, folder, epochs: as in `float_network`.
        test: images and labels that the run measures at its end.
        how: options of the recipe.
    """
    start, run = float_network(seed, folder, epochs), folder / f"{name}-seed{seed}"
    begun = (run / "config.yaml").exists()
    where: dict[str, Any] = {"resume": run} if begun else {"run_dir": run}
    data = [normalised(images(), "train"), test]
    bitdial.run("joint", model=start, data=data, seed=seed, sensitivity=False, **where, **how)
    return bitdial.load(run, model=deepcopy(start))


def _write(state: object, path: Path) -> None:
    """Save whole or not at all."""
    torch.save(state, f"{path}.part")
    os.replace(f"{path}.part", path)
