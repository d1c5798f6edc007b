"""Batch norms with a row of parameters and statistics for each width, which follow the dial of their layer."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import update_bn
from torch.utils.checkpoint import checkpoint

from bitdial import BitDial, cost, load, quantize, reestimate_batch_norm, sweep
from bitdial.errors import BitdialError, RunInterrupted
from bitdial.layers import batch_norm_per_width, rest_idle_rows, skipped_layers
from bitdial.layers.norm_rows import PerWidth
from bitdial.layers.widths import copy_widths
from bitdial.models import build_model
from bitdial.recipes.saved_model import SavedModel, quantized
from bitdial.training import Classification, Hook, LoopConfig, StepResult, TrainingState, fit, make_fabric
from tests.layers.nets import ResidualNet, images
from tests.layers.test_tracing import WAYS
from tests.layers.test_widths import AVERAGES
from tests.training.running import FileSaver, StopAfter
from tests.training.running import load as load_state

WIDTHS = [2, 4, 8]


def net(bits: float = 4, widths: list[float] | None = None) -> nn.Module:
    torch.manual_seed(0)
    return batch_norm_per_width(quantize(ResidualNet(), bits, bits, skip=()), widths or WIDTHS)


def train(model: nn.Module, bits: Any, run: Callable[[Tensor], Tensor] | None = None, seed: int = 0) -> Tensor:
    BitDial(model).set(bits)
    loss = (model if run is None else run)(images(seed=seed)).square().sum()
    loss.backward()
    return loss


def norms(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, PerWidth)]


def equal(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


# What a norm with rows is


def test_a_norm_stays_the_same_object_with_its_hooks_and_each_row_begins_as_it_was() -> None:
    model = quantize(ResidualNet(), 4, 4, skip=())
    with torch.no_grad():
        model.bn1.weight.copy_(torch.arange(8.0))
    model(images())
    model.bn1.eps, model.bn1.note = 1e-3, "kept"
    seen: list[nn.Module] = []
    model.bn1.register_forward_hook(lambda module, *_: seen.append(module))
    before, norm = copy.deepcopy(model.bn1), model.bn1
    assert batch_norm_per_width(model, [8, 4, 1.585]) is model
    assert model.bn1 is norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.widths == (1.585, 4, 8)
    assert [name for name, _ in norm.named_children()] == ["bits_1_585", "bits_4", "bits_8"]
    for row in norm.rows:
        for name, value in before.state_dict().items():
            assert torch.equal(row.state_dict()[name], value), name
    assert len({id(p) for p in norm.parameters()}) == len(list(norm.parameters())) == 6
    model(images())
    assert seen == [norm]
    assert (norm.eps, norm.note) == (1e-3, "kept")
    assert "widths=1.585, 4, 8" in repr(norm)


KINDS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "1d": (nn.BatchNorm1d, (5, 3)),
    "1d, of sequences": (nn.BatchNorm1d, (5, 3, 4)),
    "2d": (nn.BatchNorm2d, (5, 3, 2, 2)),
    "3d": (nn.BatchNorm3d, (5, 3, 2, 2, 2)),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"momentum": 0.0, "eps": 0.1},
    {"affine": False},
    {"track_running_stats": False},
    {"affine": False, "track_running_stats": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_an_ordinary_norm_of_its_own_bit_for_bit(kind: str, options: dict[str, Any]) -> None:
    make, shape = KINDS[kind]
    apart = {width: make(3, **options) for width in WIDTHS}
    model = batch_norm_per_width(quantize(nn.ModuleList([nn.Linear(3, 3), make(3, **options)]), skip=()), WIDTHS)
    norm, dial = model[1], BitDial(model)
    for step, width in enumerate([4, 4, 2, 8, 2, 4]):
        for training in (True, False):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(step)) * (1 + width)
            dial.set(width)
            assert torch.equal(norm.train(training)(x), apart[width].train(training)(x))
    for width, row in zip(WIDTHS, norm.rows, strict=True):
        for name, value in apart[width].state_dict().items():
            assert torch.equal(row.state_dict()[name], value), name


def test_it_refuses_what_the_ordinary_norm_refuses() -> None:
    model = net()
    for given, error in ((torch.zeros(4, 8), "expected 4D input"), (torch.zeros(1, 8, 1, 1), "more than 1 value")):
        with pytest.raises(ValueError, match=error):
            model.bn1(given)


def test_a_batch_without_an_example() -> None:
    ordinary, model = nn.BatchNorm2d(8), net()
    x = torch.zeros(0, 8, 3, 3)
    assert model.bn1(x).shape == ordinary(x).shape
    for name, value in ordinary.state_dict().items():
        assert torch.equal(getattr(model.bn1, name), value)


# Which row is in force


@pytest.mark.parametrize(
    ("bits", "row"), [(1, 2), (2, 2), (2.9, 2), (3, 4), (4, 4), (5.9, 4), (6, 8), (8, 8), (16, 8), (32, 8)]
)
def test_a_width_without_a_row_takes_the_nearest_the_wider_of_two(bits: float, row: int) -> None:
    model = net()
    BitDial(model).set(bits)
    for norm in norms(model):
        assert norm.row is getattr(norm, f"bits_{row}")
        assert norm.weight is norm.row.weight
        assert norm.running_mean is norm.row.running_mean


def test_norms_follow_the_layer_before_them_skip_connections_included() -> None:
    model = quantize(build_model("resnet18", num_classes=10, in_channels=3, image_size=32))
    batch_norm_per_width(model, WIDTHS)
    names = {id(module): name for name, module in model.named_modules()}
    follows = {names[id(norm)]: names[id(norm._layer[0])] for norm in norms(model)}
    assert follows.pop("bn1") == "layer1.0.conv1"  # the stem is not quantized: the first layer after it
    assert follows["layer2.0.downsample.1"] == "layer2.0.downsample.0"
    for name, layer in follows.items():
        assert layer == name.replace("bn", "conv").replace("downsample.1", "downsample.0")


def test_each_norm_follows_its_own_layer() -> None:
    model = net()
    BitDial(model).set([2, 8, 4, 32])
    assert [norm.row is norm.rows[i] for norm, i in zip(norms(model), (0, 2, 1), strict=True)] == [True] * 3
    with BitDial(model).held(8, layers="stem"):
        assert model.bn0.row is model.bn0.bits_8
    assert model.bn0.row is model.bn0.bits_2


def test_the_weights_width_counts_and_for_ternary_weights_the_activations() -> None:
    model = net()
    BitDial(model).set(weights=2, activations=8)
    assert model.bn1.row is model.bn1.bits_2
    ternary = batch_norm_per_width(quantize(ResidualNet(), quantizer="twn", skip=()), WIDTHS)
    BitDial(ternary).set(weights=2, activations=8)
    assert ternary.bn1.row is ternary.bn1.bits_8


def test_a_width_that_was_turned_is_not_read_from_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    BitDial(model).set(2)
    monkeypatch.setattr(Tensor, "item", None)
    assert model.bn1.row is model.bn1.bits_2
    monkeypatch.undo()
    model.conv1.weight_bits.fill_(8)  # by hand
    assert model.bn1.row is model.bn1.bits_8
    monkeypatch.setattr(Tensor, "item", None)
    assert model.bn1.row is model.bn1.bits_8


def test_a_functional_call_with_other_widths_uses_their_row() -> None:
    model = net(2).eval()
    for norm in norms(model):
        for index, row in enumerate(norm.rows):
            row.weight.data.add_(index)
    other = copy.deepcopy(model)
    BitDial(other).set(8)
    assert torch.equal(torch.func.functional_call(model, other.state_dict(), images()), other(images()))


# Training


def test_the_gradient_reaches_only_the_row_in_force() -> None:
    model = net()
    train(model, 2)
    for norm in norms(model):
        assert [p.grad is None for row in norm.rows for p in row.parameters()] == [False] * 2 + [True] * 4
        assert [int(row.num_batches_tracked) for row in norm.rows] == [1, 0, 0]


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("way", ["none", "zeros", pytest.param("compiled", marks=pytest.mark.slow)])
def test_rows_that_a_step_did_not_use_stay_as_they_are(way: str, optimizer: str) -> None:
    model = net()
    run = torch.compile(model, backend="aot_eager") if way == "compiled" else model
    moving = OPTIMIZERS[optimizer](model.parameters())

    def step(*bits: float) -> list[bool]:
        before = [[p.clone() for p in row.parameters()] for row in model.bn1.rows]
        moving.zero_grad(set_to_none=way != "zeros")
        for width in bits:
            train(model, width, run)
        if way != "none":
            rest_idle_rows(model)
        moving.step()
        pairs = zip(model.bn1.rows, before, strict=True)
        return [any(not torch.equal(p, b) for p, b in zip(r.parameters(), old, strict=True)) for r, old in pairs]

    assert step(2, 4, 8) == [True, True, True]  # momentum in all of them
    assert step(8, 2) == [True, False, True]
    assert step(4) == [False, True, False]


class Turn(Hook):
    """Another width in every step: the rows of 8 bits are used in the first two alone."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def before_step(self, state: TrainingState) -> None:
        BitDial(state.model).set([8, 8, 2, 4, 4, 2][state.step])

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        self.seen.append(state.model.bn1.bits_8.weight.detach().clone())


