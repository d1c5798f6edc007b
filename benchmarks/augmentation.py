"""What a training step waits for its data: bitdial's batches on the device against a DataLoader, in one run.

Run with ``python -m benchmarks.augmentation [--only data|step] [--device cuda] [--rounds N]``; each part takes about a
minute on two cores. Images are random bytes of the size of Fashion-MNIST (1x28x28) and CIFAR (3x32x32), in batches of
128. Within a round all ways of a case take turns in random order; reported are medians over the rounds, and medians and
quartiles of the ratio to bitdial within the same round. Start of worker processes and first batches are not counted.

Pipelines: crop + flip + normalise; the same with CutMix (probability .5); the same with RandAugment.

Ways:
    bitdial: images live on the device as uint8, `make_loader` and `build_augmentation` work on whole batches.
    bitdial, policy image by image: RandAugment without grouping, as ``TorchvisionTransform(..., each=True)``.
    DataLoader, N workers, PIL: torchvision's v2 transforms for each sample on PIL images, as torchvision's datasets
        give them; CutMix in the collate function.
    DataLoader, N workers, tensors: the same transforms on uint8 tensors.

The part `step` trains resnet20 (forward, backward, SGD) on what each way delivers, with the quicker of PIL and tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from benchmarks.machine import describe
from bitdial.data import (
    Augmentation,
    AutomaticPolicy,
    Split,
    TorchvisionTransform,
    build_augmentation,
    dataset_from_tensors,
    make_loader,
)
from bitdial.models import build_model
from bitdial.training.tasks import Classification

RESULTS = Path(__file__).parent / "results"
BATCH, CLASSES, IMAGES = 128, 10, 10_000
SIZES = {"Fashion-MNIST size": (1, 28), "CIFAR size": (3, 32)}
PIPELINES: dict[str, dict[str, bool]] = {
    "crop+flip+normalise": {},
    "+cutmix": {"cutmix": True},
    "+randaugment": {"randaugment": True},
}
OURS = "bitdial"
Batches = Iterator[tuple[Tensor, Tensor]]
Way = Callable[[], Batches]


class Samples(Dataset[tuple[Tensor, int]]):
    """One transformed image at a time, made from PIL images or from tensors."""

    def __init__(self, split: Split, transform: Callable[[Any], Tensor], *, pil: bool) -> None:
        self.images: Any = split.images.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy() if pil else split.images
        self.labels, self.transform, self.pil = split.labels.tolist(), transform, pil

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return self.transform(Image.fromarray(image) if self.pil else image), self.labels[index]


def make_split(channels: int, side: int) -> Split:
    """Return random images with labels; not noise alone: equal pixels side by side, as in photographs."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, channels, side // 4, side // 4), generator=generator, dtype=torch.uint8)
    images = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    labels = torch.arange(IMAGES) % CLASSES
    split = dataset_from_tensors("random", (images, labels), (images[:8], labels[:8]), flip=True).train
    assert isinstance(split, Split)
    return split


def bitdial_batches(split: Split, augment: Augmentation, device: str) -> Batches:
    """Yield epoch after epoch of bitdial's loader."""
    loader, epoch = make_loader(split.to(device), BATCH, train=True, augment=augment), 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1


def torch_batches(split: Split, flags: dict[str, bool], workers: int, device: str, *, pil: bool) -> Batches:
    """Yield epoch after epoch of a DataLoader with torchvision's transforms for each sample."""
    side = split.image_size
    steps: list[Any] = [v2.RandomCrop(side, padding=round(side / 8)), v2.RandomHorizontalFlip()]
    steps += [v2.RandAugment()] if flags.get("randaugment") else []
    steps += [v2.ToImage()] if pil else []
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(split.mean, split.std)]
    cutmix = v2.RandomApply([v2.CutMix(num_classes=CLASSES)], p=0.5)

    def collate(samples: list[tuple[Tensor, int]]) -> Any:
        return cutmix(*default_collate(samples))

    loader = DataLoader(
        Samples(split, v2.Compose(steps), pil=pil),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        collate_fn=collate if flags.get("cutmix") else None,
        persistent_workers=workers > 0,
        pin_memory=device != "cpu",
    )
    while True:
        for images, labels in loader:
            yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def ways_of(
    split: Split, flags: dict[str, bool], device: str, kinds: tuple[str, ...] = ("PIL", "tensors"),
    workers: tuple[int, ...] = (0, 2),
) -> dict[str, Way]:  # fmt: skip
    """Return what is compared; `kinds`: what the DataLoader's transforms work on; `workers`: how many it may have."""
    augment = build_augmentation(split, **flags)
    ways: dict[str, Way] = {OURS: lambda: bitdial_batches(split, augment, device)}
    if flags.get("randaugment") and len(kinds) > 1:
        single = tuple(
            TorchvisionTransform(each.policy, each=True) if isinstance(each, AutomaticPolicy) else each
            for each in augment.pixels
        )
        ways[f"{OURS}, policy image by image"] = lambda: bitdial_batches(split, Augmentation(single), device)
    for count in workers:
        for kind in kinds:
            ways[f"DataLoader, {count} workers, {kind}"] = partial(
                torch_batches, split, flags, count, device, pil=kind == "PIL"
            )
    return ways


