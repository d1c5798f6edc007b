"""The three phases over all seeds: cyclic training, static fine-tunes, and the arms that they are compared with.

Every arm is seeded on its own, so that an arm that was finished before a stop need not run again for the next one to
come out the same; one that was stopped in its middle goes on from its newest sound checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation import ArmResult, WidthScore
from bitdial.evaluation.files import write_atomically
from bitdial.layers import BitDial
from bitdial.recipes.assembly import named, rehearse
from bitdial.recipes.cyclic.arms import ABLATION, BASELINE, CPT, Arm, ablation_schedule, plan_arms
from bitdial.recipes.cyclic.config import (
    CyclicPrecisionConfig,
    CyclicTrainingConfig,
    ExperimentOptions,
    ModelConfig,
    StaticPrecisionConfig,
)
from bitdial.recipes.cyclic.matched import batches_in_step, matched_steps, schedule_bitops
from bitdial.recipes.cyclic.phase import Loaders, PhaseResult, PhaseSetup, release_memory, target_widths
from bitdial.recipes.cyclic.train import (
    evaluate_cyclic_training,
    ledger_of,
    prepare_model,
    train_with_cpt,
    train_with_static_precision,
)
from bitdial.training import MetricsLog, Progress, seed_everything
from bitdial.training.checkpoint import CheckpointManager

ARM_FILE = "arm.json"


@dataclass(frozen=True)
class Experiment:
    """What is trained, on what, and how.

    Attributes:
        make_model: builds the network, unquantized; torch is seeded before it is called.
        make_loaders: seed -> the data, its order a function of the seed.
        model, training, precision, static, experiment: the configuration.
        seeds: one run of every arm for each.
        setup: devices and settings that all arms share.
        folder: the run's folder for logs and checkpoints; None writes nothing.
        show_progress: whether to show a live line for each arm.
    """

    make_model: Callable[[], nn.Module]
    make_loaders: Callable[[int], Loaders]
    model: ModelConfig
    training: CyclicTrainingConfig
    precision: CyclicPrecisionConfig
    static: StaticPrecisionConfig
    experiment: ExperimentOptions
    seeds: Sequence[int]
    setup: PhaseSetup = field(default_factory=PhaseSetup)
    folder: Path | None = None
    show_progress: bool = False

    def __post_init__(self) -> None:
        if self.training.distillation_alpha > 0 and not self.static.compare_to_baseline:
            raise BitdialError(
                f"distillation_alpha is {self.training.distillation_alpha:g}, expected static.compare_to_baseline with "
                "it: the unquantized baseline is the teacher; switch it on, or set distillation_alpha to 0"
            )
        rungs, steps = len(set(self.model.bit_widths)), self.training.num_static_iterations
        if "progressive" in self.static.test_configurations.values() and steps < rungs:
            raise BitdialError(
                f"num_static_iterations must be at least {rungs}, one for each width that a progressive configuration "
                f"steps down, got {steps}"
            )

    def run(self) -> list[ArmResult]:
        """Train and measure every arm with every seed.

        Raises:
            BitdialError: the configuration, the data or a checkpoint is at fault, or a loss is not finite.
            RunInterrupted: stopped on request, after saving.
        """
        arms = plan_arms(self.model, self.static, self.experiment)
        results: list[ArmResult] = []
        for seed in self.seeds:
            trained: dict[str, nn.Module] = {}
            done: dict[str, ArmResult] = {}
            for number, arm in enumerate(arms, start=1):
                position = f"{number}/{len(arms)}" + (f", seed {seed}" if len(self.seeds) > 1 else "")
                label = f"{arm.name} ({position})"
                with named(label, self.setup.how_to_resume, saved=self.folder is not None):
                    done[arm.name] = self._run_arm(arm, seed, done, trained, label)
                release_memory()
            results += done.values()
        return results

    def rehearse(self) -> None:
        """Find now what would only be found when training starts: let a new network see two examples of its data.

        Raises:
            BitdialError: the network cannot be quantized, or cannot train on the data.
        """
        seed = self.seeds[0]
        model, loaders = self.new_model(seed), self.make_loaders(seed)
        rehearse(model, loaders.train, self.setup.task)

    def new_model(self, seed: int) -> nn.Module:
        """The quantized network with the weights that a seed gives it."""
        seed_everything(seed)
        return prepare_model(self.make_model(), self.model, self.precision.gradient_bits)

    def arm_folder(self, name: str, seed: int) -> Path | None:
        """Where an arm keeps its checkpoints."""
        return None if self.folder is None else self.folder / "checkpoints" / f"{name}-seed{seed}"

    def finished(self, name: str, seed: int) -> ArmResult | None:
        """What an arm gave, if it was trained to its end."""
        folder = self.arm_folder(name, seed)
        if folder is None or not (folder / ARM_FILE).exists():
            return None
        return ArmResult.model_validate_json((folder / ARM_FILE).read_text(encoding="utf-8"))

    def load_arm(self, name: str, seed: int) -> nn.Module:
        """The model of an arm that was trained to its end.

        Raises:
            BitdialError: it was not, or its last checkpoint is damaged.
        """
        folder, result = self.arm_folder(name, seed), self.finished(name, seed)
        if folder is None or result is None:
            raise BitdialError(f"arm '{name}' with seed {seed} was not trained to its end; resume the run first")
        checkpoint = _manager(folder).load_latest()
        if checkpoint.state["step"] != result.iterations:
            raise BitdialError(
                f"the last checkpoint in {folder} is damaged (step {checkpoint.state['step']} of {result.iterations} "
                f"is the newest sound one); remove {folder / ARM_FILE} and resume the run"
            )
        model = self.new_model(seed)
        model.load_state_dict(checkpoint.state["model_state_dict"])
        return model

    def _run_arm(
        self, arm: Arm, seed: int, done: Mapping[str, ArmResult], trained: dict[str, nn.Module], label: str
    ) -> ArmResult:
        folder = self.arm_folder(arm.name, seed)
        needed_later = arm.name == CPT or (arm.kind == "baseline" and self.training.distillation_alpha > 0)
        before = self.finished(arm.name, seed)
        if before is not None:
            if needed_later:
                trained[arm.name] = self.load_arm(arm.name, seed)
            return before
        model = copy.deepcopy(trained[CPT]) if arm.fine_tuned else self.new_model(seed)
        loaders = self.make_loaders(seed)
        seed_everything(seed, rank=0 if self.setup.fabric is None else self.setup.fabric.global_rank)
        manager = None if folder is None else _manager(folder)
        setup = self._setup(arm, seed, manager, label)
        with manager or nullcontext(), setup.log or nullcontext():
            phase = self._train(arm, seed, model, loaders, trained, setup)
        result = self._measure(arm, seed, phase, loaders, done, label)
        if needed_later:
            trained[arm.name] = phase.model
        if folder is not None and (self.setup.fabric is None or self.setup.fabric.is_global_zero):
            write_atomically(folder / ARM_FILE, result.model_dump_json())
        return result

    def _setup(self, arm: Arm, seed: int, manager: CheckpointManager | None, label: str) -> PhaseSetup:
        """The shared setup with this arm's log, live line and checkpoints."""
        progress = self._progress(label)
        if manager is None or self.folder is None:
            return replace(self.setup, progress=progress)
        resume = manager.load_latest().state if manager.checkpoints else None
        return replace(
            self.setup,
            log=MetricsLog(self.folder, scope={"phase": arm.name, "seed": seed}),
            progress=progress,
            checkpoints=manager,
            resume=resume,
            cycle_checkpoints=(
                self.folder / "checkpoints" / f"cycles-seed{seed}"
                if arm.name == CPT and self.experiment.save_cycle_checkpoints
                else None
            ),
        )

    def _train(
        self,
        arm: Arm,
        seed: int,
        model: nn.Module,
        loaders: Loaders,
        trained: Mapping[str, nn.Module],
        setup: PhaseSetup,
    ) -> PhaseResult:
        training = self.training
        teacher = trained.get(BASELINE)
        if arm.kind == "baseline":
            training = training.model_copy(update={"distillation_alpha": 0.0})  # the teacher learns on its own
        if arm.trains_at is None:
            schedule = None
            if arm.kind == "ablation":
                name: Any = arm.name.removeprefix(ABLATION)
                layers = len(BitDial(model))
                schedule = ablation_schedule(name, self.precision, self.model, layers=layers, seed=seed)
            return train_with_cpt(
                model, loaders, training, self.precision, self.model, teacher=teacher, schedule=schedule, setup=setup
            )
        steps = training.num_static_iterations if arm.fine_tuned else training.num_cpt_iterations
        if arm.kind == "matched":
            steps = self._matched_steps(model, loaders)
        return train_with_static_precision(
            model,
            arm.trains_at,
            loaders,
            training,
            self.static,
            self.model,
            iterations=steps,
            learning_rate=None if arm.fine_tuned else training.learning_rate,
            warmup_steps=0 if arm.fine_tuned else training.warmup_steps,
            gradient_bits=32 if arm.kind == "baseline" else self.precision.gradient_bits,
            teacher=teacher,
            setup=setup,
        )

    def _matched_steps(self, model: nn.Module, loaders: Loaders) -> int:
        """How many steps at the default width have the BitOps of the whole cyclic phase, to half a step."""
        ledger, gradients = ledger_of(model, loaders.train), self.precision.gradient_bits
        sizes = batches_in_step(loaders.train, self.training.gradient_accumulation_steps)
        cyclic = schedule_bitops(
            ledger,
            self.precision.layer_schedule(),
            len(BitDial(model)),
            self.training.num_cpt_iterations,
            gradients,
            examples=sizes,
        )
        width = self.model.default_bit_width
        return matched_steps(cyclic, ledger.step_bitops(width, width, gradients).total, sizes)

    def _progress(self, label: str, *, passing: bool = False) -> Progress:
        longest = max(len(arm.name) for arm in plan_arms(self.model, self.static, self.experiment))
        return Progress(
            label,
            enabled=self.show_progress,
            label_width=longest + (len(" (8/8, seed 0)") if len(self.seeds) > 1 else len(" (8/8)")),
            transient=passing,
        )

    def _measure(
        self, arm: Arm, seed: int, phase: PhaseResult, loaders: Loaders, done: Mapping[str, ArmResult], label: str
    ) -> ArmResult:
        targets = target_widths([*self.model.bit_widths, self.model.default_bit_width])
        ships = arm.own_bits(len(BitDial(phase.model)))
        widths: list[float | list[float]] = [*targets, *([] if ships in targets else [ships])]
        scores: list[WidthScore] = []
        progress = self._progress(f"measuring {label}", passing=True)
        progress.total = len(widths)
        with progress:
            for width in widths:
                scores += evaluate_cyclic_training(
                    phase.model,
                    loaders.test,
                    [width],
                    recalibration_batches=loaders.recalibration,
                    task=self.setup.task,
                )
                progress.update(len(scores))
        own = scores[widths.index(ships)]
        before = done[CPT] if arm.fine_tuned else None
        return ArmResult(
            name=arm.name,
            kind=arm.kind,
            seed=seed,
            scores=scores[: len(targets)],
            own=own,
            own_label=arm.label,
            average_bits=phase.average_bits,
            bitops=phase.bitops + (before.bitops if before else 0.0),
            bitops_own=phase.bitops,
            seconds=phase.seconds + (before.seconds if before else 0.0),
            seconds_own=phase.seconds,
            iterations=phase.iterations,
            history=phase.history,
            precision_note=phase.precision_note,
        )


def _manager(folder: Path) -> CheckpointManager:
    # Final weights are what is reported: picking the best of many looks at the test data would flatter every arm.
    return CheckpointManager(
        folder, keep_last_n=2, keep_best=0, metric="accuracy", higher_is_better=True, background=True
    )
