"""What is trained with whole weights and with weights in shards, in two processes over gloo."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import bitdial
from bitdial.errors import RunInterrupted
from bitdial.layers import batch_norm_per_width
from bitdial.training import (
    Classification,
    Distillation,
    Hook,
    MixedPrecisionConfig,
    OptimizerConfig,
    StepResult,
    TaskOutput,
    TrainingState,
    WeightStatistics,
    build_optimizer,
    fit,
    seed_everything,
    sharding,
)
from bitdial.training.sharding import sharded_model
from bitdial.training.step.config import prepare_layers
from tests.training.running import FileSaver, Jumping, StopAfter, config, differences, load, task_data, train

loop: Any = sys.modules["bitdial.training.setup"]
QUANTIZERS = ("uniform", "twn", "absmean", "ttq", "ternary_lsq")


def network(quantizer: str | None = None, seed: int = 0) -> nn.Sequential:
    """Blocks that are gathered one by one, an uneven one, and a head that is left to the model itself."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(12, 33),
        nn.Sequential(nn.Linear(33, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU()),
        nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.1), nn.ReLU()),
        nn.Linear(32, 4),
    )
    if quantizer is not None:
        bitdial.quantize(model, weights=4, activations=8, quantizer=quantizer)
    return model


class Look(Hook):
    """What a process holds between two steps."""

    def __init__(self) -> None:
        self.share = self.state_share = math.nan
        self.groups: list[str] = []

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        weights = list(state.model.parameters())
        self.share = _held(weights) / sum(p.numel() for p in weights)
        parts: Any = getattr(state.optimizer, "parts", [state.optimizer])
        states = [value for part in parts for each in part.state.values() for value in each.values()]
        states = [value for value in states if isinstance(value, Tensor) and value.dim()]
        self.state_share = _held(states) / max(sum(s.numel() for s in states), 1)
        self.groups = [n for n, m in state.model.named_modules() if type(m).__name__.startswith("FSDP")]


def _held(tensors: list[Any]) -> int:
    return sum((each.to_local() if hasattr(each, "to_local") else each).numel() for each in tensors)