def run(folder: Path, *, optimizer: str = "sgd", stop: int | None = None, **options: Any) -> tuple[nn.Module, Turn]:
    model, turn = net(), Turn()
    batches = [(images(seed=i), torch.arange(4)) for i in range(3)]
    moving, settings = OPTIMIZERS[optimizer](model.parameters()), LoopConfig(epochs=2, ema_decay=0.9)
    options |= {"hooks": [turn, StopAfter(stop)], "checkpoints": FileSaver(folder)}
    with suppress(RunInterrupted):
        fit(make_fabric(), model, moving, Classification(), batches, settings, **options)
    return model, turn


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rows_rest_in_a_run_too(optimizer: str, tmp_path: Path) -> None:
    seen = run(tmp_path, optimizer=optimizer)[1].seen
    assert not torch.equal(seen[0], seen[1])
    assert all(torch.equal(seen[1], later) for later in seen[2:])


@pytest.mark.parametrize("stop", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_resumes_bit_for_bit(optimizer: str, stop: int, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", optimizer=optimizer)[0]
    run(tmp_path / "parts", optimizer=optimizer, stop=stop)
    saved = load_state(sorted((tmp_path / "parts").iterdir())[-1])
    assert saved["step"] == stop
    equal(whole, run(tmp_path / "rest", optimizer=optimizer, resume=saved)[0])


@pytest.fixture
def one_process() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("find", [False, True])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.usefixtures("one_process")
def test_distributed_data_parallel_waits_for_no_row_and_has_the_same_gradients(find: bool, affine: bool) -> None:
    plain = quantize(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=affine), nn.Conv2d(8, 2, 3)), skip=())
    batch_norm_per_width(plain, WIDTHS)
    model = copy.deepcopy(plain)
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=find)
    for bits in ([2], [8, 4], [2, 8]):
        for each in (plain, model):
            each.zero_grad()
        for index, width in enumerate(bits):
            train(plain, width)
            if index == len(bits) - 1:
                train(model, width, wrapped)
            else:
                with wrapped.no_sync():
                    train(model, width, wrapped)
        rest_idle_rows(model)
        for (name, one), (_, other) in zip(plain.named_parameters(), model.named_parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None), name
            assert one.grad is None or torch.equal(one.grad, other.grad), name
    equal(plain, model)


