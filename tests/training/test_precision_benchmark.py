"""The benchmark of mixed precision: what it counts, what it leaves untouched, what it says, what it refuses."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bitdial.errors import BitdialError
from bitdial.training import random_state
from bitdial.training.mixed_precision import MixedPrecisionBenchmark, benchmark_mixed_precision
from bitdial.training.mixed_precision import benchmark as module
from bitdial.training.mixed_precision.benchmark import Row, kept_bytes, quartiles

BATCH, WIDTH, CLASSES = 16, 32, 4


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(8, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(), nn.Linear(WIDTH, CLASSES))


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, 8), torch.randint(CLASSES, (BATCH,))


def test_everything_it_measures_is_there_in_both_forms() -> None:
    rounds: list[int] = []
    result = benchmark_mixed_precision(network(), data(), 4, dtype="bfloat16", on_round=rounds.append)
    assert rounds == [1, 2, 3, 4]
    assert (result.dtype, result.device, result.iterations, result.batch_size) == ("bfloat16", "cpu", 4, BATCH)
    assert [row.name for row in result.rows] == ["float32", "bfloat16"]
    assert all(0 < row.quartiles[0] <= row.seconds <= row.quartiles[1] for row in result.rows)
    assert result.speedup_quartiles[0] <= result.speedup <= result.speedup_quartiles[1]
    assert {"speedup", "speed_improvement_percent", "memory_savings_percent", "verdict", "pays"} <= {*result}
    assert all(result[name] == getattr(result, name) for name in result)
    assert len(dict(result)) == len(result)
    with pytest.raises(KeyError):
        result["speed"]


def test_json_holds_the_same() -> None:
    result = benchmark_mixed_precision(network(), data(), 2, dtype="bfloat16")
    read = json.loads(json.dumps(result.to_dict()))
    assert read.keys() == {*result}
    assert read["speedup"] == result.speedup
    assert [row["name"] for row in read["rows"]] == ["float32", "bfloat16"]
    assert read["rows"][0]["memory_bytes"] == result.rows[0].memory_bytes


def test_it_leaves_model_gradients_buffers_data_and_random_state_as_they_are() -> None:
    model, (x, y) = network().eval(), data()
    model(x).sum().backward()
    model[0].weight.requires_grad_(False)
    state, gradient = copy.deepcopy(model.state_dict()), model[4].weight.grad
    kept, x_before, randomness = gradient.clone(), x.clone(), random_state()
    benchmark_mixed_precision(model, (x, y), 2, dtype="float16")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model[4].weight.grad is gradient
    assert torch.equal(gradient, kept)
    assert not any(each.training for each in model.modules())
    assert not model[0].weight.requires_grad
    assert torch.equal(x, x_before)
    after = random_state()
    assert torch.equal(after["torch"], randomness["torch"])
    assert torch.equal(after["python"]["words"], randomness["python"]["words"])


def test_a_shuffled_loader_draws_nothing_from_the_random_state() -> None:
    x, y = torch.randn(64, 8), torch.randint(CLASSES, (64,))
    model, loader = network(), DataLoader(TensorDataset(x, y), 16, shuffle=True)
    before = torch.get_rng_state()
    result = benchmark_mixed_precision(model, loader, 2, dtype="bf16")
    assert torch.equal(torch.get_rng_state(), before)
    assert result.batch_size == 16


def test_both_ways_take_turns_on_the_same_batches_of_an_iterable() -> None:
    seen: list[float] = []

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(float(x[0, 0]))
            return super().forward(x)

    given = 0

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal given
        while True:
            yield torch.full((4, 8), float(given)), torch.zeros(4, dtype=torch.int64)
            given += 1

    benchmark_mixed_precision(Watched(8, CLASSES), batches(), 6, dtype="bfloat16")
    assert given < module.BATCHES + 1
    rounds = seen[-12:]
    assert rounds[::2] == rounds[1::2], "in every round both see the same batch"
    assert len(set(rounds)) == 6


def test_steps_are_training_steps_in_the_format(monkeypatch: pytest.MonkeyPatch) -> None:
    formats: list[torch.dtype] = []
    modes: list[bool] = []
    made: list[torch.optim.Optimizer] = []

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        formats.append(output.dtype)
        return nn.functional.cross_entropy(output, target)

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(x)

    def factory(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(parameters, lr=1.0))
        return made[-1]

    model = Watched(8, CLASSES).eval()
    benchmark_mixed_precision(model, data(), 3, dtype="float16", criterion=criterion, optimizer=factory)
    assert set(formats) == {torch.float32, torch.float16}
    assert formats.count(torch.float32) == formats.count(torch.float16)
    assert all(modes)
    assert len(made) == 2
    for each in made:
        trained = each.param_groups[0]["params"][0]
        assert trained.dtype == torch.float32
        assert not torch.equal(trained, model.weight)


def test_float8_converts_the_copy_and_computes_the_rest_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the conversion is replaced: what is real of it is tested with torchao, and runs on a GPU."""
    converted: list[nn.Module] = []
    formats: list[torch.dtype] = []

    def criterion(output: Tensor, target: Tensor) -> Tensor:
        formats.append(output.dtype)
        return nn.functional.cross_entropy(output, target)

    monkeypatch.setattr(module, "check_device", lambda dtype, device: None)
    monkeypatch.setattr(module, "convert_to_float8", converted.append)
    model = nn.Linear(8, CLASSES)
    result = benchmark_mixed_precision(model, data(), 2, dtype="float8", criterion=criterion)
    assert result.dtype == "float8"
    assert len(converted) == 1
    assert converted[0] is not model
    assert set(formats) == {torch.float32, torch.bfloat16}