class Turning(Classification):
    """Turns the dial in every pass; two passes make a step."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.dial, self.calls = bitdial.BitDial(model), 0

    def loss(self, model: nn.Module, batch: Any) -> TaskOutput:
        self.dial.set((2, 4, 8)[self.calls * 2 % 3])
        self.calls += 1
        return super().loss(model, batch)


def rows(fabric: Any) -> dict[str, Any]:
    """Batch norms of which every step uses other rows."""
    model = batch_norm_per_width(network("uniform"), [2, 4, 8])
    return run(fabric, model, task=Turning(model), gradient_accumulation_steps=2)


class Raise(Hook):
    """Fails in every process, or in one."""

    def before_step(self, state: TrainingState) -> None:
        if state.step == 2:
            raise RuntimeError("a bug in a hook")


class BadLoss(Classification):
    """A loss that is not a number, or too large for float16, at one step, in the second process only."""

    def __init__(self, fabric: Any, factor: float) -> None:
        super().__init__()
        self.rank, self.factor, self.calls = fabric.global_rank, factor, 0

    def loss_of(self, logits: Tensor, batch: Any) -> TaskOutput:
        output = super().loss_of(logits, batch)
        self.calls += 1
        if self.calls == 4 and self.rank == 1:
            return TaskOutput(output.loss * self.factor, output.examples, output.metrics)
        return output


def run(
    fabric: Any,
    model: nn.Module | None = None,
    *,
    quantizer: str | None = None,
    optimizer: str = "sgd",
    precision: MixedPrecisionConfig | None = None,
    task: Any = None,
    hooks: tuple[Hook, ...] = (),
    chosen: Any = None,
    resume: Any = None,
    checkpoints: Any = None,
    **changes: Any,
) -> dict[str, Any]:
    """Train; return weights, losses, scores, and what was seen."""
    model = model if model is not None else network(quantizer)
    parameters = list(model.parameters())
    if chosen is None:
        rate = 0.05 if optimizer == "sgd" else 0.01
        chosen = build_optimizer(model, OptimizerConfig(optimizer=optimizer, learning_rate=rate))
    seed_everything(0, rank=fabric.global_rank)
    inputs, labels = task_data()

    def evaluate(network: nn.Module) -> dict[str, float]:
        return {"accuracy": float((network(inputs).argmax(dim=1) == labels).float().mean())}

    look = Look()
    statistics = (WeightStatistics(),) if quantizer is not None else ()
    settings = config(**{"gradient_accumulation_steps": 1, "stop_check_interval": 1, **changes})
    state = fit(
        fabric, model, chosen, task or Classification(), Jumping(fabric.global_rank, fabric.world_size), settings,
        evaluate=evaluate, hooks=[look, *statistics, *hooks], precision=precision, resume=resume,
        checkpoints=checkpoints,
    )  # fmt: skip
    assert state.model is model
    assert all(now is before for now, before in zip(model.parameters(), parameters, strict=True))
    assert [p for group in chosen.param_groups for p in group["params"]] != []
    whole = state.state_dict()
    return {
        "model": whole["model_state_dict"],
        "optimizer": whole["optimizer_state_dict"],
        "average": whole["ema_state_dict"],
        "loss": state.history["loss"],
        "scores": state.scores,
        "share": look.share,
        "state_share": look.state_share,
        "groups": look.groups,
        "class": type(model).__name__,
        "trouble": state.control.trouble(),
    }


def two_trainings(fabric: Any) -> dict[str, Any]:
    """The same model and optimizer through two calls of `fit`: momentum stays."""
    model = network()
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.05))
    run(fabric, model, chosen=optimizer)
    return run(fabric, model, chosen=optimizer)


def after_an_error(fabric: Any) -> dict[str, Any]:
    """A run that ends with an error leaves what it began with, ready to go on."""
    model = network()
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.05))
    try:
        run(fabric, model, chosen=optimizer, hooks=(Raise(),))
    except RuntimeError as error:
        said = str(error)
    same = all(torch.equal(before[name], value) for name, value in model.named_parameters())
    again = run(fabric, model, chosen=optimizer)
    return {**again, "said": said, "same": same}


def after_a_stop(fabric: Any, folder: Path) -> dict[str, Any]:
    """A run that is stopped on request leaves the weights that it had come to."""
    model, saver = network(), FileSaver(folder)
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.05))
    with pytest.raises(RunInterrupted):
        run(fabric, model, chosen=optimizer, hooks=(StopAfter(4),), checkpoints=saver)
    fabric.barrier()
    saved = load(next(folder.iterdir()))
    momentum = [each["momentum_buffer"] for each in optimizer.state_dict()["state"].values()]
    theirs = [each["momentum_buffer"] for each in saved["optimizer_state_dict"]["state"].values()]
    weights = dict(model.named_parameters())
    return {"differ": differences({n: saved["model_state_dict"][n] for n in weights}, weights), "momentum":
            differences(theirs, momentum)}  # fmt: skip


class Centred(nn.Module):
    """Subtracts a running mean of what it saw, which differs between the processes unless they share it."""

    mean: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(dim=0), 0.3)
                self.seen += 1
        return x - 3 * self.mean


class Views(nn.Module):
    """A block whose output is a view, and a model that adds to it in place, as residual networks do."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.blocks, self.head = nn.Linear(12, 40), nn.ModuleList([View()]), nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out: Tensor = self.blocks[0]({"x": x})[0]["out"]
        out += x
        return self.head(out.relu())  # type: ignore[no-any-return]


class Output(dict[str, Tensor]):
    """As transformers has it: every change but one key at a time is forbidden."""

    def update(self, *_: Any, **__: Any) -> None:
        raise AssertionError("not here")


class Pair(NamedTuple):
    """Of an output and something else."""

    output: Output
    words: str


class View(nn.Module):
    """Returns a view, among other things."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(40))

    def forward(self, inputs: dict[str, Tensor]) -> Pair:
        # torch before 2.14 looks for what a block returns only in containers that it knows
        known = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
        return Pair((Output if known else dict)(out=(inputs["x"] @ self.weight).view(-1, 40)), "words")


class Borrowing(nn.Module):
    """Layers whose weights are used without calling them: torch's attention does so, and this head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(2)]
        self.embed, self.layers, self.head = nn.Linear(12, 32), nn.ModuleList(layers), nn.Linear(32, 32, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)[:, None]
        for layer in self.layers:
            x = layer(x)
        return nn.functional.linear(x[:, 0], self.head.weight)[:, :4]


class Meddle(Hook):
    """Changes the model that was given while it trains, and looks on from a hook on one of its layers."""

    def __init__(self, model: nn.Sequential) -> None:
        self.model, self.seen = model, 0
        model[1].register_forward_hook(self.look)

    def look(self, *_: Any) -> None:
        self.seen += 1

    def before_step(self, state: TrainingState) -> None:
        if state.step == 3:
            block: Any = self.model[2]
            block[1].p = 0.0


def meddled(fabric: Any) -> dict[str, Any]:
    model = network().eval()
    hook = Meddle(model)
    found = run(fabric, model, hooks=(hook,))
    return {**found, "seen": hook.seen, "trains": model.training}


