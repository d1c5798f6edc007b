"""Training one codec: optimizer, schedules, the balance of its losses, and the weights that it begins with."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from torch.optim import AdamW, Optimizer

from bitdial.compression import CautiousAdam, TaskWeights
from bitdial.compression.rate_distortion import Balance, RateDistortion
from bitdial.evaluation.sweep import evaluate
from bitdial.layers.names import named_as
from bitdial.numerics import UNQUANTIZED
from bitdial.options import part
from bitdial.recipes.compress.options import CompressConfig
from bitdial.recipes.options import total_steps
from bitdial.recipes.recipe import Arm, Bench
from bitdial.recipes.run import say
from bitdial.recipes.saved_model import first_network, load_weights
from bitdial.training import (
    EarlyStopping,
    Hook,
    LearningRateConfig,
    LoopConfig,
    RunFolder,
    TrainingState,
    WeightStatistics,
    learning_rate_factor,
    read_checkpoint,
)
from bitdial.training.batches import length_of
from bitdial.training.learning_rate import PlateauRate

_ADAPTIVE = "adaptive_params_list."
"""Parameters that the authors' first files of HPCM lack."""


def train(arm: Arm, bench: Bench[CompressConfig]) -> TrainingState:
    """Train a codec as the options of its arm say, in place."""
    options, model, loader = bench.options, bench.model, bench.loaders.train
    if options.checkpoint is not None and arm.starts_from is None and bench.setup.resume is None:
        notes = begin_with(model, options.checkpoint)
        for note in notes if bench.files is not None and bench.is_first else ():  # once, not in the rehearsal too
            say(note)
    steps = total_steps(options, loader)
    batches = -(-(length_of(loader) or steps) // options.gradient_accumulation_steps)
    task = RateDistortion(options.lambda_value)
    hooks: list[Hook] = []
    if options.use_balanced:
        weights = TaskWeights(gamma=options.gamma, lr=options.w_lr)
        scheduler = options.gamma_scheduler(weights, -(-steps // batches)) if options.adaptive_gamma else None
        warm_up = options.warm_up(steps, from_scratch=arm.starts_from is None)
        hooks.append(
            Balance(
                task,
                weights,
                warmup_steps=warm_up,
                every=options.second_forward_every,
                same_noise=options.same_noise,
                gamma=scheduler,
            )
        )
    if options.bits < UNQUANTIZED:
        hooks.append(WeightStatistics())
    if options.scheduler == "plateau":
        hooks.append(PlateauRate("loss", "min", options.lr_decay, options.lr_patience))
    shape = "none" if options.scheduler == "plateau" else options.scheduler
    rate = LearningRateConfig(scheduler=shape, milestones=options.milestones)
    held_out = bench.loaders.test if bench.loaders.validation is None else bench.loaders.validation
    loop = part(
        options, LoopConfig, checkpoint_best=False, monitor="loss", monitor_mode="min", compile=bench.setup.compile
    )
    return bench.setup.fit(
        model,
        _optimizer(model, options),
        task,
        loader,
        loop,
        learning_rate=learning_rate_factor(rate, steps),
        evaluate=lambda network: evaluate(network, held_out, task=RateDistortion(options.lambda_value)),
        hooks=hooks,
        early_stopping=EarlyStopping.of(options, "min", bench.loaders.validation),
    )


def _optimizer(model: nn.Module, options: CompressConfig) -> Optimizer:
    made = CautiousAdam if options.optimizer == "cautious_adam" else AdamW  # AdamW without decay is Adam
    return made(model.parameters(), lr=options.rate, weight_decay=options.weight_decay)


def begin_with(model: nn.Module, path: Path) -> list[str]:
    """Load the weights of a run, a codec of one, a checkpoint, or a state dict, such as those of HPCM's authors.

    Returns:
        What of the network the file does not hold: the adaptive vectors of HPCM's first released files, left at 1.

    Raises:
        BitdialError: there is nothing, or it is of another network.
    """
    file = first_network(RunFolder.open(path))[2] if path.is_dir() else path
    state = read_checkpoint(file, expected=()).state
    average = state.get("ema_state_dict")
    weights = dict(named_as(model, average["model_state_dict"] if average else state["model_state_dict"]))
    own = model.state_dict()
    lacking = [name for name in own if name not in weights and name.startswith(_ADAPTIVE)]
    if len(lacking) == sum(name.startswith(_ADAPTIVE) for name in own):
        weights |= {name: own[name] for name in lacking}
    advice = "give the --model and --model_options that it was made with"
    load_weights(model, weights, f"checkpoint {path} does", advice)
    if not lacking:
        return []
    return [f"{path} lacks the adaptive vectors, as the first files that HPCM's authors released do: they begin at 1."]