def seconds_per_step(way: Way, consume: Callable[[tuple[Tensor, Tensor]], object], warm: int, steps: int) -> float:
    """Return the mean seconds of a step that takes a batch from `way` and consumes it."""
    batches = way()
    for _ in range(warm):  # more than workers fetch ahead, so that what is timed was also made in that time
        consume(next(batches))
    _synchronise()
    start = time.perf_counter()
    for _ in range(steps):
        consume(next(batches))
    _synchronise()
    seconds = (time.perf_counter() - start) / steps
    del batches  # ends its workers before the next way begins
    return seconds


def _probe(way: Way) -> float:
    return seconds_per_step(way, lambda _: None, 1, 2)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def trainer(split: Split, device: str) -> Callable[[tuple[Tensor, Tensor]], object]:
    """Return one training step of resnet20."""
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=CLASSES, in_channels=split.in_channels, image_size=split.image_size)
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    task = Classification()

    def step(batch: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        task.loss(model, batch).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure(part: str, device: str, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Return a row for every size, pipeline and way."""
    times: dict[tuple[str, str, str], list[float]] = {}
    splits = {size: make_split(*shape) for size, shape in SIZES.items()}
    cases: dict[tuple[str, str], tuple[dict[str, Way], Callable[[Any], object], int]] = {}
    for size, split in splits.items():
        step = trainer(split, device)
        for pipeline, flags in PIPELINES.items():
            if part == "data":
                cases[size, pipeline] = ways_of(split, flags, device), lambda _: None, 5
                continue
            both = ways_of(split, flags, device)
            quicker = min(("PIL", "tensors"), key=lambda kind: _probe(both[f"DataLoader, 0 workers, {kind}"]))
            cases[size, pipeline] = ways_of(split, flags, device, (quicker,)), step, 2
    shuffle = random.Random(0)
    for _ in range(rounds):
        for (size, pipeline), (ways, consume, warm) in cases.items():
            for name in shuffle.sample(list(ways), len(ways)):
                seconds = seconds_per_step(ways[name], consume, warm, steps)
                times.setdefault((size, pipeline, name), []).append(seconds)
    return [
        {
            "size": size,
            "pipeline": pipeline,
            "way": name,
            "milliseconds": _quartiles([1000 * value for value in seconds]),
            "to_bitdial": _quartiles([a / b for a, b in zip(seconds, times[size, pipeline, OURS], strict=True)]),
        }
        for (size, pipeline, name), seconds in times.items()
    ]


def _quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    titles = {
        "data": "Data side of a training step, batch of 128",
        "step": "Whole training step of resnet20, batch of 128",
    }
    lines: list[str] = []
    for part in (name for name in titles if name in results):
        found = results[part]
        lines += [f"## {titles[part]}", "", "| size | pipeline | way | ms (median) | times bitdial's | quartiles |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in sorted(found["rows"], key=place):
            ratio = row["to_bitdial"]
            lines.append(
                f"| {row['size']} | {row['pipeline']} | {row['way']} | {row['milliseconds']['median']:.2f} "
                f"| {ratio['median']:.2f} | {ratio['low']:.2f}-{ratio['high']:.2f} |"
            )
        facts = ", ".join(f"{key} {value}" for key, value in found["machine"].items())
        lines += ["", f"{found['rounds']} rounds of {found['steps']} steps on {found['device']}. Machine: {facts}. "
                  f"Load average before the run: {found['load_before']}.", ""]  # fmt: skip
    return "\n".join(lines)


def place(row: dict[str, Any]) -> tuple[int, int, bool, str]:
    """Return where a row stands: sizes and pipelines in their order, bitdial first."""
    size, pipeline = list(SIZES).index(row["size"]), list(PIPELINES).index(row["pipeline"])
    return size, pipeline, not row["way"].startswith(OURS), row["way"]


def main() -> None:
    """Measure, print the table and write ``results/augmentation.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["data", "step"], help="measure one part and keep the other's last figures")
    parser.add_argument("--device", default="cpu", help="where the images live and the model trains")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a way in a round")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    file = options.results / "augmentation.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"benchmark": "augmentation"}
    for part in [options.only] if options.only else ["data", "step"]:
        load = round(os.getloadavg()[0], 2)
        rows = measure(part, options.device, options.rounds, options.steps)
        results[part] = {
            "machine": describe(packages=("torchvision", "pillow", "numpy")),
            "device": options.device,
            "load_before": load,
            "rounds": options.rounds,
            "steps": options.steps,
            "rows": rows,
        }
    options.results.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=2) + "\n")
    file.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
