"""Which quantizer wins at 1, 1.58, 2, 3 and 4 bits: ResNet-20 on Fashion-MNIST, and a small transformer on source text.

Run with ``python -m benchmarks.quantizers [--seeds 3] [--steps 120] [--folder FOLDER] [--only images|text]``. What is
finished is kept in the folder, so a run that was stopped goes on when it is started again.

Images: weights and activations at the width, each quantizer with its own grids for both (ParetoQ's, which has none for
activations, with LSQ's); every network begins with the same float network of its seed and is trained `steps` steps of
64 images at a learning rate of .02 along a cosine; first convolution and classifier in float; batch-norm statistics
are re-estimated before it is scored on the first 5,000 test images. Text: weights alone, as ParetoQ; a transformer of 3
layers on the standard library's source, next-byte loss on files that were held out, trained from a float one likewise.

The learning rate is one for all (.02; .001 for AdamW on text) and was not tuned for any of them. Intervals are 95%
Student t intervals over the seeds; differences are paired with `uniform` of the same seed.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.fashion import accuracy, batches, cosine, float_network, images, normalised
from benchmarks.machine import describe
from bitdial.evaluation import interval, paired_difference
from bitdial.files import write_atomically
from bitdial.layers import quantize, reestimate_batch_norm
from bitdial.training import seed_everything

RESULTS = Path(__file__).parent / "results"
WIDTHS = (1.0, 1.585, 2.0, 3.0, 4.0)
IMAGES: dict[str, dict[str, Any]] = {
    "uniform": {},
    "dorefa": {"quantizer": "dorefa"},
    "pact": {"quantizer": "pact"},
    "lsq": {"quantizer": "lsq"},
    "seq, lsq": {"weight_quantizer": "seq", "activation_quantizer": "lsq"},
    "quest": {"quantizer": "quest"},
    "nested": {"nested": True},
}
TEXT: dict[str, dict[str, Any]] = {
    "uniform": {},
    "dorefa": {"weight_quantizer": "dorefa"},
    "lsq": {"weight_quantizer": "lsq", "granularity": "channel"},
    "seq": {"weight_quantizer": "seq"},
    "quest": {"weight_quantizer": "quest"},
    "quest_hadamard": {"weight_quantizer": "quest_hadamard"},
}
CONTEXT, WIDTH, LAYERS, HEADS = 64, 128, 3, 4


class Block(nn.Module):
    """Attention and a feed-forward part, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(batch, length, WIDTH)``."""
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(functional.gelu(self.up(self.norms[1](x))))


class Transformer(nn.Module):
    """Next byte of text."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256)

    def forward(self, x: Tensor) -> Tensor:
        """Bytes ``(batch, length)`` -> logits ``(batch, length, 256)``."""
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.tokens(x) + self.places(places))))  # type: ignore[no-any-return]


