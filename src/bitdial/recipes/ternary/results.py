"""What a run of ternary training found: the records behind ``results.json``, the table and the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, ValidationError

from bitdial.errors import BitdialError
from bitdial.evaluation import Interval, Machine, interval, paired_difference
from bitdial.evaluation.files import to_json, write_atomically
from bitdial.evaluation.results import Record

SCHEMA_VERSION: Final = 1


class Score(Record):
    """How well a network does on a set of images."""

    accuracy: float
    """Fraction of right answers, 0 to 1."""
    loss: float
    """Mean cross-entropy in nats, without label smoothing."""


class Curve(Record):
    """Training epoch by epoch; the lists run in parallel. A value that was not measured is null."""

    epoch: list[int] = []
    """Epochs done."""
    train_loss: list[float | None] = []
    """Mean training loss of the epoch, as it was minimised."""
    train_accuracy: list[float | None] = []
    """Mean accuracy on the augmented training batches."""
    validation_loss: list[float | None] = []
    """Loss on the images held out."""
    validation_accuracy: list[float | None] = []
    """Accuracy on the images held out."""
    learning_rate: list[float | None] = []
    """Learning rate at the end of the epoch."""


class Sizes(Record):
    """Sizes of a packed network in bytes, each called what it is."""

    packed_weights: int
    """How many weights are packed."""
    weights: int
    """Their packed codes alone."""
    scales: int
    """Their scales."""
    file: int
    """The whole packed file."""
    memory: int
    """Parameters and buffers at run time; packing does not lower it."""
    float32_weights: int
    """The same weights as float32."""
    float32: int
    """The whole unquantized network as float32."""


class NetworkResult(Record):
    """One network: an experiment with a seed."""

    experiment: str
    """Name of the experiment."""
    seed: int
    """Its seed."""
    quantizer: str
    """How its weights became ternary; ``none``: they did not."""
    activation_bits: float
    """Width of its activations."""
    teacher: str | None = None
    """The run that it learned from."""
    asked: dict[str, int | None]
    """Length that was asked for: epochs, steps, patience."""
    epochs: int
    """Epochs trained."""
    steps: int
    """Optimizer steps trained."""
    stopped_early: bool
    """Whether early stopping ended the training."""
    seconds: float
    """Wall-clock seconds of training, over all resumptions."""
    shipped: Literal["best", "last"]
    """Which weights are kept: the best on the images held out, or the last."""
    shipped_epoch: int
    """How many epochs they had been trained."""
    validation: Score | None
    """The shipped weights on the images held out."""
    test: Score
    """The shipped weights on the test images, measured once, at the end."""
    test_last: Score
    """The last weights on the test images."""
    parameters: int
    """How many numbers are trained."""
    zeros: dict[str, float] = {}
    """Share of weights that are zero, by layer, of the shipped weights."""
    unquantized: dict[str, str] = {}
    """Layers that were left alone, each with the reason."""
    sizes: Sizes | None = None
    """Sizes of the packed file; null for an unquantized network."""
    file: str
    """The trained network, relative to the run's folder."""
    packed_file: str | None = None
    """The packed file, relative to the run's folder."""
    precision_note: str | None = None
    """Which steps a narrow floating-point format lost, and where it changed; null where all went well."""
    curve: Curve = Curve()
    """Training epoch by epoch."""

    @property
    def key(self) -> str:
        """Name and seed in one."""
        return f"{self.experiment}-seed{self.seed}"

    @property
    def mean_zeros(self) -> float | None:
        """Mean share of zeros over the layers."""
        return sum(self.zeros.values()) / len(self.zeros) if self.zeros else None


class Summary(Record):
    """One experiment over its seeds."""

    experiment: str
    """Its name."""
    quantizer: str
    """How weights became ternary."""
    test: Interval
    """Test accuracy."""
    validation: Interval | None
    """Accuracy on the images held out."""
    difference: Interval | None
    """Test accuracy minus that of the reference, paired by seed; null for the reference itself."""
    zeros: float | None
    """Share of zeros, mean over layers and seeds."""
    file_bytes: int | None
    """Bytes of the packed file."""
    float32_bytes: int | None
    """Bytes of the unquantized network as float32."""
    epochs: float
    """Epochs trained, mean over seeds."""
    seconds: float
    """Seconds of training, mean over seeds."""


class TernaryResults(Record):
    """The whole of ``results.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    recipe: Literal["ternary"] = "ternary"
    """What made it."""
    created: str
    """When: ISO 8601, with the time zone."""
    command: str
    """The command line that makes these results again."""
    config: dict[str, Any]
    """The configuration, with every default filled in."""
    machine: Machine
    """What it ran on."""
    networks: list[NetworkResult] = Field(min_length=1)
    """Every experiment with every seed."""
    summaries: list[Summary]
    """Every experiment over its seeds, in the order in which they were given."""
    reference: str | None
    """The experiment that the others are compared with: the first unquantized one, else the first; null if alone."""
    notes: list[str] = []
    """What a reader has to know."""

    def save(self, path: Path) -> Path:
        """Write the file atomically as strict JSON."""
        return write_atomically(path, to_json(self.model_dump(mode="json")))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            BitdialError: there is no such file, or it is of another format.
        """
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise BitdialError(f"no results at {path}; a run writes them at its end") from None
        except ValidationError as error:
            first = error.errors()[0]
            raise BitdialError(
                f"{path} must be the results of `bitdial train ternary`, schema_version {SCHEMA_VERSION}, but "
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            ) from None
        except ValueError as error:
            raise BitdialError(f"{path} is not a JSON file ({error}); was it edited or cut short?") from None


def summarise(networks: Sequence[NetworkResult]) -> tuple[list[Summary], str | None]:
    """Every experiment over its seeds, and the name of the reference (None where there is one experiment)."""
    groups: dict[str, list[NetworkResult]] = {}
    for network in networks:
        groups.setdefault(network.experiment, []).append(network)
    reference = None
    if len(groups) > 1:
        reference = next((name for name, group in groups.items() if group[0].quantizer == "none"), next(iter(groups)))
    return [_summary(name, group, groups.get(reference or "")) for name, group in groups.items()], reference


def _summary(name: str, group: Sequence[NetworkResult], reference: Sequence[NetworkResult] | None) -> Summary:
    zeros = [each.mean_zeros for each in group if each.mean_zeros is not None]
    scores = [each.validation.accuracy for each in group if each.validation is not None]
    sizes = group[0].sizes
    difference = None
    if reference is not None and reference[0].experiment != name:
        by_seed = {each.seed: each.test.accuracy for each in reference}
        pairs = [(each.test.accuracy, by_seed[each.seed]) for each in group if each.seed in by_seed]
        difference = paired_difference([own for own, _ in pairs], [other for _, other in pairs])
    return Summary(
        experiment=name,
        quantizer=group[0].quantizer,
        test=interval([each.test.accuracy for each in group]),
        validation=interval(scores) if scores else None,
        difference=difference,
        zeros=sum(zeros) / len(zeros) if zeros else None,
        file_bytes=None if sizes is None else sizes.file,
        float32_bytes=None if sizes is None else sizes.float32,
        epochs=sum(each.epochs for each in group) / len(group),
        seconds=sum(each.seconds for each in group) / len(group),
    )
