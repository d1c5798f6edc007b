"""Training methods: at which widths the passes of a step are, and what each of them learns from."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.errors import BitdialError
from bitdial.layers import BitDial, cost, quantize
from bitdial.models import build_model
from bitdial.recipes.joint.methods import InPasses, Turn, Turns, plan
from bitdial.recipes.joint.options import JointConfig, TrainingMethod
from bitdial.training import Classification, Task, TaskOutput
from bitdial.training.step.memory import split

METHODS = get_args(TrainingMethod)


def turns(step: int = 0, layers: int = 5, seed: int = 0, **options: Any) -> Turns:
    return plan(JointConfig(**{"bitwidth_options": [2, 8, 4], **options}), layers, seed)(step)


class TestPlan:
    def test_joint_quantization_draws_a_width_for_each_layer_and_pass(self) -> None:
        drawn = [turns(step, joint_quantization_batch_size=3) for step in range(40)]
        seen = [width for step in drawn for turn in step for width in turn.widths]
        assert (len(drawn[0]), len(drawn[0][0].widths), set(seen)) == (3, 5, {2, 4, 8})
        assert all(abs(seen.count(width) / len(seen) - 1 / 3) < 0.08 for width in (2, 4, 8))
        assert not any(turn.taught for step in drawn for turn in step)

    def test_any_precision_goes_down_and_all_but_the_widest_are_taught(self) -> None:
        found = turns(training_method="any_precision")
        assert [turn.widths for turn in found] == [(8.0,) * 5, (4.0,) * 5, (2.0,) * 5]
        assert [turn.taught for turn in found] == [False, True, True]

    def test_alternating_takes_one_width_a_step_from_the_widest_down(self) -> None:
        found = [turns(step, training_method="alternating") for step in range(4)]
        assert found == [(Turn((width,) * 5),) for width in (8.0, 4.0, 2.0, 8.0)]

    def test_a_sandwich_has_both_ends_and_two_random_passes(self) -> None:
        found = [turns(step, training_method="sandwich") for step in range(9)]
        assert all([turn.widths for turn in step[:2]] == [(8.0,) * 5, (2.0,) * 5] for step in found)
        assert all(len(step) == 4 for step in found)
        assert len({turn.widths for step in found for turn in step[2:]}) > 9

    def test_matryoshka_weighs_each_width_and_the_weights_have_the_mean_1(self) -> None:
        found = turns(training_method="matryoshka", loss_weights=[3, 1, 2])
        assert [(turn.widths[0], turn.weight) for turn in found] == [(8.0, 0.5), (4.0, 1.0), (2.0, 1.5)]
        assert {turn.weight for turn in turns(training_method="matryoshka")} == {1.0}

    def test_vanilla_is_one_pass_at_the_widest(self) -> None:
        assert turns(training_method="vanilla_single_precision_training") == (Turn((8.0,) * 5),)

    @pytest.mark.parametrize("method", METHODS)
    def test_the_same_again(self, method: str) -> None:
        one, again = ([turns(step, training_method=method) for step in range(9)] for _ in range(2))
        assert one == again

    @pytest.mark.parametrize("method", ["joint_quantization", "sandwich"])
    def test_another_for_another_seed_and_step(self, method: str) -> None:
        one, other = ([turns(step, training_method=method, seed=seed) for step in range(9)] for seed in (0, 1))
        assert one != other
        assert one[0] != one[1]


def network() -> tuple[nn.Module, BitDial]:
    torch.manual_seed(0)
    model = quantize(build_model("mlp", num_classes=10, in_channels=1, image_size=8), skip=())
    return model, BitDial(model)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6)


def gradient(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_losses_and_cost_are_those_of_the_passes_by_hand() -> None:
    model, dial = network()
    widths = [(2.0, 8.0, 4.0), (8.0, 4.0, 2.0)]
    task = InPasses(Classification(), dial, tuple(map(Turn, widths)))
    ours = [task.loss(model, item) for item in task.passes(batch())]
    plain = []
    for each in widths:
        dial.set(list(each))
        plain.append(Classification().loss(model, batch()))
    assert [found.loss.item() for found in ours] == [found.loss.item() for found in plain]
    assert plain[0].loss != plain[1].loss
    ledger = cost(model, batch()[0][:1])
    assert ledger.step_bitops(widths[0], widths[0]).total != ledger.step_bitops(widths[1], widths[1]).total


def test_each_width_learns_from_the_next_wider_one_by_hand() -> None:
    """The paper's algorithm, written out: cross-entropy at the widest, soft cross-entropy to the one before below."""
    model, dial = network()
    task = InPasses(Classification(), dial, turns(layers=3, training_method="any_precision"))
    ours = [gradient(model, task.loss(model, item).loss) for item in task.passes(batch())]
    x, y = batch()
    taught: Tensor | None = None
    for bits, found in zip((8, 4, 2), ours, strict=True):
        dial.set(bits)
        logits = model(x)
        if taught is None:
            loss = functional.cross_entropy(logits, y)
        else:
            loss = -(taught.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        for one, other in zip(found, gradient(model, loss), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        taught = logits.detach()


def test_weights_of_losses() -> None:
    model, dial = network()
    task = InPasses(Classification(), dial, (Turn((4.0,) * 3), Turn((4.0,) * 3, weight=0.25)))
    one, quarter = (task.loss(model, item).loss for item in task.passes(batch()))
    assert quarter == one / 4


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_a_batch_in_parts_learns_from_the_predictions_for_its_own_examples(parts: int) -> None:
    """As the loop does it again for want of memory: every pass in parts, from the start of the step."""
    model, dial = network()
    model(batch()[0])
    model.eval()  # else the range of activations is that of a part
    task = InPasses(Classification(), dial, turns(layers=3, training_method="any_precision"))
    items = task.passes(batch())
    whole = [task.loss(model, item).loss for item in items]
    task.loss(model, split(items[0], 2)[0])  # what was left when memory ran out
    again = [[task.loss(model, part) for part in split(item, parts)] for item in items]
    for one, cut in zip(whole, again, strict=True):
        mean = torch.stack([output.loss * output.examples for output in cut]).sum() / 6
        torch.testing.assert_close(mean, one)


def test_examples_that_do_not_count_teach_nothing() -> None:
    model, dial = network()
    task = InPasses(Classification(), dial, turns(layers=3, training_method="any_precision"))
    x, y = batch()
    counted = [task.loss(model, item).loss for item in task.passes((x[:4], y[:4]))]
    y = torch.cat([y[:4], torch.tensor([-100, -100])])
    for one, other in zip(counted, [task.loss(model, item).loss for item in task.passes((x, y))], strict=True):
        torch.testing.assert_close(one, other)


class Regression(Task):
    """One number for each input."""

    metric = "loss"
    higher_is_better = False

    def examples(self, batch: Any) -> int:
        return len(batch[0])

    def logits(self, model: nn.Module, batch: Any) -> Tensor:
        found: Tensor = model(batch[0])[:, :1]
        return found

    def loss_of(self, logits: Tensor, batch: Any) -> TaskOutput:
        return TaskOutput((logits[:, 0] - batch[1].float()).square().mean(), len(batch[0]))


@pytest.mark.parametrize("method", METHODS)
def test_tasks_without_classes_train_or_get_a_sentence(method: str) -> None:
    model, dial = network()
    task = InPasses(Regression(), dial, turns(layers=3, training_method=method))
    if method == "any_precision":
        with pytest.raises(BitdialError, match=r"expected logits \[N, classes\], got \[6, 1\]; take .* sandwich"):
            task.loss(model, task.passes(batch())[0])
    else:
        assert all(task.loss(model, item).loss > 0 for item in task.passes(batch()))
