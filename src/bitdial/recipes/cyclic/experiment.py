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
from bitdial.evaluation import ArmResult, CyclicResults, assemble
from bitdial.evaluation.files import write_atomically
from bitdial.layers import BitDial, LayerSchedule, Ledger
from bitdial.recipes.cyclic.arms import CPT, Arm, ablation_schedule, mean_bits, own_bits, plan_arms
from bitdial.recipes.cyclic.config import (
    CyclicPrecisionConfig,
    CyclicTrainingConfig,
    ExperimentConfig,
    ModelConfig,
    StaticPrecisionConfig,
)
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
    experiment: ExperimentConfig
    seeds: Sequence[int]
    setup: PhaseSetup = field(default_factory=PhaseSetup)
    folder: Path | None = None
    show_progress: bool = False

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
                done[arm.name] = self._run_arm(arm, seed, done, trained, position)
                release_memory()
            results += done.values()
        return results

    def new_model(self, seed: int) -> nn.Module:
        """The quantized network with the weights that a seed gives it."""
        seed_everything(seed)
        return prepare_model(self.make_model(), self.model, self.precision)

    def arm_folder(self, name: str, seed: int) -> Path | None:
        """Where an arm keeps its checkpoints."""
        return None if self.folder is None else self.folder / "checkpoints" / f"{name}-seed{seed}"

    def load_arm(self, name: str, seed: int) -> nn.Module:
        """The trained model of an arm, from its newest sound checkpoint.

        Raises:
            BitdialError: there is none.
        """
        folder = self.arm_folder(name, seed)
        assert folder is not None
        model = self.new_model(seed)
        model.load_state_dict(_manager(folder).load_latest().state["model_state_dict"])
        return model

    def _run_arm(
        self, arm: Arm, seed: int, done: Mapping[str, ArmResult], trained: dict[str, nn.Module], position: str
    ) -> ArmResult:
        folder = self.arm_folder(arm.name, seed)
        needed_later = arm.name == CPT or (arm.kind == "baseline" and self.training.distillation_alpha > 0)
        if folder is not None and (folder / ARM_FILE).exists():
            if needed_later:
                trained[arm.name] = self.load_arm(arm.name, seed)
            return ArmResult.model_validate_json((folder / ARM_FILE).read_text(encoding="utf-8"))
        model = copy.deepcopy(trained[CPT]) if arm.fine_tuned else self.new_model(seed)
        loaders = self.make_loaders(seed)
        seed_everything(seed)
        manager = None if folder is None else _manager(folder)
        with manager or nullcontext():
            phase = self._train(arm, seed, model, loaders, trained, self._setup(arm, seed, manager, position))
        result = self._measure(arm, seed, phase, loaders, done)
        if needed_later:
            trained[arm.name] = phase.model
        if folder is not None and (self.setup.fabric is None or self.setup.fabric.is_global_zero):
            write_atomically(folder / ARM_FILE, result.model_dump_json())
        return result

    def _setup(self, arm: Arm, seed: int, manager: CheckpointManager | None, position: str) -> PhaseSetup:
        """The shared setup with this arm's log, live line and checkpoints."""
        progress = Progress(f"{arm.name} ({position})", enabled=self.show_progress)
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
        teacher = trained.get("baseline_fp32") if arm.kind != "baseline" else None
        if teacher is None and training.distillation_alpha > 0:
            training = training.model_copy(update={"distillation_alpha": 0.0})  # the teacher learns on its own
        if arm.kind == "cpt":
            return train_with_cpt(model, loaders, training, self.precision, self.model, teacher=teacher, setup=setup)
        if arm.kind == "ablation":
            name: Any = arm.name.removeprefix("ablation_")
            layers = len(BitDial(model))
            schedule = ablation_schedule(name, self.precision, self.model, layers=layers, seed=seed)
            return train_with_cpt(
                model, loaders, training, self.precision, self.model, teacher=teacher, schedule=schedule, setup=setup
            )
        assert arm.trains_at is not None
        steps = {
            "static": training.num_static_iterations,
            "baseline": training.num_cpt_iterations,
            "matched": self.matched_steps(ledger_of(model, loaders.train), len(BitDial(model))),
        }[arm.kind]
        return train_with_static_precision(
            model,
            arm.trains_at,
            loaders,
            training,
            self.static,
            self.model,
            iterations=steps,
            learning_rate=None if arm.fine_tuned else training.learning_rate,
            warmup_steps=0 if arm.fine_tuned else min(training.warmup_steps, steps // 2),
            gradient_bits=32 if arm.kind == "baseline" else self.precision.gradient_bits,
            teacher=teacher,
            setup=setup,
        )

    def matched_steps(self, ledger: Ledger, layers: int) -> int:
        """How many steps at the default width have the BitOps of the whole cyclic phase (to half a step)."""
        cyclic = schedule_bitops(
            ledger,
            self.precision.layer_schedule(),
            layers,
            self.training.num_cpt_iterations,
            self.precision.gradient_bits,
        )
        width = self.model.default_bit_width
        return max(1, round(cyclic / ledger.step_bitops(width, width, self.precision.gradient_bits).total))

    def _measure(
        self, arm: Arm, seed: int, phase: PhaseResult, loaders: Loaders, done: Mapping[str, ArmResult]
    ) -> ArmResult:
        def scores_at(widths: Sequence[Any]) -> list[Any]:
            return evaluate_cyclic_training(
                phase.model,
                loaders.test,
                widths,
                recalibration_batches=loaders.recalibration,
                task=self.setup.task,
            )

        targets = target_widths([*self.model.bit_widths, self.model.default_bit_width])
        scores = scores_at(targets)
        ships = own_bits(arm, len(BitDial(phase.model)))
        own = next((score for score in scores if score.bits == ships), None) or scores_at([ships])[0]
        before = done[CPT] if arm.fine_tuned else None
        return ArmResult(
            name=arm.name,
            kind=arm.kind,
            seed=seed,
            scores=scores,
            own=own.model_copy(update={"bits": mean_bits(ships)}),
            own_label=arm.label,
            average_bits=phase.average_bits,
            bitops=phase.bitops + (before.bitops if before else 0.0),
            bitops_own=phase.bitops,
            seconds=phase.seconds + (before.seconds if before else 0.0),
            seconds_own=phase.seconds,
            iterations=phase.iterations,
            history=phase.history,
        )


def schedule_bitops(
    ledger: Ledger, schedule: LayerSchedule, layers: int, iterations: int, gradient_bits: float = 32
) -> float:
    """Simulated BitOps of training at a schedule, for one example a step.

    Args:
        ledger: costs of the model.
        schedule: ``(step, layer) -> width``.
        layers: number of quantized layers.
        iterations: steps.
        gradient_bits: width of the gradients.
    """
    known: dict[tuple[float, ...], float] = {}
    total = 0.0
    for step in range(iterations):
        widths = tuple(schedule(step, layer) for layer in range(layers))
        if widths not in known:
            known[widths] = ledger.step_bitops(widths, widths, gradient_bits).total
        total += known[widths]
    return total


def compare_bit_configurations(
    make_model: Callable[[], nn.Module],
    make_loaders: Callable[[int], Loaders],
    *,
    model_config: ModelConfig | None = None,
    training: CyclicTrainingConfig | None = None,
    precision: CyclicPrecisionConfig | None = None,
    static: StaticPrecisionConfig | None = None,
    experiment: ExperimentConfig | None = None,
    seeds: int | Sequence[int] = 1,
    setup: PhaseSetup | None = None,
    show_progress: bool = False,
) -> CyclicResults:
    """Train and compare: the CPT model at each width, each static configuration, the unquantized baseline, and a static
    run of equal BitOps.

    Args:
        make_model: builds the network, unquantized; torch is seeded before it is called.
        make_loaders: seed -> the data, its order a function of the seed.
        model_config, training, precision, static, experiment: the configuration; defaults if None.
        seeds: how many (counting up from ``training.seed``), or which ones.
        setup: devices and task.
        show_progress: whether to show a live line for each arm.

    Returns:
        Mean and 95% interval over seeds at each width, accuracy per average bit, the ranking, and the recommended
        configuration with the reason in a sentence.

    Raises:
        BitdialError: the configuration or the data is at fault, or a loss is not finite.
    """  # noqa: D205
    training = training or CyclicTrainingConfig()
    chosen = range(training.seed, training.seed + seeds) if isinstance(seeds, int) else list(seeds)
    if not chosen:
        raise BitdialError(f"seeds must be at least 1, got {seeds!r}")
    experiment = experiment or ExperimentConfig()
    job = Experiment(
        make_model,
        make_loaders,
        model_config or ModelConfig(),
        training,
        precision or CyclicPrecisionConfig(),
        static or StaticPrecisionConfig(),
        experiment,
        chosen,
        setup or PhaseSetup(),
        show_progress=show_progress,
    )
    config = {
        "model": job.model.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "cyclic": job.precision.model_dump(mode="json"),
        "static": job.static.model_dump(mode="json"),
        "experiment": experiment.model_dump(mode="json"),
    }
    return assemble(
        job.run(), config=config, experiment=experiment.experiment_name, analyze_cycles=experiment.analyze_cycles
    )


def _manager(folder: Path) -> CheckpointManager:
    # Final weights are what is reported: picking the best of many looks at the test data would flatter every arm.
    return CheckpointManager(folder, keep_last_n=2, keep_best=0, metric="accuracy", higher_is_better=True)
