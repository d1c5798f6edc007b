"""Everything that can be set in a run of codec training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from bitdial.compression.balance.gamma import STRATEGIES, AdaptiveGammaScheduler
from bitdial.compression.models.options import CodecOptions, check_model
from bitdial.errors import BitdialError
from bitdial.names import CODECS
from bitdial.recipes.choices import Choices
from bitdial.recipes.options import OWN, OwnPlace, RunOptions, Width
from bitdial.training.options import LongRunOptions, StepOptions, ValidationOptions

DEFAULT_STEPS = 600
PHOTOGRAPHS = "photographs"
"""The two pictures that ship with scikit-learn."""
_WARM_UP = 0.5
"""Share of a run from scratch on the plain sum of losses, before these are balanced."""

Lambda = Annotated[float, Field(gt=0, le=1e6)]


class CompressConfig(StepOptions, LongRunOptions, ValidationOptions, RunOptions):
    """Train an image codec, show what it makes of pictures beside JPEG, WebP and AVIF, and leave it ready for use.

    Without --epochs or --steps it trains for 600 steps. `bitdial compress` and `bitdial decompress` use what it leaves.
    """

    defaults = {"batch_size": 8, "weight_decay": 0.0, "max_grad_norm": 1.0, "log_interval": 20}
    aliases: ClassVar[Mapping[str, str]] = {
        **RunOptions.aliases,
        "lambda": "lambda_value",
        "model_name": "model",
        "save_path": "run_dir",
        "train_dataset": "data_path",
        "test_dataset": "test_path",
        "num_workers": "workers",
        "patch_size": "crop",
        "clip_max_norm": "max_grad_norm",
    }

    model: OwnPlace = Field("mean_scale_hyperprior", examples=list(CODECS))
    """Network to train: factorized, scale_hyperprior, mean_scale_hyperprior, hpcm_tiny, hpcm_base or hpcm_large."""
    model_options: CodecOptions = CodecOptions()
    """What it is built with."""
    bits: Width = 32
    """Width of weights and activations; 32: unquantized. With 16 or less, and without attention, decoding computes in
    whole numbers, so that files decode to the same pixels on any machine."""
    data_path: Path | None = None
    """Folder of pictures to train on, with all folders in it, or file.py:function that gives (train, test), each a list
    of uint8 tensors [3, H, W]; none: the two photographs that ship with scikit-learn."""
    test_path: Path | None = None
    """Folder of pictures to measure with; none: a share of those in data_path."""
    test_share: float = Field(0.1, gt=0, lt=1)
    """Share of the pictures that is held out to measure with, where there is no test_path."""
    crop: Annotated[int, Field(ge=16)] | list[Annotated[int, Field(ge=16)]] = 128
    """Side (or both) of the squares that are trained on, in pixels; a smaller picture is continued by reflection."""
    crops: int | None = Field(None, ge=1)
    """Squares of each picture in an epoch; none: 1, and of a few pictures so many that an epoch has 20 batches."""
    coded_pictures: int = Field(8, ge=1)
    """How many of the held-out pictures are coded and compared at the end."""

    lambda_value: Lambda = 0.013
    """What distortion costs: the cost is lambda * 255^2 * MSE + bits per pixel (also --lambda)."""
    lambdas: list[Lambda] = []
    """Several lambdas in one run, a codec for each: the largest first, each further one goes on from the one before."""

    use_balanced: bool = True
    """Balance distortion and rate by what each step does to them; off: their plain sum."""
    gamma: float = Field(0.003, ge=0, le=1e3)
    """Decay of the weights of the balance, at first."""
    gamma_final: float = Field(0.001, ge=0, le=1e3)
    """The same at the end (linear, cosine, adaptive)."""
    w_lr: float = Field(0.025, gt=0, le=1e3)
    """Learning rate of the weights of the balance."""
    adaptive_gamma: bool = True
    """Let gamma follow gamma_strategy; off: it stays."""
    gamma_strategy: Literal[STRATEGIES] = "cosine"  # type: ignore[valid-type]
    """How gamma moves over the run."""
    step_epochs: list[Annotated[int, Field(ge=1)]] = []
    """gamma_strategy step: the epochs at which gamma is halved; none given: a third and two thirds of the run."""
    adaptive_window: int = Field(50, ge=2)
    """gamma_strategy adaptive: epochs whose mean costs are looked at."""
    adaptive_threshold: float = Field(0.01, ge=-1, le=1)
    """gamma_strategy adaptive: gamma decays where the cost improved by a smaller share over that window."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps on the plain sum before losses are balanced: while they are far above 1, lambda has no effect on the
    balance. None: half of a run from new weights, 0 otherwise."""
    second_forward_every: int = Field(1, ge=1)
    """Steps between two looks at what a step did; each is one more forward pass."""
    same_noise: bool = True
    """Look with the noise of the step itself; off: with fresh noise, as published."""

    optimizer: Literal["adam", "cautious_adam"] = "adam"
    """adam, or cautious_adam, which the published results of balanced training used."""
    lr: float = Field(1e-3, gt=0, le=1e6)
    """Learning rate (also --learning_rate); none given: .001, of hpcm_base and hpcm_large .0001."""
    scheduler: Literal["cosine", "plateau", "step", "none"] = "cosine"
    """Learning rate: half a cosine; times lr_decay where the held-out cost levels off; times .1 at the milestones;
    constant."""
    milestones: list[float] = [0.5, 0.75]
    """Where the step scheduler drops: below 1 a share of the run, from 1 on an optimizer step."""
    lr_patience: int = Field(10, ge=1)
    """plateau: validations without a better one before the rate drops."""
    lr_decay: float = Field(0.5, gt=0, lt=1)
    """plateau: what it is multiplied with then."""

    checkpoint: Path | None = None
    """Weights to begin with: a run, a codec of one, a checkpoint, or a state dict."""
    finetune: bool = False
    """Train the codec of --checkpoint on, at finetune_lr and without a warm-up."""
    finetune_lr: float = Field(1e-5, gt=0, le=1e6)
    """Learning rate of fine-tuning."""

    @field_validator("crop")
    @classmethod
    def _is_square(cls, crop: int | list[int]) -> int:
        sides = crop if isinstance(crop, list) else [crop]
        if len(sides) > 2 or len(set(sides)) != 1:
            raise BitdialError(f"crop must be the side of a square, got {' x '.join(map(str, sides))}; give one number")
        return sides[0]

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        own = self.__dict__
        if self.model != OWN:
            check_model(self.model, self.model_options)
        if "lr" not in self.model_fields_set and self.model in ("hpcm_base", "hpcm_large"):
            own["lr"] = 1e-4
        if self.epochs is None and self.steps is None:
            own["steps"] = DEFAULT_STEPS
        twice = sorted({each for each in self.lambdas if self.lambdas.count(each) > 1})
        if twice:
            raise BitdialError(f"lambdas must be different, got {twice[0]:g} twice; remove one of them")
        if self.finetune and self.checkpoint is None:
            raise BitdialError("finetune trains a codec on, expected --checkpoint to name it, got none; give one")
        if self.test_path is not None and self.data_path is None:
            raise BitdialError("test_path goes with data_path, got it alone; give the folder to train on too")
        self.hold_out("early_stopping" if self.early_stopping else None)
        if self.step_epochs and self.gamma_strategy != "step":
            raise BitdialError(
                f"step_epochs belong to gamma_strategy step, got {self.gamma_strategy}; leave them out, or choose it"
            )
        return self

    @property
    def side(self) -> int:
        """Of a crop."""
        assert isinstance(self.crop, int)
        return self.crop

    @property
    def rate(self) -> float:
        """The learning rate that the run begins with."""
        return self.finetune_lr if self.finetune else self.lr

    def warm_up(self, steps: int, *, from_scratch: bool) -> int:
        """Steps on the plain sum of losses."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return int(_WARM_UP * steps) if from_scratch and self.checkpoint is None else 0

    def gamma_scheduler(self, turned: Any, epochs: int) -> AdaptiveGammaScheduler:
        """What moves the gamma of `turned` over so many epochs."""
        how: dict[str, Any] = {}
        if self.gamma_strategy == "step" and self.step_epochs:
            how = {"step_epochs": self.step_epochs}
        elif self.gamma_strategy == "adaptive":
            how = {"window_size": self.adaptive_window, "threshold": self.adaptive_threshold}
        return AdaptiveGammaScheduler(turned, self.gamma_strategy, self.gamma, self.gamma_final, epochs, **how)


CHOICES = Choices(CompressConfig)
