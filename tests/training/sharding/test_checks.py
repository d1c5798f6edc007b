"""What does not go together with weights in shards gets a sentence, in every process, and leaves nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import fsdp

from bitdial.errors import BitdialError
from bitdial.training import Classification, LoopConfig, TaskOutput, fit, make_fabric
from bitdial.training.devices import _leave_process_group
from bitdial.training.sharding import sharded_model
from tests.training.running import task_data
from tests.training.sharding.cases import BadLoss, network, run


class Penalty(Classification):
    """A loss with a penalty on a weight: the model's own, or one that was kept from before training."""

    def __init__(self, weight: Callable[[], Tensor]) -> None:
        super().__init__()
        self.weight = weight

    def loss_of(self, logits: Tensor, batch: Any) -> TaskOutput:
        output = super().loss_of(logits, batch)
        return TaskOutput(output.loss + self.weight().square().sum(), output.examples, output.metrics)


class FullDisk:
    """A log whose last rows cannot be written."""

    def rewind(self, rows: int, step: int) -> None:
        pass

    def write(self, row: Any, layers: Any = None) -> None:
        pass

    def flush(self) -> None:
        raise BitdialError("no space left for the log")


class Called(nn.Module):
    """A block of which something else than `forward` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(40, 40)

    def apply_it(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class ByName(nn.Module):
    """A model that calls it so."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.blocks = nn.Linear(12, 40), nn.ModuleList([Called()])

    def forward(self, x: Tensor) -> Tensor:
        block: Any = self.blocks[0]
        return block.apply_it(self.first(x))[:, :4]  # type: ignore[no-any-return]


def with_scalar() -> nn.Module:
    model = network()
    model.register_parameter("temperature", nn.Parameter(torch.tensor(1.0)))
    return model


def with_half() -> nn.Module:
    model = network()
    model[3].bfloat16()
    return model


def with_hook() -> nn.Module:
    model = network()
    weight: Any = model[0].weight
    weight.register_hook(lambda gradient: gradient)
    return model


class InPlace(nn.Module):
    """A block that writes into what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(40))

    def forward(self, x: Tensor) -> Tensor:
        return x.relu_() @ self.weight


def in_place() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 40), InPlace(), InPlace(), nn.Linear(40, 4))


def copying(fabric: Any) -> None:
    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"accuracy": float(copy.deepcopy(model)(task_data()[0]).mean())}

    train(fabric, network(), evaluate=evaluate)


def train(fabric: Any, model: nn.Module, optimizer: Any = None, **options: Any) -> None:
    chosen = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    fit(fabric, model, chosen, Classification(), [task_data()] * 3, LoopConfig(epochs=1), **options)


def penalised(fabric: Any, *, kept: bool) -> None:
    model = network()
    weight: Any = model[0].weight
    run(fabric, model, task=Penalty((lambda: weight) if kept else (lambda: model[0].weight)))  # type: ignore[return-value]


def fused(fabric: Any) -> None:
    model = network()
    train(fabric, model, torch.optim.SGD(model.parameters(), lr=0.1, fused=True))


def one_row(fabric: Any) -> None:
    run(fabric, nn.Sequential(nn.Linear(12, 40), nn.Linear(40, 1), nn.Linear(1, 4)), optimizer="muon")


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "no dimensions": (lambda fabric: run(fabric, with_scalar()), "got 'temperature' without dimensions"),
    "two dtypes": (lambda fabric: run(fabric, with_half()), "float32 ('0.weight'), bfloat16 ('3.weight'); keep them"),
    "lazy": (lambda fabric: train(fabric, nn.Sequential(nn.LazyLinear(4))), "got the lazy '0.weight'"),
    "a hook on a parameter": (lambda fabric: run(fabric, with_hook()), "got '0.weight' with a hook"),
    "a penalty": (lambda fabric: penalised(fabric, kept=False), "got an operation on a part"),
    "a penalty on what was kept": (lambda fabric: penalised(fabric, kept=True), "kept from before training"),
    "a copy": (copying, "got copy.deepcopy of it"),
    "in place": (lambda fabric: train(fabric, in_place()), "got one that does (such as ReLU(inplace=True)"),
    "not forward": (lambda fabric: train(fabric, ByName()), "weights used without calling their layer"),
    "fused SGD": (fused, "_fused_sgd_"),
    "a matrix of one row": (one_row, "for each of the 2 processes, got '1.weight' of shape [1, 40]"),
    "a loss that is not a number": (
        lambda fabric: run(fabric, task=BadLoss(fabric, float("nan"))), "the loss became nan at step 4",
    ),
    "no room for the log": (lambda fabric: train(fabric, network(), log=FullDisk()), "no space left for the log"),
}  # fmt: skip


def shape(model: nn.Module) -> dict[str, Any]:
    """All that hangs on a model, by the names and numbers of it."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        sizes = {key: len(value) for key, value in vars(module).items() if isinstance(value, dict)}
        found[name] = (type(module).__name__, sorted(vars(module)), sizes)
    return found


def gloo_threads() -> int:
    return sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())


def half_way(fabric: Any) -> list[str]:
    """What is left of a sharding that fails in the middle; the model trains afterwards."""
    model, done = network(), []
    before, weights = shape(model), [weight.clone() for weight in model.parameters()]
    shard = fsdp.fully_shard

    def failing(*arguments: Any, **options: Any) -> Any:
        if done:
            raise RuntimeError("a shard too many")
        done.append(shard(*arguments, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsdp, "fully_shard", failing)
        with pytest.raises(RuntimeError, match="a shard too many"):
            train(fabric, model)
    left = [name for name, found in shape(model).items() if found != before[name]]
    assert all(map(torch.equal, weights, model.parameters()))
    train(fabric, model)
    return left


def in_each_process(fabric: Any, root: str) -> None:
    torch.set_num_threads(1)
    sharded_model.SMALLEST_GROUP = 1000
    said: dict[str, str] = {}
    for name, (act, _) in REFUSED.items():
        try:
            act(fabric)
            said[name] = "nothing"
        except BitdialError as error:
            said[name] = str(error)
        fabric.barrier()
    model = network()
    before = shape(model)
    train(fabric, model)
    left = [name for name, found in shape(model).items() if found != before[name]]
    left += half_way(fabric)
    fabric.barrier()
    _leave_process_group()
    threads = gloo_threads() if Path("/proc/self/task").exists() else 0
    torch.save({"said": said, "left": left, "threads": threads}, Path(root) / f"{fabric.global_rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("checks")
    make_fabric(devices=2, strategy="fsdp_spawn", accelerator="cpu").launch(in_each_process, str(root))
    return [torch.load(root / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", REFUSED)
def test_a_sentence_in_every_process(found: Any, name: str) -> None:
    sentence = REFUSED[name][1]
    assert sentence in found[0]["said"][name]
    assert found[1]["said"][name] == ("nothing" if name == "no room for the log" else found[0]["said"][name])


def test_nothing_is_left_on_the_model(found: Any) -> None:
    assert [each["left"] for each in found] == [[], []]


def test_no_connection_outlives_the_run(found: Any) -> None:
    """Their threads would abort the process at its end, after all had gone well."""
    assert [each["threads"] for each in found] == [0, 0]
