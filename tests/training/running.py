"""A small but complete run, for the tests: dropout, batch norm, momentum, warm-up, accumulation, averages, hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bitdial.errors import RunInterrupted
from bitdial.training import (
    Classification,
    EarlyStopping,
    Hook,
    LearningRateConfig,
    LoopConfig,
    MetricsLog,
    MixedPrecisionConfig,
    OptimizerConfig,
    StepResult,
    TrainingState,
    build_optimizer,
    fit,
    learning_rate_factor,
    make_fabric,
    seed_everything,
)

EXAMPLES, BATCH, CLASSES = 52, 8, 4  # 7 batches an epoch, the last one of 4


def task_data() -> tuple[Tensor, Tensor]:
    """Return a learnable toy problem: inputs ``[52, 12]`` and labels ``[52]``."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(EXAMPLES, 12, generator=generator)
    return inputs, (inputs @ torch.randn(12, CLASSES, generator=generator)).argmax(dim=1)


def network() -> nn.Module:
    """Return a network with everything that makes resuming hard: dropout and running statistics."""
    return nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, CLASSES))


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """The data with random augmentation drawn from the process's generator."""

    def __init__(self) -> None:
        self.inputs, self.labels = task_data()

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index] + 0.1 * torch.randn(12), self.labels[index]


class Jumping:
    """A loader that can jump: batches are a pure function of (epoch, batch), as bitdial's own loaders are."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.inputs, self.labels = task_data()
        self.rank, self.world_size = rank, world_size
        self.current, self.first = 0, 0
        self.served: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return -(-EXAMPLES // BATCH) // self.world_size

    def set_epoch(self, epoch: int) -> None:
        self.current = epoch

    def start_at(self, batch: int) -> None:
        self.first = batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self.first = self.first, 0
        order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(self.current))
        for batch in range(first, len(self)):
            self.served.append((self.current, batch))
            chosen = order[(batch * self.world_size + self.rank) * BATCH :][:BATCH]
            yield self.inputs[chosen], self.labels[chosen]


class Unsized:
    """An iterable without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = task_data()
        yield from zip(inputs.split(BATCH), labels.split(BATCH), strict=True)


def make_loader(kind: str, rank: int = 0, world_size: int = 1) -> Any:
    """Return a fresh loader of a kind: jumping, shuffled, generator, or unsized."""
    if kind == "jumping":
        return Jumping(rank, world_size)
    if kind == "shuffled":
        return DataLoader(Noisy(), batch_size=BATCH, shuffle=True)
    if kind == "generator":
        return DataLoader(Noisy(), batch_size=BATCH, shuffle=True, generator=torch.Generator().manual_seed(5))
    return Unsized()


class StopAfter(Hook):
    """Ask for a stop after some step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        if state.step == self.step:
            state.stop_requested = "a test"


class CyclingBits(Hook):
    """What a precision schedule does to a run: its own counter, a factor on the learning rate, a value to log."""

    def __init__(self) -> None:
        self.count = 0

    def before_step(self, state: TrainingState) -> None:
        bits = (8, 4, 2)[self.count % 3]
        state.lr_scale = {8: 1.0, 4: 0.75, 2: 0.5}[bits]
        state.values["bits"] = float(bits)
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = int(state["count"])


class FileSaver:
    """The plainest checkpoint saver."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metric_values: list[float] = []
        self.paths: list[Path] = []

    def save_checkpoint(
        self,
        epoch: int,
        model_state: dict[str, Any],
        optimizer_state: dict[str, Any],
        metric_value: float,
        is_best: bool | None = None,
        **extra: Any,
    ) -> Path:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{len(list(self.folder.iterdir())):04d}-step{extra['step']}.pt"
        whole = {"epoch": epoch, "model_state_dict": model_state, "optimizer_state_dict": optimizer_state, **extra}
        torch.save(whole, path)
        self.metric_values.append(metric_value)
        self.paths.append(path)
        return path


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint the way a user's would be."""
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def config(**changes: Any) -> LoopConfig:
    """Return the settings of the run: 3 epochs of 4 steps."""
    settings: dict[str, Any] = {
        "epochs": 3,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 1.0,
        "log_interval": 3,
        "ema_decay": 0.9,
        "checkpoint_epochs": None,
        "checkpoint_best": False,
    }
    return LoopConfig(**{**settings, **changes})


def train(
    folder: Path,
    *,
    loader: Any = "jumping",
    stop: int | None = None,
    resume: Mapping[str, Any] | None = None,
    optimizer: str = "sgd",
    fabric: Any = None,
    precision: MixedPrecisionConfig | None = None,
    settings: LoopConfig | None = None,
    seed: int = 0,
) -> tuple[TrainingState | None, FileSaver]:
    """Run in `folder`; return the final state (None when it was stopped) and what saved its checkpoints."""
    settings = settings if settings is not None else config()
    fabric = fabric if fabric is not None else make_fabric(accelerator="cpu")
    seed_everything(seed)
    model = network()
    rate = 0.1 if optimizer == "sgd" else 0.01
    chosen = build_optimizer(model, OptimizerConfig(optimizer=optimizer, learning_rate=rate))
    seed_everything(seed, rank=fabric.global_rank)
    inputs, labels = task_data()

    def evaluate(model: nn.Module) -> dict[str, float]:
        noisy = inputs + 0.05 * torch.randn_like(inputs)  # draws numbers, which the training must not notice
        found = model(noisy.to(next(model.parameters()).device)).argmax(dim=1).cpu()
        return {"accuracy": float((found == labels).float().mean())}

    saver = FileSaver(folder / "checkpoints")
    chosen_loader = make_loader(loader, fabric.global_rank, fabric.world_size) if isinstance(loader, str) else loader
    with MetricsLog(folder, tensorboard=False) as log:
        try:
            state = fit(
                fabric,
                model,
                chosen,
                Classification(label_smoothing=0.1),
                chosen_loader,
                settings,
                learning_rate=learning_rate_factor(LearningRateConfig(warmup_steps=3), 12),
                evaluate=evaluate,
                hooks=[CyclingBits(), StopAfter(stop)],
                early_stopping=EarlyStopping(patience=30),
                log=log,
                checkpoints=saver,
                precision=precision,
                resume=resume,
            )
        except RunInterrupted:
            return None, saver
    return state, saver


def comparable(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state without the clock."""
    return {key: value for key, value in state.items() if key != "seconds"}


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Return the places at which two nested states are not the same, bit for bit."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape
        same = same and torch.equal(left.nan_to_num(-7.0), right.nan_to_num(-7.0))
        return [] if same else [where]
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        if left.keys() != right.keys():
            return [f"{where}: keys {sorted(map(str, left.keys() ^ right.keys()))}"]
        return [found for key in left for found in differences(left[key], right[key], f"{where}.{key}")]
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return [f"{where}: lengths {len(left)} and {len(right)}"]
        pairs = enumerate(zip(left, right, strict=True))
        return [found for i, (a, b) in pairs for found in differences(a, b, f"{where}[{i}]")]
    same = left == right or (left != left and right != right)
    return [] if same else [f"{where}: {left!r} and {right!r}"]
