"""Out of memory at any point of a step: it is done again in smaller parts, with the gradient that it would have had."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision import MixedPrecisionConfig, MixedPrecisionTrainer
from bitdial.training.step.memory import is_out_of_memory, split
from tests.training.mixed_precision.by_hand import batches, same_state
from tests.training.mixed_precision.faults import Fault, FaultyBackward, FaultyForward


def net(fault: Fault | None = None, kind: type[FaultyForward] = FaultyForward) -> nn.Module:
    torch.manual_seed(0)
    bad = nn.Identity() if fault is None else kind(fault)
    # group norm: batch norm looks at the whole micro-batch, so its gradient does depend on how that is cut
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), bad, nn.Flatten(), nn.Linear(4 * 64, 4)
    )


class Kept(torch.optim.SGD):
    """Keeps the gradients of its last step."""

    def step(self, closure: Any = None) -> Any:
        self.gradients = [p.grad.clone() for p in self.param_groups[0]["params"]]
        return super().step(closure)


def train(
    model: nn.Module,
    *,
    accumulation: int = 1,
    dtype: str = "float32",
    steps: int = 1,
    max_grad_norm: float | None = None,
) -> tuple[list[Tensor], MixedPrecisionTrainer]:
    trainer = MixedPrecisionTrainer(
        MixedPrecisionConfig(dtype=dtype, accumulation_steps=accumulation, max_grad_norm=max_grad_norm)
    )
    optimizer = Kept(model.parameters(), lr=0.1)
    for x, y in batches(steps * accumulation):
        trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y)
    return optimizer.gradients, trainer


@pytest.mark.parametrize("kind", [FaultyForward, FaultyBackward])
@pytest.mark.parametrize(
    ("accumulation", "calls", "parts"),
    [(1, {1}, 2), (1, {1, 2}, 4), (1, {1, 2, 4}, 8), (1, {2}, 2), (4, {1}, 2), (4, {3}, 2), (4, {4, 7}, 4)],
)
def test_the_same_gradient_in_parts(kind: type[FaultyForward], accumulation: int, calls: set[int], parts: int) -> None:
    steps = 1 if accumulation > 1 or 1 in calls else 2
    expected, _ = train(net(), accumulation=accumulation, steps=steps)
    fault = Fault(calls)
    got, trainer = train(net(fault, kind), accumulation=accumulation, steps=steps)
    assert fault.calls > max(calls)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)
    assert trainer.control.parts == parts
    assert trainer.get_performance_summary()["memory_retries"] == len(calls)
    assert trainer.get_performance_summary()["performance"]["applied_steps"] == steps


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_narrow_formats_within_their_rounding(dtype: str) -> None:
    expected, _ = train(net(), dtype=dtype, max_grad_norm=0.1)
    got, trainer = train(net(Fault({1})), dtype=dtype, max_grad_norm=0.1)
    torch.testing.assert_close(got, expected, rtol=0.02, atol=1e-3)
    assert trainer.control.parts == 2


def test_a_loss_that_is_a_sum_stays_one() -> None:
    gradients = []
    for fault in (None, Fault({1})):
        model = net(fault)
        optimizer = Kept(model.parameters(), lr=0.1)
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
        outcome = trainer.train_step(model, optimizer, nn.CrossEntropyLoss(reduction="sum"), *batches(1)[0])
        gradients.append([*optimizer.gradients, outcome.loss_tensor])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_what_the_failed_try_left_behind_is_put_back() -> None:
    """Running statistics and random numbers: nothing of the try that failed stays."""
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 4))
    states = []
    for fault in (Fault(()), Fault({1})):
        model = copy.deepcopy(bare)
        model.insert(3, FaultyForward(fault))
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
        trainer.control.parts = 2 if not fault.at else 1  # what is compared with is cut from the start
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(3)
        trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), *batches(1)[0])
        states.append((model, torch.get_rng_state()))
    assert same_state(states[0][0], states[1][0]) == []
    assert torch.equal(states[0][1], states[1][1])


def test_it_stays_in_parts_afterwards() -> None:
    fault = Fault({1})
    _, trainer = train(net(fault), steps=3)
    assert fault.calls == 1 + 2 * 3
    assert trainer.control.memory_retries == 1


def test_three_tries_then_a_sentence() -> None:
    with pytest.raises(BitdialError, match=r"out of memory with micro-batches in 8 parts: CUDA out of memory.*lower"):
        train(net(Fault(range(1, 99))))


def test_a_batch_of_one_cannot_be_cut() -> None:
    model = net(Fault({1}))
    trainer, (x, y) = MixedPrecisionTrainer(MixedPrecisionConfig()), batches(1, size=1)[0]
    with pytest.raises(BitdialError, match="out of memory with micro-batches of 1 example "):
        trainer.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), x, y)


@pytest.mark.parametrize(
    "error",
    [lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"), lambda: KeyError("x"), KeyboardInterrupt],
)
def test_other_errors_are_never_swallowed(error: Callable[[], BaseException]) -> None:
    fault = Fault({1}, error)
    with pytest.raises(type(error())):
        train(net(fault))
    assert fault.calls == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: y"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory of things to say"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_an_error_that_only_the_parts_have_says_where_it_came_from() -> None:
    """A network that wants whole batches: its own error, and that it was called with halves."""

    class Whole(FaultyForward):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).view(8, 1, 64)

    model = nn.Sequential(Whole(Fault({1})), nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(RuntimeError, match="shape") as caught:
        train(model)
    assert "tried again in 2 parts" in caught.value.__notes__[0]


def test_real_memory_that_the_host_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's own error, not one that a test made up."""
    tries = []

    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tries.append(len(x))
            if len(x) > 4:
                torch.empty(2**60, dtype=torch.uint8)
            return x

    model = nn.Sequential(nn.Flatten(), Greedy(), nn.Linear(64, 4))
    _, trainer = train(model)
    assert tries == [8, 4, 4]
    assert trainer.control.parts == 2