@cache
def text() -> tuple[Tensor, Tensor]:
    """Bytes of the standard library's modules to train on, and of every tenth one to measure on."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts = [b"".join(f.read_bytes() for i, f in enumerate(files) if (i % 10 == 0) == held) for held in (False, True)]
    train, test = (torch.frombuffer(bytearray(part), dtype=torch.uint8).long() for part in parts)
    return train, test


def windows(data: Tensor, count: int, seed: int) -> Tensor:
    """So many pieces of text, one byte longer than the context."""
    starts = torch.randint(len(data) - CONTEXT - 1, (count,), generator=torch.Generator().manual_seed(seed))
    return data[starts[:, None] + torch.arange(CONTEXT + 1)]


def next_byte_loss(model: nn.Module, pieces: Tensor) -> Tensor:
    """Mean negative log-likelihood, nats a byte."""
    return functional.cross_entropy(model(pieces[:, :-1]).flatten(0, 1), pieces[:, 1:].flatten())


def train_text(model: nn.Module, steps: int, rate: float, seed: int) -> None:
    """AdamW along a cosine, 32 pieces of text a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    pieces = windows(text()[0], 32 * steps, seed).view(steps, 32, -1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine(step, steps)
        optimizer.zero_grad()
        next_byte_loss(model, pieces[step]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def float_transformer(seed: int, folder: Path) -> nn.Module:
    """The float transformer of a seed, trained for 1,500 steps if it is not in the folder."""
    seed_everything(seed)
    model, path = Transformer(), folder / f"float-transformer-seed{seed}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        train_text(model, 1500, 2e-3, seed)
        torch.save(model.state_dict(), path)
    return model


@torch.no_grad()
def text_loss(model: nn.Module) -> float:
    """Of 1,000 held-out pieces of text, the same for all."""
    pieces = windows(text()[1], 1000, 99)
    return sum(float(next_byte_loss(model, part)) * len(part) for part in pieces.split(125)) / len(pieces)


def on_text(how: dict[str, Any], width: float, seed: int, steps: int, folder: Path) -> float:
    """Loss of one transformer."""
    model = quantize(float_transformer(seed, folder), width, 32, skip=("head",), **how)
    seed_everything(seed)
    train_text(model, steps, 1e-3, 1000 + seed)
    return text_loss(model)


def on_images(how: dict[str, Any], width: float, seed: int, steps: int, folder: Path) -> float:
    """Accuracy of one ResNet-20."""
    model = quantize(float_network(seed, folder), width, width, **how)
    seed_everything(seed)
    x, y = normalised(images(), "train")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    for step, (bx, by) in enumerate(batches(x, y, steps, 1000 + seed, batch=64)):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * cosine(step, steps)
        optimizer.zero_grad()
        functional.cross_entropy(model(bx), by).backward()
        optimizer.step()
    reestimate_batch_norm(model, [x[i : i + 250] for i in range(0, 2000, 250)])
    return accuracy(model, *normalised(images(), "test", 5000))


def table(title: str, found: dict[str, float], names: list[str], seeds: int, percent: bool) -> list[str]:
    """Means with intervals by quantizer and width, the best of each width in bold, and differences from uniform."""
    factor, places = (100, 1) if percent else (1, 3)

    def values(name: str, width: float) -> list[float] | None:
        got = [found.get(f"{name}|{width:g}|{seed}") for seed in range(seeds)]
        return None if None in got else [factor * value for value in got if value is not None]

    lines = [f"## {title}", "", "| quantizer | " + " | ".join(f"{w:g} bits" for w in WIDTHS) + " |"]
    lines.append("|---|" + "---|" * len(WIDTHS))
    best: dict[float, str] = {}
    for width in WIDTHS:
        means = {name: sum(got) for name in names if (got := values(name, width)) is not None}
        if means:
            best[width] = (max if percent else min)(means, key=lambda name: means[name])
    for name in names:
        cells = []
        for width in WIDTHS:
            got, plain = values(name, width), values("uniform", width)
            if got is None or plain is None:
                cells.append("")
                continue
            cell = f"{interval(got).mean:.{places}f}"
            cell = f"**{cell}**" if best.get(width) == name else cell
            if name != "uniform":
                difference = paired_difference(got, plain)
                half = "" if difference.half is None else f" ± {difference.half:.{places}f}"
                cell += f" ({difference.mean:+.{places}f}{half})"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def run(part: str, names: dict[str, Any], seeds: int, steps: int, folder: Path) -> dict[str, float]:
    """Everything of one table that is not in the folder yet, and what is."""
    path = folder / f"quantizers-{part}-{steps}.json"
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    measure: Callable[..., float] = on_text if part == "text" else on_images
    for seed in range(seeds):
        for width in WIDTHS:
            for name, how in names.items():
                key = f"{name}|{width:g}|{seed}"
                if key not in found:
                    found[key] = measure(deepcopy(how), width, seed, steps, folder)
                    write_atomically(path, json.dumps(found, indent=1))
                    print(f"{part}: {key} {found[key]:.4f}", flush=True)
    return found


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--only", choices=("images", "text"))
    parser.add_argument("--results", type=Path, default=RESULTS / "quantizers.md")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for part, names, title in (
        ("images", IMAGES, "Fashion-MNIST, ResNet-20, weights and activations: test accuracy, %"),
        ("text", TEXT, "Source text, a transformer of 3 layers, weights alone: held-out loss, nats a byte"),
    ):
        if options.only in (None, part):
            found = run(part, names, options.seeds, options.steps, options.folder)
            lines += table(title, found, list(names), options.seeds, part == "images")
    lines += [
        f"{options.seeds} seeds; {options.steps} steps from a float network of the same seed. In brackets the paired "
        "difference from `uniform` with its 95% interval.",
        f"Machine: {', '.join(f'{key} {value}' for key, value in describe().items())}.",
    ]
    print("\n".join(lines))
    if options.only is None:
        write_atomically(options.results, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
