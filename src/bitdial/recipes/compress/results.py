"""What a run of codec training found, as records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from rich.text import Text

from bitdial.compression.codec_points import MeanPoint, Point, mean_points
from bitdial.evaluation.results import ArmRecord, EarlyStop, Measured, Record, RunResults
from bitdial.evaluation.shipped import Shipped


class CodecHistory(Record):
    """What was logged while a codec was trained; the lists run in parallel, one entry for each step."""

    step: list[int] = []
    """The step's number, counted from 0."""
    loss: list[Measured] = []
    """The cost, lambda * 255^2 * MSE + bits per pixel; null where it was not finite."""
    learning_rate: list[float] = []
    """Learning rate."""
    distortion: list[Measured] = []
    """lambda * 255^2 * MSE of the batch; empty without balance, as are all below."""
    bpp: list[Measured] = []
    """Bits per pixel of the batch."""
    w: list[tuple[float, float]] = []
    """Logits of the weights of distortion and rate."""
    p: list[tuple[float, float]] = []
    """Weights of the two gradients; 1 and 1 in the warm-up."""
    gamma: list[float] = []
    """Decay of w."""

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[float]]) -> CodecHistory:
        """Of the history of a training state."""
        pairs = {
            name: list(zip(columns[f"{name}_distortion"], columns[f"{name}_rate"], strict=True))
            for name in ("w", "p")
            if f"{name}_rate" in columns
        }
        lists = {
            name: list(columns[name])
            for name in ("loss", "learning_rate", "distortion", "bpp", "gamma")
            if name in columns
        }
        return cls(step=[int(step) - 1 for step in columns["step"]], **lists, **pairs)

    @model_validator(mode="after")
    def _parallel(self) -> CodecHistory:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if values and len(values) != len(self.step):
                raise ValueError(f"history.{name} must have an entry for each of the {len(self.step)} steps")
        return self


class CodecResult(ArmRecord):
    """One codec, trained for one lambda with one seed."""

    name: str
    """What was trained."""
    seed: int
    """The seed."""
    lambda_value: float
    """What distortion cost."""
    model_id: str
    """What compressed files name the codec by."""
    arithmetic: Literal["integer", "float64"] = "float64"
    """What decoding computes in."""
    parameters: int
    """Trained numbers of the network."""
    points: list[Point]
    """Every held-out picture in a file of the codec, and in those of other kinds: of that size, and along a curve."""
    seconds: float
    """Wall-clock seconds of training, validation included."""
    steps: int
    """Optimizer steps."""
    warmup_steps: int = 0
    """Steps before the balance began."""
    second_forwards: int = 0
    """Forward passes that the balance took besides."""
    history: CodecHistory
    """What was logged while it was trained."""
    notes: list[str] = []
    """What there is to know of the comparison and the weights that it began with."""
    precision_note: str | None = None
    """Which steps were lost, and where the format changed; null where all went well."""
    early_stop: EarlyStop | None = None
    """Where early stopping ended the training; null where it did not."""

    @property
    def means(self) -> tuple[MeanPoint, ...]:
        """The points, averaged over pictures."""
        return mean_points(self.points)

    @property
    def own(self) -> MeanPoint | None:
        """What the codec itself does; None where no picture counts."""
        return next((mean for mean in self.means if mean.part == "own"), None)


class CompressResults(RunResults):
    """The whole of ``results.json``."""

    record_type: ClassVar[type[ArmRecord]] = CodecResult

    recipe: Literal["compress"] = "compress"
    """What made it."""
    networks: list[CodecResult]
    """Every lambda with every seed."""
    sentence: str = ""
    """What the codec makes of pictures, beside files of other kinds of the same size."""
    bd_rates: dict[str, Measured] = {}
    """Kind of file -> by how many percent more bits the codec needs at equal PSNR, where curves overlap; first seed."""

    @property
    def records(self) -> Sequence[CodecResult]:
        """Every lambda with every seed."""
        return self.networks

    def by_lambda(self) -> dict[float, list[CodecResult]]:
        """Lambda, rising -> the codecs of all seeds."""
        lambdas = sorted({network.lambda_value for network in self.networks})
        return {each: [n for n in self.networks if n.lambda_value == each] for each in lambdas}

    def ships(self) -> Sequence[Shipped]:
        """The codec of each lambda."""
        found = []
        for value, networks in self.by_lambda().items():
            own = {each.seed: each.own for each in networks if each.own is not None}
            if own:
                found.append(
                    Shipped(
                        f"\u03bb {value:g}",
                        {seed: mean.psnr for seed, mean in own.items()},
                        measure="PSNR",
                        rate=sum(mean.bpp for mean in own.values()) / len(own),
                        seconds=sum(each.seconds for each in networks) / len(networks),
                    )
                )
        return found

    def print(self, console: Any, folder: Path | None = None) -> None:
        """Print what the codec makes of pictures, and how to use it."""
        from bitdial.recipes.compress.answer import answer_of
        from bitdial.recipes.compress.report import codec_table  # brings matplotlib

        console.print(codec_table(self))
        answer_of(self).print(console)
        if folder is not None:
            console.print(Text(f"Use it: bitdial compress PICTURE FILE.bd --model {folder}"), soft_wrap=True)
