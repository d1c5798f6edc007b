"""In Lightning's Trainer the cycle runs as in a plain loop, also over a stop in mid-epoch."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pl = pytest.importorskip("lightning.pytorch", reason="needs the package lightning")

from lightning.pytorch.loggers import Logger  # noqa: E402
from lightning.pytorch.plugins.precision import MixedPrecision  # noqa: E402

from bitdial.integrations import CyclicPrecisionCallback  # noqa: E402
from bitdial.layers import BitDial  # noqa: E402
from bitdial.recipes.cyclic import CyclicPrecisionConfig  # noqa: E402
from tests.integrations.tiny import (  # noqa: E402
    CYCLE,
    DECAY,
    MOMENTUM,
    RATE,
    SCALED,
    WIDTHS,
    Loader,
    assert_same_weights,
    batch,
    network,
    plain_loop,
    standing,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Module(pl.LightningModule):
    """Notes the widths that each forward pass sees, in training and in validation."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = network() if net is None else net
        self.seen: list[float] = []
        self.validated: list[float] = []
        self.rates: list[float] = []

    def training_step(self, examples: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.seen.append(sum(BitDial(self.net).weights) / len(BitDial(self.net)))
        return nn.functional.cross_entropy(self.net(examples[0]), examples[1])

    def validation_step(self, examples: tuple[Tensor, Tensor], index: int) -> None:
        self.validated.append(standing(self.net))

    def on_train_batch_start(self, examples: Any, index: int) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), RATE, momentum=MOMENTUM)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, DECAY)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Rows(Logger):
    """Keeps what it is given."""

    name = version = "rows"

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step or 0, metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None: ...

    def column(self, name: str) -> list[float]:
        return [row[name] for _, row in self.rows if name in row]


def trainer(*callbacks: Any, steps: int = 8, **options: Any) -> Any:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    settings = {"accelerator": "cpu", "devices": 1, "logger": False, "max_steps": steps, "max_epochs": -1} | quiet
    return pl.Trainer(callbacks=list(callbacks), **(settings | options))


def fit(*callbacks: Any, module: Module | None = None, ckpt: Path | None = None, **options: Any) -> tuple[Module, Any]:
    module, coach = module or Module(), trainer(*callbacks, **options)
    coach.fit(module, Loader(), ckpt_path=ckpt, weights_only=True)
    return module, coach