def test_floating_point_targets_are_regressed() -> None:
    result = benchmark_mixed_precision(nn.Linear(8, 2), (torch.randn(4, 8), torch.randn(4, 2)), 1, dtype="bfloat16")
    assert result.iterations == 1


def test_labels_of_any_whole_dtype() -> None:
    inputs, labels = torch.randn(4, 8), torch.tensor([0, 1, 1, 0], dtype=torch.int32)
    assert benchmark_mixed_precision(nn.Linear(8, 2), (inputs, labels), 1, dtype="bfloat16").iterations == 1


def test_steps_that_the_scaler_skips_are_counted() -> None:
    def overflowing(output: Tensor, target: Tensor) -> Tensor:
        return output.sum() * 1e6

    result = benchmark_mixed_precision(nn.Linear(8, 2), data(), 5, dtype="float16", criterion=overflowing)
    assert result.rows[0].skipped_steps == 0
    assert result.rows[1].skipped_steps == 5
    assert "5 of 5 steps overflowed and were skipped" in result.verdict


class TestMemory:
    def test_what_autograd_keeps_of_a_layer_counted_by_hand(self) -> None:
        layer, x = nn.Linear(8, 4), torch.ones(16, 8)
        with kept_bytes(layer) as kept:
            layer(x).sum()
        assert sum(kept.values()) == 16 * 8 * 4, "the input; the weight is a parameter"

    def test_storages_are_counted_once(self) -> None:
        x = torch.ones(16, 8, requires_grad=True)
        with kept_bytes(nn.Identity()) as kept:
            ((x * x) + x.view(8, 16).t().mul(x).exp()).sum()
        assert sum(kept.values()) == 2 * 16 * 8 * 4, "x and its views once, and the exponential"

    def test_buffers_are_not_counted_and_gradients_are_right(self) -> None:
        norm, x = nn.BatchNorm1d(8), torch.randn(16, 8)
        plain = copy.deepcopy(norm)
        plain(x).pow(2).sum().backward()
        with kept_bytes(norm) as kept:
            loss = norm(x).pow(2).sum()
        loss.backward()
        assert torch.allclose(norm.weight.grad, plain.weight.grad)
        saved_statistics = 2 * 8 * 4
        assert sum(kept.values()) == 2 * (16 * 8 * 4) + saved_statistics, "input, output squared, mean and deviation"

    def test_sparse_tensors_count_too(self) -> None:
        x = torch.eye(4).to_sparse()
        weight = torch.ones(4, 4, requires_grad=True)
        with kept_bytes(nn.Identity()) as kept:
            torch.sparse.mm(x, weight)
        assert sum(kept.values()) > 0

    def test_half_the_width_is_half_the_activations(self) -> None:
        """A wide batch through small layers: activations outweigh the copies of weights."""
        model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 4, bias=False))
        examples = 4096
        batch = torch.randn(examples, 8), torch.zeros(examples, dtype=torch.int64)
        result = benchmark_mixed_precision(model, batch, 1, dtype="bfloat16")
        targets, weights = 8 * examples, (64 + 32) * 2  # nobody needs the gradient of the first layer's input
        log_probabilities, total_weight = 4 * 4 * examples, 4  # cross-entropy is in float32 in both
        always = targets + log_probabilities + total_weight
        assert result.memory_kind == "kept for the backward pass"
        assert result.rows[0].memory_bytes == 3 * 8 * 4 * examples + always
        assert result.rows[1].memory_bytes == 3 * 8 * 2 * examples + weights + always
        saved = 1 - result.rows[1].memory_bytes / result.rows[0].memory_bytes
        assert result["memory_savings_percent"] == pytest.approx(100 * saved)