class Checkpointed(ResidualNet):
    kind = ""

    def forward(self, x: Tensor) -> Tensor:
        if not self.kind:
            return super().forward(x)
        return checkpoint(super().forward, x, use_reentrant=self.kind == "reentrant")


@pytest.mark.parametrize("kind", ["reentrant", "not reentrant"])
def test_gradient_checkpointing_takes_the_row_of_the_first_time_and_counts_once(kind: str) -> None:
    torch.manual_seed(0)
    plain = batch_norm_per_width(quantize(Checkpointed(), 2, 2, skip=()), WIDTHS)
    other = copy.deepcopy(plain)
    other.kind = kind
    for model in (plain, other):
        losses = []
        for width in (2, 8, 4):
            BitDial(model).set(width)
            losses.append(model(images(seed=width).requires_grad_()).square().sum())
        BitDial(model).set(8)
        sum(losses).backward()
    equal(plain, other)
    for (name, one), (_, two) in zip(plain.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-5 * one.grad.abs().max().item(), msg=name)


def graphs(backend: str) -> None:
    torch._dynamo.reset()
    model = net(widths=[1.585, 3, 4, 8, 32])
    eager, counter = copy.deepcopy(model), CompileCounterWithBackend(backend)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    widths: Any = (8, 32, 2, 1, [2, 8, 4, 32], [5, 1, 2, 3], 3.5, 4)

    def go() -> None:
        for bits in widths:
            for each, run in ((model, compiled), (eager, eager)):
                each.train().zero_grad()
                train(each, bits, run)
            for (name, mine), (_, theirs) in zip(model.named_parameters(), eager.named_parameters(), strict=True):
                if theirs.grad is None:
                    assert not mine.grad.any(), name
                else:
                    assert (mine.grad - theirs.grad).norm() <= 0.02 * theirs.grad.norm() + 1e-3, name
        with torch.no_grad():
            for bits in widths:
                for each in (model, eager):
                    BitDial(each.eval()).set(bits)
                torch.testing.assert_close(compiled(images()), eager(images()), rtol=1e-2, atol=1e-2)

    go()
    assert counter.frame_count == 2
    for (name, mine), (_, theirs) in zip(model.named_buffers(), eager.named_buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3, msg=name)
    sweep(compiled, [(images(), torch.arange(4))], [2, 32])  # re-estimates too
    cost(compiled, images(1))
    model.load_state_dict(net(widths=list(model.bn1.widths)).state_dict())
    eager.load_state_dict(model.state_dict())
    go()
    assert counter.frame_count == 2
    torch._dynamo.reset()