def channels_last(fabric: Any) -> dict[str, Any]:
    """Weights in another order of memory, which they keep."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 40, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layers = [nn.Unflatten(1, (3, 2, 2)), convolution, nn.ReLU(), nn.Flatten(), nn.Linear(160, 4)]
    found = run(fabric, nn.Sequential(*layers))
    return {**found, "kept": convolution.weight.is_contiguous(memory_format=torch.channels_last)}


def shared(fabric: Any) -> dict[str, Any]:
    """Two layers in different blocks with one weight, which belongs to the model then."""
    torch.manual_seed(0)
    layers = [nn.Linear(40, 40) for _ in range(3)]
    layers[2].weight = layers[0].weight
    blocks = [nn.Sequential(layer, nn.ReLU()) for layer in layers]
    return run(fabric, nn.Sequential(nn.Linear(12, 40), *blocks, nn.Linear(40, 4)))


def float8(fabric: Any) -> dict[str, Any]:
    """Emulated: no CPU has float8."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "prepare_layers", partial(prepare_layers, emulate=True))
        patch.setattr(loop, "check_device", lambda *_: None)
        return run(fabric, model, precision=MixedPrecisionConfig(dtype="float8"))


def cases(fabric: Any) -> dict[str, Callable[[], Any]]:
    """What is done with whole weights and with shards alike."""

    narrow = MixedPrecisionConfig
    policies: Any = {"1": "float32", "3": {0: "bfloat16", 5: "float32"}}
    return {
        "float": lambda: run(fabric),
        **{quantizer: partial(run, fabric, quantizer=quantizer) for quantizer in QUANTIZERS},
        "adamw": lambda: run(fabric, optimizer="adamw"),
        "muon": lambda: run(fabric, optimizer="muon"),
        "accumulation": lambda: run(fabric, gradient_accumulation_steps=2),
        "bfloat16": lambda: run(fabric, precision=narrow(dtype="bfloat16")),
        "float16": lambda: run(fabric, precision=narrow(dtype="float16", init_scale=1024.0)),
        "ttq in bfloat16": lambda: run(fabric, quantizer="ttq", precision=narrow(dtype="bfloat16")),
        "overflow": lambda: run(
            fabric, precision=narrow(dtype="float16", init_scale=1024.0), task=BadLoss(fabric, 1e30)
        ),
        "not a number": lambda: run(fabric, precision=narrow(dtype="bfloat16"), task=BadLoss(fabric, math.nan)),
        "policies": lambda: run(fabric, precision=narrow(dtype="bfloat16", policies=policies)),
        "float8": lambda: float8(fabric),
        "distillation": lambda: run(fabric, task=Distillation(Classification(), network())),
        "rows of norms": lambda: rows(fabric),
        "twice": lambda: two_trainings(fabric),
        "shared": lambda: shared(fabric),
        "views": lambda: run(fabric, Views(seed=0)),
        "borrowed weights": lambda: run(fabric, Borrowing()),
        "changed from outside": lambda: meddled(fabric),
        "channels last": lambda: channels_last(fabric),
        "buffers": lambda: run(fabric, nn.Sequential(Centred(), nn.Linear(12, 4))),
        "own weights": lambda: run(fabric, network(seed=getattr(fabric, "global_rank", 0))),
    }


def in_each_process(fabric: Any, root: str) -> None:
    """Runs in both processes; what it finds goes to files."""
    torch.set_num_threads(1)
    warnings.filterwarnings("error", message="FSDP2")
    sharded_model.SMALLEST_GROUP = 1000
    kind = "shards" if sharding.is_sharded(fabric) else "whole"
    folder = Path(root) / kind
    found: dict[str, Any] = {name: case() for name, case in cases(fabric).items()}
    for name, stop, resumed_from in (
        ("run", None, None), ("parts", 5, None), ("parts", None, folder / "parts"),
        ("changed", None, Path(root) / ("whole" if kind == "shards" else kind) / "parts"),
    ):  # fmt: skip
        place = folder / name
        place.mkdir(exist_ok=True, parents=True)
        fabric.barrier()
        resume = load(sorted((resumed_from / "checkpoints").iterdir())[0]) if resumed_from else None
        fabric.barrier()
        state, _ = train(place, stop=stop, resume=resume, fabric=fabric, settings=config(stop_check_interval=1))
        if state is not None:
            found[name] = state.state_dict()
            found[name].pop("seconds")
    if kind == "shards":
        found["error"] = after_an_error(fabric)
        found["stopped"] = after_a_stop(fabric, folder / "stopped")
    torch.save(found, Path(root) / f"{kind}{fabric.global_rank}.pt")
    fabric.barrier()
    torch.distributed.destroy_process_group()