def found(
    speedup: float, low: float, high: float, *, memory: int = 100, dtype: str = "bfloat16", skipped: int = 0
) -> Any:
    rows = (Row("float32", 1.0, (1.0, 1.0), 100), Row(dtype, 1.0, (1.0, 1.0), memory, skipped))
    return MixedPrecisionBenchmark(dtype, "cpu", 20, 8, rows, speedup, (low, high), "kept for the backward pass")


class TestVerdict:
    @pytest.fixture(autouse=True)
    def formats(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A processor with bfloat16 and without float16."""
        monkeypatch.setattr("bitdial.training.step.formats.good_at_bfloat16", lambda _: True)
        monkeypatch.setattr("bitdial.training.step.formats.good_at_float16", lambda _: False)

    @pytest.mark.parametrize(
        ("result", "pays", "says"),
        [
            (
                found(2.0, 1.8, 2.1),
                True,
                "bfloat16 are 2.00 times as fast as in float32 (quartiles 1.80-2.10)",
            ),
            (found(2.0, 1.8, 2.1, memory=150), True, "is 50% more. It pays here."),
            (found(1.0, 0.98, 1.02, memory=60), True, "is 40% less. It pays here in memory, not in time."),
            (found(1.0, 0.98, 1.02), False, "Steps take about as long in bfloat16 as in float32"),
            (found(1.0, 0.98, 1.02), False, "Memory kept for the backward pass is the same."),
            (found(1.0, 0.98, 1.02, memory=95), False, "It does not pay here: stay in float32."),
            (found(1.02, 1.01, 1.03), False, "about as long"),
            (found(0.8, 0.6, 1.0, memory=50), False, "It does not pay here"),
            (found(0.5, 0.4, 0.6, memory=50), False, "take 2.00 times as long as in float32 (quartiles 1.67-2.50)."),
            (found(0.1, 0.1, 0.1, dtype="float16"), False, "this device has no float16 arithmetic of its own."),
            (found(0.1, 0.1, 0.1, dtype="float16"), False, "stay in float32, or try bfloat16, which is native here."),
            (found(2.0, 2.0, 2.0, skipped=3), True, "3 of 20 steps overflowed"),
        ],
    )
    def test_words(self, result: MixedPrecisionBenchmark, pays: bool, says: str) -> None:
        assert result.pays is pays
        assert says in result.verdict
        assert ("It pays here" in result.verdict) is pays

    def test_few_skipped_steps_are_not_worth_a_word(self) -> None:
        assert "skipped" not in found(2.0, 2.0, 2.0, skipped=2).verdict

    def test_percentages(self) -> None:
        result = found(1.25, 1.2, 1.3, memory=60)
        assert result.speed_improvement_percent == pytest.approx(25)
        assert result.memory_savings_percent == pytest.approx(40)

    def test_quartiles(self) -> None:
        assert quartiles([5.0]) == (5.0, 5.0, 5.0)
        assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_tf32_is_put_back_as_it_was() -> None:
    places: Any = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [place.fp32_precision for place in places]

    def fail(on: bool, name: str) -> None:
        with module._tf32(on):
            assert [place.fp32_precision for place in places] == [name, name]
            raise KeyError

    for on, name in ((True, "tf32"), (False, "ieee")):
        with pytest.raises(KeyError):
            fail(on, name)
        assert [place.fp32_precision for place in places] == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.9 says that this switch is an old one
        torch.backends.cuda.matmul.allow_tf32  # noqa: B018  (torch refuses to answer after a mix of its two switches)


def test_a_gpu_also_shows_float32_with_tf32_off_and_on() -> None:
    names = list(module.ways(torch.float16, torch.device("cuda")))
    assert names == ["float32", "float16", "float32, TF32 off", "float32, TF32 on"]


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("holds a lock")


class OutOfMemory(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"model": "resnet18"}, "model must be a torch.nn.Module, got str"),
    ({"model": nn.ReLU()}, "model must have parameters"),
    ({"model": nn.Linear(8, 4, device="meta")}, "got one on the meta device"),
    ({"model": Uncopyable(8, 4)}, "deepcopy can copy, got: holds a lock"),
    ({"model": OutOfMemory(8, 4)}, "memory ran out with a batch of 16"),
    ({"model": nn.Linear(9, 4)}, "the network cannot train on inputs of shape [16, 8]"),
    ({"model": nn.Linear(8, 2)}, "the criterion cannot compare an output of"),  # labels up to 3
    (
        {"data": torch.ones(4, 8)},
        "must be a pair (inputs, targets) of tensors or an iterable of such pairs, got Te",
    ),
    ({"data": 7}, "got int"),
    ({"data": None}, "got NoneType"),
    ({"data": "digits"}, "got str"),
    ({"data": {"x": 1}}, "got dict"),
    ({"data": []}, "got one that gives nothing"),
    ({"data": [torch.ones(4, 8)]}, "got a Tensor in it"),
    ({"data": [(torch.ones(4, 8), [0, 1, 2, 3])]}, "got a tuple in it"),
    ({"data": (torch.ones(0, 8), torch.ones(0))}, "got a Tensor in it"),
    ({"num_iterations": 0}, "num_iterations must be a whole number from 1 up, got 0"),
    ({"num_iterations": 2.5}, "got 2.5"),
    ({"num_iterations": True}, "got True"),
    ({"dtype": "float32"}, "dtype must be a format to compare with float32, got float32 itself"),
    ({"dtype": "float8"}, "float8 needs an NVIDIA GPU"),
    ({"dtype": "bfloat61"}, "did you mean 'bfloat16'"),
    ({"device": "cdua"}, "device must be a device's name"),
    ({"criterion": lambda output, target: output}, "the network cannot train"),  # no scalar
    ({"criterion": lambda output, target: 3.0}, "the network cannot train"),
    ({"optimizer": lambda parameters: None}, "got a function that made a NoneType"),
    ({"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)}, "the network cannot train"),
]


@pytest.mark.parametrize(("named", "says"), BAD, ids=[f"{next(iter(named))}-{says}" for named, says in BAD])
def test_bad_arguments(named: dict[str, Any], says: str) -> None:
    torch.manual_seed(0)
    given = {"model": nn.Linear(8, CLASSES), "data": data(), "num_iterations": 2, "dtype": "bfloat16", **named}
    before = torch.get_rng_state()
    with pytest.raises(BitdialError) as caught:
        benchmark_mixed_precision(given.pop("model"), given.pop("data"), **given)
    assert says in str(caught.value)
    assert torch.equal(torch.get_rng_state(), before)