def test_one_graph_for_training_and_one_for_evaluation_at_all_widths() -> None:
    graphs("aot_eager")


@pytest.mark.slow
def test_inductor_one_graph_for_training_and_one_for_evaluation_at_all_widths() -> None:
    graphs("inductor")


@pytest.mark.parametrize("way", WAYS)
def test_a_recorded_graph_computes_the_same(way: str) -> None:
    model = net(2)
    train(model, 2)
    model.eval()
    with torch.no_grad():
        graph = WAYS[way](model, images())
        torch.testing.assert_close(graph(images(seed=5)), model(images(seed=5)), rtol=1e-3, atol=1e-3)


# States and copies


def trained() -> nn.Module:
    model = net()
    moving = torch.optim.SGD(model.parameters(), lr=0.1)
    for width in (2, 4, 8, 4):
        moving.zero_grad()
        train(model, width, seed=width)
        moving.step()
    assert not torch.equal(model.bn1.bits_2.weight, model.bn1.bits_8.weight)
    return model


def reloaded(model: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


def from_state(model: nn.Module, **options: Any) -> nn.Module:
    fresh = net(8)
    fresh.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, **options)
    return fresh


def through_meta(model: nn.Module) -> nn.Module:
    state = model.state_dict()
    fresh = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    fresh.load_state_dict(state)
    return fresh


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": reloaded,
    "state": from_state,
    "state, assigned": lambda model: from_state(model, assign=True),
    "to_empty": through_meta,
    "assigned on meta": lambda model: _assigned_on_meta(model),
    "double and back": lambda model: copy.deepcopy(model).double().float(),
}