class TestInTheOptimizer:
    def test_before_it_moved_anything_the_step_is_repeated(self) -> None:
        fault = Fault({1})

        class Hungry(torch.optim.Adam):
            def step(self, closure: Any = None) -> Any:
                fault()
                return super().step(closure)

        states = []
        for optimizer_class in (torch.optim.Adam, Hungry):
            model = net()
            trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
            optimizer = optimizer_class(model.parameters(), lr=0.01)
            for x, y in batches(3):
                trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y)
            states.append(list(model.parameters()))
        assert fault.calls == 4
        torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-5)

    def test_while_it_made_its_state(self) -> None:
        """Adam makes one moment after the other; what it made of them before memory ran out must not stay."""
        model, other = net(), net()
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(enabled=False))
        optimizer, plain = (torch.optim.Adam(each.parameters(), lr=0.01) for each in (model, other))
        fault, zeros = Fault({4}), torch.zeros_like

        def zeros_like(*args: Any, **kwargs: Any) -> Tensor:
            fault()
            return zeros(*args, **kwargs)

        x, y = batches(1)[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "zeros_like", zeros_like)
            trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y)
        nn.functional.cross_entropy(other(x), y).backward()
        plain.step()
        assert fault.calls > 4
        torch.testing.assert_close(list(model.parameters()), list(other.parameters()), rtol=1e-4, atol=1e-5)

    def test_in_the_middle_of_its_update_it_is_an_error(self) -> None:
        class Broken(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                with torch.no_grad():
                    self.param_groups[0]["params"][0].add_(1.0)
                raise torch.OutOfMemoryError("CUDA out of memory.")

        model = net()
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig())
        with pytest.raises(BitdialError, match=r"in the middle of the optimizer's update.*go on from the last"):
            trainer.train_step(model, Broken(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), *batches(1)[0])


class TestSplit:
    def test_tensors_in_whatever_holds_them(self) -> None:
        x, y = torch.arange(10).view(5, 2), torch.arange(5)
        batch = {"x": x, "more": [y, (x, "text")], "shared": torch.ones(3), "scale": torch.tensor(2.0), "n": 5}
        first, second = split(batch, 2)
        assert torch.equal(first["x"], x[:2])
        assert torch.equal(second["x"], x[2:])
        assert torch.equal(second["more"][0], y[2:])
        assert torch.equal(second["more"][1][0], x[2:])
        assert first["more"][1][1] == "text"
        assert len(first["shared"]) == 3, "no row of examples"
        assert first["scale"] == 2.0

    def test_rows_are_what_data_and_target_share(self) -> None:
        weights, x, y = torch.ones(3), torch.zeros(8, 2), torch.arange(8)
        ((first_weights, first_x), first_y), _ = split(((weights, x), y), 2)
        assert (len(first_weights), len(first_x), len(first_y)) == (3, 4, 4)
        assert [len(part[0]) for part in split((x, None, "criterion"), 2)] == [4, 4]

    @pytest.mark.parametrize(
        "batch", [(object(), torch.zeros(8)), (torch.zeros(8, 2), [{"boxes": torch.zeros(5, 4)}]), ("text", "text")]
    )
    def test_what_nobody_knows_how_to_cut_stays_whole(self, batch: Any) -> None:
        assert split(batch, 2) == [batch]

    def test_never_empty(self) -> None:
        assert [len(part) for part in split(torch.zeros(3, 2), 8)] == [1, 1, 1]
        assert [len(part) for part in split(torch.zeros(7), 4)] == [1, 2, 2, 2]
        assert split("text", 4) == ["text"]
