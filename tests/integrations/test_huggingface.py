"""In Hugging Face's Trainer the cycle runs as in a plain loop, also over a stop in mid-epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'bitdial[text]'")
pytest.importorskip("accelerate", reason="needs accelerate: pip install 'bitdial[text]'")

from bitdial.integrations import CyclicPrecisionTrainerCallback  # noqa: E402
from bitdial.layers import BitDial  # noqa: E402
from bitdial.recipes.cyclic import CyclicPrecisionConfig  # noqa: E402
from tests.integrations.tiny import (  # noqa: E402
    BATCHES,
    CYCLE,
    DECAY,
    MOMENTUM,
    RATE,
    SCALED,
    WIDTHS,
    assert_same_weights,
    batch,
    network,
    plain_loop,
    standing,
)


class Model(nn.Module):
    """A plain module that returns its loss, and notes the widths that each forward pass sees."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.seen: list[float] = []
        self.evaluated: list[float] = []

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        dial = BitDial(self.net)
        (self.seen if self.training else self.evaluated).append(sum(dial.weights) / len(dial))
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Rows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The batches of the plain loop, one after the other, over three epochs."""

    def __len__(self) -> int:
        return 3 * BATCHES * 6

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index >= len(self):
            raise IndexError
        x, y = batch(index // (6 * BATCHES), index // 6 % BATCHES)
        return {"x": x[index % 6], "labels": y[index % 6]}


class InOrder(transformers.Trainer):  # type: ignore[misc]
    """Reads the rows in their order."""

    def _get_train_sampler(self, *_: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)


def trainer(folder: Path, *callbacks: Any, model: nn.Module | None = None, **options: Any) -> Any:
    settings: dict[str, Any] = {"max_steps": 8, "save_strategy": "no", "logging_steps": 1, "report_to": "none"}
    fixed = {"per_device_train_batch_size": 6, "use_cpu": True, "disable_tqdm": True, "max_grad_norm": 0.0}
    arguments = transformers.TrainingArguments(str(folder), **(settings | fixed | options))
    model = model or Model()
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
    rows = Rows()
    return InOrder(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=torch.utils.data.Subset(rows, range(6)),
        callbacks=list(callbacks),
        optimizers=(optimizer, decay),
    )


def logged(of: Any, name: str) -> list[float]:
    return [row[name] for row in of.state.log_history if name in row]


@pytest.mark.parametrize("config", [CYCLE, SCALED], ids=["plain", "scaled rate"])
def test_trains_as_a_plain_loop_does(config: CyclicPrecisionConfig, tmp_path: Path) -> None:
    coach = trainer(tmp_path, CyclicPrecisionTrainerCallback(config), max_steps=13)
    coach.train()
    assert coach.model.seen == (WIDTHS * 3)[:13]
    assert_same_weights(coach.model.net, plain_loop(13, config))


def test_moves_once_an_optimizer_step_under_accumulation(tmp_path: Path) -> None:
    coach = trainer(tmp_path, CyclicPrecisionTrainerCallback(CYCLE), max_steps=4, gradient_accumulation_steps=3)
    coach.train()
    assert coach.model.seen == [8] * 6 + [4] * 6


@pytest.mark.parametrize("stop", [3, 15], ids=["mid-epoch", "epoch's end"])
def test_resumed_run_is_the_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    saving = {"max_steps": stop, "save_strategy": "steps", "save_steps": stop}
    first = trainer(tmp_path, CyclicPrecisionTrainerCallback(SCALED), **saving)
    first.train()
    second = trainer(tmp_path, CyclicPrecisionTrainerCallback(SCALED), max_steps=stop + 5)
    second.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
    whole = trainer(tmp_path, CyclicPrecisionTrainerCallback(SCALED), max_steps=stop + 5)
    whole.train()
    assert first.model.seen + second.model.seen == whole.model.seen == (WIDTHS * 4)[: stop + 5]
    assert_same_weights(second.model, whole.model)
    assert logged(second, "bits") == logged(whole, "bits")


def test_bits_and_rate_factor_stand_beside_the_loss(tmp_path: Path) -> None:
    coach = trainer(tmp_path, CyclicPrecisionTrainerCallback(SCALED))
    coach.train()
    assert logged(coach, "bits") == (WIDTHS * 2)[:8]
    assert logged(coach, "lr_scale") == pytest.approx([1, 1, 0.75, 0.75, 0.5, 0.5, 1, 1])
    assert len(logged(coach, "loss")) == 8
    assert "bits" not in coach.state.log_history[-1], "the summary at the end is not a step"


def test_learning_rate_schedule_never_sees_the_factor(tmp_path: Path) -> None:
    coach = trainer(tmp_path, CyclicPrecisionTrainerCallback(SCALED))
    coach.train()
    assert logged(coach, "learning_rate") == pytest.approx([RATE * DECAY**step for step in range(8)])


@pytest.mark.parametrize("given_too", [True, False])
def test_attached_it_comes_before_the_reporters(given_too: bool, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []

    class Reporter(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            rows.append(dict(logs))

    callback = CyclicPrecisionTrainerCallback(CYCLE)
    coach = trainer(tmp_path, Reporter(), *[callback] * given_too, max_steps=4)
    callback.attach(coach)
    coach.train()
    assert [row["bits"] for row in rows if "loss" in row] == WIDTHS[:4]
    assert sum(each is callback for each in coach.callback_handler.callbacks) == 1
    assert coach.model.seen == WIDTHS[:4]


@pytest.mark.parametrize(("given", "stands"), [(None, 8), (3, 3)])
@pytest.mark.parametrize("attached", [True, False])
def test_evaluation_checkpoints_and_the_end_stand_at_the_target_width(
    given: float | None, stands: float, attached: bool, tmp_path: Path
) -> None:
    callback = CyclicPrecisionTrainerCallback(CYCLE, target_bits=given)
    options = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "save_strategy": "steps"}
    coach = trainer(tmp_path, *[callback] * (not attached), max_steps=4, save_steps=1, **options)
    if attached:
        callback.attach(coach)
    coach.train()
    assert coach.model.evaluated == [stands] * 5
    assert logged(coach, "eval_bits") == [stands] * 5
    assert coach.model.seen == WIDTHS[:4]
    assert standing(coach.model) == stands
    from safetensors.torch import load_file

    files = list(tmp_path.glob("checkpoint-*/model.safetensors"))
    assert len(files) == 4
    for file in files:
        assert {float(value) for name, value in load_file(file).items() if name.endswith("weight_bits")} == {stands}


def test_best_model_that_is_loaded_at_the_end_stands_at_the_target_width(tmp_path: Path) -> None:
    foreign = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    coach = trainer(tmp_path, CyclicPrecisionTrainerCallback(CYCLE), max_steps=4, eval_steps=2, save_steps=2, **foreign)
    coach.train()
    assert coach.state.best_model_checkpoint is not None
    assert standing(coach.model) == 8


def test_two_callbacks_turn_two_parts(tmp_path: Path) -> None:
    other = CyclicPrecisionConfig(bit_width_pattern=[3, 5], cycle_length=4)
    both = [
        CyclicPrecisionTrainerCallback(CYCLE, module="net.encoder"),
        CyclicPrecisionTrainerCallback(other, module="net.head"),
    ]
    coach = trainer(tmp_path, *both, max_steps=7)
    coach.train()
    assert logged(coach, "bits/net.encoder") == (WIDTHS * 2)[:7]
    assert logged(coach, "bits/net.head") == [3, 3, 5, 5, 3, 3, 5]
    means = [(2 * a + b) / 3 for a, b in zip((WIDTHS * 2)[:7], [3, 3, 5, 5, 3, 3, 5], strict=True)]
    assert coach.model.seen == pytest.approx(means)


def test_same_trainer_trains_again_from_the_start(tmp_path: Path) -> None:
    coach = trainer(tmp_path, CyclicPrecisionTrainerCallback(CYCLE), max_steps=4)
    coach.train()
    coach.train()
    assert coach.model.seen == WIDTHS[:4] * 2


def test_pretrained_model_and_its_own_optimizer(tmp_path: Path) -> None:
    from bitdial import quantize

    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
    )
    torch.manual_seed(0)
    model = quantize(transformers.BertForSequenceClassification(config))
    rows = [{"input_ids": torch.tensor([1, i % 11, 3]), "labels": torch.tensor(i % 2)} for i in range(16)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=5, report_to="none", use_cpu=True, disable_tqdm=True, logging_steps=1, save_steps=5
    )
    callback = CyclicPrecisionTrainerCallback(SCALED)
    coach = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=[callback])
    coach.train()
    assert logged(coach, "bits") == WIDTHS[:5]
    assert logged(coach, "learning_rate") == pytest.approx([5e-5 * (1 - step / 5) for step in range(5)])
    loaded = quantize(transformers.BertForSequenceClassification(config))
    from safetensors.torch import load_file

    loaded.load_state_dict(load_file(tmp_path / "checkpoint-5" / "model.safetensors"))
    assert_same_weights(model, loaded)
    assert set(BitDial(loaded).weights) == {8}


def test_changed_config_on_resume_is_warned_of(tmp_path: Path) -> None:
    trainer(tmp_path, CyclicPrecisionTrainerCallback(CYCLE), max_steps=3, save_strategy="steps", save_steps=3).train()
    coach = trainer(tmp_path, CyclicPrecisionTrainerCallback(CyclicPrecisionConfig(bit_width_pattern=[6])), max_steps=5)
    with pytest.warns(UserWarning, match="has logged bits 4 at step 3, where this one gives 6; from step 3 on"):
        coach.train(resume_from_checkpoint=True)
    assert coach.model.seen == [6, 6]