def _assigned_on_meta(model: nn.Module) -> nn.Module:
    fresh = net(8).to("meta")
    fresh.load_state_dict(model.state_dict(), assign=True)
    return fresh


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("bits", [2, 8])
def test_a_copy_is_the_same_bit_for_bit_and_turns_alone(way: str, bits: float) -> None:
    model = trained()
    BitDial(model).set(bits)
    other = COPIES[way](model)
    equal(model, other)
    same = copy.deepcopy(model)
    for width in (bits, 4, 2):
        for training in (False, True):
            for each in (other, same):
                BitDial(each).set(width)
            assert torch.equal(other.train(training)(images()), same.train(training)(images()))
            assert model.bn1.row is getattr(model.bn1, f"bits_{bits}")
    equal(other, same)
    BitDial(model).set(8)
    assert other.bn1.row is other.bn1.bits_2


def test_reset_parameters_resets_every_row_as_after_to_empty() -> None:
    model = trained().to("meta").to_empty(device="cpu")
    for norm in norms(model):
        norm.reset_parameters()
        for row in norm.rows:
            for name, value in nn.BatchNorm2d(8).state_dict().items():
                assert torch.equal(row.state_dict()[name], value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    model = trained().to(dtype).eval()
    for width in WIDTHS:
        BitDial(model).set(width)
        assert model.bn1.row is getattr(model.bn1, f"bits_{width}")
        assert model(images().to(dtype)).isfinite().all()
    assert {row.weight.dtype for row in model.bn1.rows} == {dtype}
    assert model.bn1.num_batches_tracked.dtype == torch.int64


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_every_row_takes_the_state_of_an_ordinary_norm(assign: bool, old: bool) -> None:
    float_net = ResidualNet()
    float_net(images() * 3)
    state = {k: v for k, v in float_net.state_dict().items() if not (old and k.endswith("num_batches_tracked"))}
    model = trained()
    counted = [int(row.num_batches_tracked) for row in model.bn1.rows]
    model.load_state_dict(state, assign=assign)
    for row in model.bn1.rows:
        assert torch.equal(row.running_var, float_net.bn1.running_var)
        assert torch.equal(row.weight, float_net.bn1.weight)
    assert [int(row.num_batches_tracked) for row in model.bn1.rows] == (counted if old else [1, 1, 1])
    train(model, 2)
    assert torch.equal(model.bn1.bits_4.running_var, float_net.bn1.running_var)
    assert not torch.equal(model.bn1.bits_2.running_var, float_net.bn1.running_var)


def test_a_state_with_other_rows_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"bn0\.bits_3\.weight"):
        net().load_state_dict(net(widths=[2, 3]).state_dict())


@pytest.mark.parametrize("kind", AVERAGES)
def test_rows_are_averaged_and_the_row_in_force_is_not(kind: str) -> None:
    model = net(8)
    average = AVERAGES[kind](model)
    update = getattr(average, "update_parameters", None) or average.update
    inner = average.ema if kind == "timm 1" else average.module
    before = copy.deepcopy(inner)
    for bits in (4, 2, 4):
        train(model, bits)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        update(model)
    assert inner.bn1.row is inner.bn1.bits_8
    assert not torch.equal(inner.bn1.bits_2.weight, before.bn1.bits_2.weight)


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_whose_widths_are_written_from_outside_has_their_row(turns: int, way: str) -> None:
    """As an average of a run is: however often the widths of the model were turned before it was copied."""
    model = net(8)
    for turn in range(turns):
        BitDial(model).set(WIDTHS[turn % 3])
    other = COPIES[way](model)
    for bits in (8, 2, 8, 4, 2, 2, 8, 2):
        BitDial(model).set(bits)
        copy_widths(other, model)
        assert other.bn1.row is getattr(other.bn1, f"bits_{bits}")