class SaveAt(pl.Callback):
    """Saves after a step, from among the other callbacks."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("config", [CYCLE, SCALED], ids=["plain", "scaled rate"])
def test_trains_as_a_plain_loop_does(config: CyclicPrecisionConfig) -> None:
    module, _ = fit(CyclicPrecisionCallback(config), steps=13)
    assert module.seen == (WIDTHS * 3)[:13]
    assert_same_weights(module.net, plain_loop(13, config))


def test_moves_once_an_optimizer_step_under_accumulation() -> None:
    module, coach = fit(CyclicPrecisionCallback(CYCLE), steps=7, accumulate_grad_batches=2)
    # 5 batches an epoch: steps of 2, 2 and 1 of them.
    assert module.seen == [8, 8, 8, 8, 4, 4, 4, 2, 2, 2, 8, 8]
    assert coach.global_step == 7
    assert_same_weights(module.net, plain_loop(7, CYCLE, accumulate=2))


@pytest.mark.parametrize(
    ("stop", "saver"),
    [
        pytest.param(3, "checkpoint callback", id="mid-epoch"),
        pytest.param(5, "checkpoint callback", id="epoch's end"),
        pytest.param(8, "checkpoint callback", id="second epoch"),
        pytest.param(4, "before ours", id="saved by a callback before ours"),
        pytest.param(4, "after ours", id="saved by a callback after ours"),
    ],
)
def test_resumed_run_is_the_uninterrupted_one(stop: int, saver: str, tmp_path: Path) -> None:
    path = tmp_path / "stop.ckpt"

    def callbacks() -> list[Any]:
        ours = CyclicPrecisionCallback(SCALED)
        if saver == "checkpoint callback":
            return [ours, pl.callbacks.ModelCheckpoint(tmp_path, "stop", every_n_train_steps=stop)]
        return [ours, SaveAt(stop, path)] if saver == "after ours" else [SaveAt(stop, path), ours]

    options = {"enable_checkpointing": saver == "checkpoint callback"}
    before, _ = fit(*callbacks(), steps=stop, **options)
    after, _ = fit(*callbacks(), ckpt=path, steps=14, **options)
    assert before.seen + after.seen == (WIDTHS * 3)[:14]
    assert_same_weights(after.net, plain_loop(14, SCALED))


def test_interrupted_run_is_saved_clean_and_resumes(tmp_path: Path) -> None:
    class Interrupted(Module):
        def training_step(self, examples: Any, index: int) -> Tensor:
            if self.trainer.global_step == 4:  # inside the optimizer's step: Lightning passes this as its closure
                raise RuntimeError("pulled the plug")
            return super().training_step(examples, index)

    module = Interrupted()
    with pytest.raises(RuntimeError, match="plug"):
        fit(CyclicPrecisionCallback(SCALED), SaveAt(4, tmp_path / "4.ckpt"), module=module)
    assert standing(module) == 8
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(RATE * DECAY**4)  # type: ignore[union-attr]
    after, _ = fit(CyclicPrecisionCallback(SCALED), ckpt=tmp_path / "4.ckpt", steps=9)
    assert_same_weights(after.net, plain_loop(9, SCALED))


def test_logs_the_mean_bits_of_every_step() -> None:
    logger = Rows()
    fit(CyclicPrecisionCallback(SCALED), logger=logger, log_every_n_steps=1)
    assert logger.column("bits") == (WIDTHS * 2)[:8]
    assert logger.column("lr_scale") == pytest.approx([1, 1, 0.75, 0.75, 0.5, 0.5, 1, 1])


def test_mean_is_over_the_layers() -> None:
    logger = Rows()
    config = CyclicPrecisionConfig(
        bit_width_pattern=[8, 4, 2], cycle_length=3, layer_wise_cycling=True, layer_cycle_offset=1
    )
    callback = CyclicPrecisionCallback(config)
    module, _ = fit(callback, logger=logger, log_every_n_steps=1, steps=1)
    assert callback.bits == [8, 4, 2]
    assert logger.column("bits") == pytest.approx(module.seen) == [pytest.approx(14 / 3)]


def test_learning_rate_schedule_never_sees_the_factor() -> None:
    module, _ = fit(CyclicPrecisionCallback(SCALED))
    assert module.rates == pytest.approx([RATE * DECAY**step for step in range(8)])


@pytest.mark.parametrize(("given", "stands"), [(None, 8), (3, 3)])
def test_validation_checkpoints_and_the_end_stand_at_the_target_width(
    given: float | None, stands: float, tmp_path: Path
) -> None:
    module, logger, callback = Module(), Rows(), CyclicPrecisionCallback(CYCLE, target_bits=given)
    saver = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, save_weights_only=True)
    coach = trainer(callback, saver, logger=logger, val_check_interval=2, enable_checkpointing=True)
    coach.fit(module, Loader(), torch.utils.data.DataLoader([batch(9, 0)], batch_size=None))
    assert set(module.validated) == {stands}
    assert len(module.validated) >= 4
    assert set(logger.column("val_bits")) == {stands}
    assert standing(module) == stands
    assert module.seen == (WIDTHS * 2)[:8]
    files = list(tmp_path.glob("*.ckpt"))
    assert len(files) == 8
    for file in files:
        weights = torch.load(file, weights_only=True)["state_dict"]
        assert {float(value) for name, value in weights.items() if name.endswith("weight_bits")} == {stands}


def test_an_average_of_weights_is_validated_at_the_widths_of_the_model() -> None:
    module, average = Module(), pl.callbacks.EMAWeightAveraging(decay=0.6)
    before = module.net[0][0].weight.detach().clone()
    coach = trainer(CyclicPrecisionCallback(CYCLE, target_bits=3), average, val_check_interval=2)
    coach.fit(module, Loader(), torch.utils.data.DataLoader([batch(9, 0)], batch_size=None))
    assert set(module.validated) == {3}
    assert set(module.seen) <= set(WIDTHS)
    assert standing(module) == 3
    assert not torch.equal(module.net[0][0].weight, before)


def test_skipped_steps_count_and_are_not_scaled() -> None:
    class Overflowing(Module):
        def training_step(self, examples: Any, index: int) -> Tensor:
            loss = super().training_step(examples, index)
            return loss * float("inf") if self.trainer.global_step == 2 else loss

    module = Overflowing()
    weights: list[list[Tensor]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            weights.append([each.detach().clone() for each in module.net.parameters()])

    half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0))
    _, coach = fit(CyclicPrecisionCallback(SCALED), Watch(), module=module, plugins=[half], steps=6)
    assert all(torch.equal(a, b) for a, b in zip(weights[1], weights[2], strict=True))
    assert not torch.equal(weights[2][0], weights[3][0])
    assert coach.global_step == 6
    assert module.seen == WIDTHS
    assert module.rates == pytest.approx([RATE * DECAY**step for step in range(6)])


def test_two_callbacks_turn_two_parts_and_resume_apart(tmp_path: Path) -> None:
    other = CyclicPrecisionConfig(bit_width_pattern=[3, 5], cycle_length=4)

    def both() -> list[CyclicPrecisionCallback]:
        return [CyclicPrecisionCallback(CYCLE, module="net.encoder"), CyclicPrecisionCallback(other, module="net.head")]

    logger, path = Rows(), tmp_path / "both.ckpt"
    whole, _ = fit(*both(), logger=logger, log_every_n_steps=1, steps=7)
    assert logger.column("bits/net.encoder") == (WIDTHS * 2)[:7]
    assert logger.column("bits/net.head") == [3, 3, 5, 5, 3, 3, 5]
    fit(*both(), SaveAt(3, path), steps=3)
    states = torch.load(path, weights_only=True)["callbacks"]
    assert {"CyclicPrecisionCallback[net.encoder]", "CyclicPrecisionCallback[net.head]"} <= set(states)
    resumed, _ = fit(*both(), ckpt=path, steps=7)
    assert_same_weights(whole.net, resumed.net)


def test_manual_optimization_counts_every_optimizer_step() -> None:
    class Manual(Module):
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, examples: Any, index: int) -> None:  # type: ignore[override]
            loss = super().training_step(examples, index)
            self.manual_backward(loss)
            self.optimizers().step()  # type: ignore[union-attr]
            self.optimizers().zero_grad()  # type: ignore[union-attr]
            self.lr_schedulers().step()  # type: ignore[union-attr]

    module, _ = fit(CyclicPrecisionCallback(SCALED), module=Manual(), steps=8)
    assert module.seen == (WIDTHS * 2)[:8]
    assert_same_weights(module.net, plain_loop(8, SCALED))


def test_one_callback_serves_two_fits_from_the_start() -> None:
    callback = CyclicPrecisionCallback(SCALED)
    first, _ = fit(callback, steps=4)
    second, _ = fit(callback, steps=4)
    assert first.seen == second.seen == WIDTHS[:4]
    assert_same_weights(first.net, second.net)


def test_state_makes_the_round_trip() -> None:
    callback, other = CyclicPrecisionCallback(CYCLE), CyclicPrecisionCallback(CYCLE)
    fit(callback, steps=5)
    state = callback.state_dict()
    assert state["iteration"] == 5
    other.load_state_dict(copy.deepcopy(state))
    assert other.state_dict() == state


def test_lightning_keeps_its_log_method() -> None:
    callback = CyclicPrecisionCallback(CYCLE)
    module, _ = fit(callback, steps=1)
    assert callback.log == module.log


def test_barebones_trainer_gets_no_logs_and_no_warning() -> None:
    coach = pl.Trainer(barebones=True, accelerator="cpu", devices=1, max_steps=3, callbacks=[])
    coach.callbacks.append(CyclicPrecisionCallback(CYCLE))
    module = Module()
    coach.fit(module, Loader())
    assert module.seen == WIDTHS[:3]


@pytest.mark.slow
def test_two_processes_have_the_same_bits_and_weights(tmp_path: Path) -> None:
    # A fresh Python, because the processes import by name what they are sent.
    command = [sys.executable, "-m", "tests.integrations.two_processes", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("bits")
    assert [float(row.split(",")[column]) for row in rows[1:]] == (WIDTHS * 2)[:9]
    assert {(tmp_path / f"bits-{rank}").read_text() for rank in range(2)} == {str([float(w) for w in (WIDTHS * 2)[:9]])}
    # Both processes read the same batches, so that the mean gradient is that of one.
    weights = torch.load(tmp_path / "9.ckpt", weights_only=True)["state_dict"]
    for name, expected in plain_loop(9, SCALED).named_parameters():
        assert torch.equal(weights[f"net.{name}"], expected)