@pytest.mark.filterwarnings("ignore:.*update_bn")
def test_update_bn_of_torch_renews_the_row_in_force_alone() -> None:
    model, given = trained(), [images(seed=i) for i in range(3)]
    expected, before = copy.deepcopy(model), copy.deepcopy(model)
    for each in (model, expected, before):
        BitDial(each).set(2)
    update_bn(given, model)
    reestimate_batch_norm(expected, given)
    for norm, renewed, old in zip(norms(model), norms(expected), norms(before), strict=True):
        equal(norm.bits_4, old.bits_4)
        torch.testing.assert_close(norm.bits_2.state_dict(), renewed.bits_2.state_dict())


def test_a_copy_made_in_inference_mode_computes() -> None:
    model = trained().eval()
    BitDial(model).set(2)
    with torch.inference_mode():
        other = copy.deepcopy(model)
        assert torch.equal(other(images()), model(images()))


# Measuring


def test_statistics_are_re_estimated_in_the_row_in_force_alone() -> None:
    model = trained()
    before = copy.deepcopy(model)
    BitDial(model).set(2)
    given = [images(seed=i) * (i + 1) for i in range(3)]
    seen: list[Tensor] = []
    model.bn0.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    reestimate_batch_norm(model, given)
    torch.testing.assert_close(model.bn0.bits_2.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
    assert model.bn0.momentum == 0.1
    for width in (4, 8):
        equal(getattr(model.bn0, f"bits_{width}"), getattr(before.bn0, f"bits_{width}"))


def test_an_error_puts_every_row_back() -> None:
    model = trained()
    before = copy.deepcopy(model)

    def forward(model: nn.Module, x: Tensor) -> None:
        BitDial(model).set(8)
        model(x)

    with pytest.raises(RuntimeError), BitDial(model).held(2):
        reestimate_batch_norm(model, [images(), torch.zeros(2, 5, 8, 8)], forward=forward)
    equal(model, before)


def test_a_sweep_measures_each_width_with_its_row_and_changes_nothing() -> None:
    model = trained()
    before = copy.deepcopy(model)
    batches = [(images(seed=i), torch.arange(4)) for i in range(3)]
    scores = sweep(model, batches, [2, 8], reestimate=False)
    for score, width in zip(scores, (2, 8), strict=True):
        apart = copy.deepcopy(before).eval()
        BitDial(apart).set(width)
        losses = [nn.functional.cross_entropy(apart(x), y) for x, y in batches]
        assert score.loss == pytest.approx(sum(losses).item() / 3, rel=1e-5)
    sweep(model, batches, [2, 8, 32])
    equal(model, before)


def test_the_ledger_counts_every_row() -> None:
    model, ordinary = net(), quantize(ResidualNet(), 4, 4, skip=())
    per_norm = 8 * 4 + 1
    assert cost(model, images(1)).other_values == cost(ordinary, images(1)).other_values + 3 * 2 * per_norm
    assert cost(model, images(1)).macs == cost(ordinary, images(1)).macs
    equal(model, net())


# Files


def test_a_packed_file_keeps_every_row(tmp_path: Path) -> None:
    from bitdial.export import load_packed, packed_sizes, save_packed

    model = trained().eval()
    BitDial(model).set(2)
    save_packed(model, tmp_path / "net.safetensors")
    other = load_packed(tmp_path / "net.safetensors", net(8)).eval()
    assert torch.equal(model(images()), other(images()))
    for one, two in zip(norms(model), norms(other), strict=True):
        equal(one, two)
    with pytest.raises(BitdialError, match=r"bits_8\.\w+ is in the file and not in the model"):
        load_packed(tmp_path / "net.safetensors", net(widths=[2, 4]))
    assert packed_sizes(model).float32 > packed_sizes(quantize(ResidualNet(), 2, 2, skip=())).float32


def test_a_saved_network_is_built_with_its_rows(tmp_path: Path) -> None:
    how = {"weights": 4, "activations": 4, "batch_norm_widths": WIDTHS}
    model = quantized(build_model("resnet20", num_classes=10, in_channels=3, image_size=32), how)
    assert how["batch_norm_widths"] == WIDTHS
    x = torch.randn(2, 3, 32, 32)
    for bits in WIDTHS:
        BitDial(model).set(bits)
        model(x * bits)
    saved = SavedModel(
        recipe="joint",
        arm="joint",
        seed=0,
        model="resnet20",
        quantize=how,
        num_classes=10,
        in_channels=3,
        image_size=32,
    )
    path = saved.save(model, tmp_path / "joint-seed0.pt")
    other = load(path)
    equal(model, other)
    assert torch.equal(model.eval()(x), other(x))


# What is left alone, and what is refused


def test_other_norms_are_left_alone_and_named() -> None:
    class Mine(nn.BatchNorm2d):
        pass

    replaced = nn.BatchNorm2d(4)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    pruned, computed = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
    prune.random_unstructured(pruned, "weight", amount=1)
    parametrize.register_parametrization(computed, "weight", nn.ReLU())
    others = [
        computed, nn.SyncBatchNorm(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.InstanceNorm2d(4), nn.RMSNorm(4),
        Mine(4), nn.LazyBatchNorm2d(), replaced, pruned,
    ]  # fmt: skip
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *others, nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))
    kinds = [type(module) for module in others]
    batch_norm_per_width(nn.Sequential(quantize(model, skip=["<last>"])), WIDTHS)
    assert [type(module) for module in others] == kinds
    named = skipped_layers(model)
    assert named.pop("12") == "skipped as <last>"
    assert named == {
        **{
            str(number): f"{type(module).__name__} serves every width: rows are for BatchNorm1d, 2d and 3d"
            for number, module in enumerate(others[:7], 1)
        },
        "8": "LazyBatchNorm2d has no shape yet: run a batch through the model first",
        "9": "its forward was replaced by another function",
        "10": "one of its tensors is computed by a hook (pruning)",
    }


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([], "widths must be a list of widths such as [2, 4, 8], got []"),
        (4, "widths must be a list of widths such as [2, 4, 8], got 4"),
        ("248", "widths must be a list of widths such as [2, 4, 8], got '248'"),
        (None, "widths must be a list of widths such as [2, 4, 8], got None"),
        ([2, 4, 2.0], "widths must be unlike each other, got 2, 2, 4"),
        ([0, 4], "bits must be in [1, 32], got 0 for widths"),
        ([4, 33], "bits must be in [1, 32], got 33 for widths"),
        ([4, float("nan")], "bits must be in [1, 32], got nan for widths"),
        (["4"], "bits must be a number in [1, 32], got '4' for widths"),
        ([True], "bits must be a number in [1, 32], got True for widths"),
    ],
)
def test_bad_widths_change_nothing_and_say_why(widths: Any, message: str) -> None:
    model = quantize(ResidualNet(), skip=())
    before = list(model.state_dict())
    with pytest.raises(BitdialError) as caught:
        batch_norm_per_width(model, widths)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == before


def of(*modules: nn.Module) -> nn.Module:
    return quantize(nn.Sequential(nn.Linear(4, 4), *modules), skip=())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "resnet18", "model must be a torch.nn.Module, got str"),
        (ResidualNet, "model must have quantized layers, got none; call bitdial.quantize(model) first"),
        (net, "model must have ordinary batch norms, got some with rows already"),
        (lambda: of(), "model must have BatchNorm1d, 2d or 3d to give rows to, got no norm at all"),
        (lambda: of(nn.LayerNorm(4), nn.LayerNorm(4)), "2d or 3d to give rows to, got LayerNorm; leave"),
    ],
)
def test_bad_models_are_refused(model: Callable[[], Any], message: str) -> None:
    with pytest.raises(BitdialError) as caught:
        batch_norm_per_width(model(), WIDTHS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
