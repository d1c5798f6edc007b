"""What a run of ternary training found: the records behind ``results.json``, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bitdial.evaluation import Interval, interval, paired_difference, wording
from bitdial.evaluation.results import ArmRecord, EarlyStop, Record, RunResults, Scored
from bitdial.evaluation.shipped import Shipped
from bitdial.evaluation.table import WIDE
from bitdial.evaluation.wording import bytes_text


class Score(Scored):
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


class NetworkResult(ArmRecord):
    """One network: an experiment with a seed."""

    arm_field: ClassVar[str] = "experiment"

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
    bitops: float | None = None
    """Simulated BitOps of a forward pass for one example, as shipped; null in files of earlier versions."""
    float_bitops: float | None = None
    """Those at 32 bits."""
    forward_seconds: float | None = None
    """Wall-clock seconds of one prediction as it is computed here; null in files of earlier versions."""
    file: str
    """The trained network, relative to the run's folder."""
    packed_file: str | None = None
    """The packed file, relative to the run's folder."""
    precision_note: str | None = None
    """Which steps a narrow floating-point format lost, and where it changed; null where all went well."""
    early_stop: EarlyStop | None = None
    """Where early stopping ended the training before its length; null where it did not."""
    curve: Curve = Curve()
    """Training epoch by epoch."""

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


class TernaryResults(RunResults):
    """The whole of ``results.json``."""

    record_type: ClassVar[type[ArmRecord]] = NetworkResult

    recipe: Literal["ternary"] = "ternary"
    """What made it."""
    networks: list[NetworkResult] = Field(min_length=1)
    """Every experiment with every seed."""
    summaries: list[Summary]
    """Every experiment over its seeds, in the order in which they were given."""
    reference: str | None
    """The experiment that the others are compared with: the first unquantized one, else the first; null if alone."""
    winner: str | None = None
    """The experiment to ship, where several are quantized; its first seed is ``ternary_best_model.pt``."""
    sentence: str = ""
    """Which experiment to ship, and why; empty where there is no choice."""

    @property
    def records(self) -> Sequence[NetworkResult]:
        """Every experiment with every seed."""
        return self.networks

    def ships(self) -> Sequence[Shipped]:
        """The winner, or the first experiment that is quantized, or the first one."""
        first = next((each.experiment for each in self.networks if each.sizes is not None), self.networks[0].experiment)
        name = self.winner or first
        runs = [each for each in self.networks if each.experiment == name]
        size = None if runs[0].sizes is None else runs[0].sizes.file
        seconds = sum(each.seconds for each in runs) / len(runs)
        return [Shipped(name, {each.seed: each.test.accuracy for each in runs}, bytes=size, seconds=seconds)]

    def print(self, console: Console, folder: Path | None = None) -> None:
        """Print the table, the answer and the sizes."""
        from bitdial.recipes.ternary.answer import answer_of

        console.print(results_table(self, width=console.width))
        answer_of(self).print(console)
        for line in sizes_text(self, folder or Path()):
            console.print(Text(line), soft_wrap=True)


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


def results_table(results: TernaryResults, *, width: int = WIDE) -> Table:
    """One row an experiment: accuracy, difference to the reference, zeros, size of the packed file, time.

    Args:
        results: of the run.
        width: columns of the terminal. From 100 on an interval stands beside its mean; below that, under it, and
            the epochs are left out.
    """
    wide = width >= WIDE
    several = max(row.test.n for row in results.summaries) > 1
    under = "\n" if several and not wide else " "  # with intervals, 80 columns have no room for both on one line

    def shown(text: str) -> str:
        text = text.replace(" (", "\n").replace(" to ", " to\n").rstrip(")")  # of two seeds both, below the mean
        return text if wide else text.replace(" ±", "\n±")

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title="Accuracy (%), and what is left of the network",
        title_style="bold",
    )
    table.add_column("experiment", min_width=11)
    table.add_column("weights", no_wrap=True)
    for heading in ("held\nout", "test"):
        table.add_column(heading, justify="right", no_wrap=True)
    if results.reference is not None:
        table.add_column(Text(f"vs\n{results.reference}"), justify="right", no_wrap=True)
    for heading in ("zeros", "packed", *(("epochs",) if wide else ()), "sec."):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in results.summaries:
        cells: list[str | Text] = [Text(row.experiment), "float32" if row.quantizer == "none" else row.quantizer]
        cells.append(wording.MISSING if row.validation is None else shown(wording.percent(row.validation, sign="")))
        cells.append(shown(wording.percent(row.test, sign="")))
        if results.reference is not None:
            cells.append(wording.MISSING if row.difference is None else shown(difference_text(row.difference)))
        cells.append(wording.MISSING if row.zeros is None else f"{row.zeros:.1%}")
        if row.file_bytes is None or row.float32_bytes is None:
            cells.append(wording.MISSING)
        else:
            ratio = f"({row.float32_bytes / row.file_bytes:.1f}x)"
            cells.append(f"{bytes_text(row.file_bytes)}{under}{ratio}")
        cells += [*([f"{row.epochs:g}"] if wide else []), wording.seconds(row.seconds)]
        table.add_row(*cells)
    table.caption = (
        f"{wording.spread_note(row.test.n for row in results.summaries)}; differences are paired by seed, in points."
        if several
        else "One seed: no interval, small differences may be chance."
    )
    table.caption_justify = "left"
    return table


def difference_text(value: Interval) -> str:
    """A difference in points, with its interval where there is one."""
    written = (lambda each: f"{100 * each:.1f}") if value.n != 2 else wording.points
    return f"{wording.points(value.mean)}{wording.spread(value, written)}"


def sizes_text(results: TernaryResults, folder: Path) -> list[str]:
    """Where the packed file is, and what is how small: of what ships, else of the first network that has one."""
    packed = [each for each in results.networks if each.sizes is not None]
    network = next((each for each in packed if results.winner in (None, each.experiment)), None)
    if network is None or network.sizes is None:
        return []
    sizes = network.sizes
    return [
        f"Packed: {folder / (network.packed_file or '')}",
        f"  weights alone       {bytes_text(sizes.weights)} of {bytes_text(sizes.float32_weights)} in float32 "
        f"({sizes.float32_weights / max(sizes.weights, 1):.1f}x)",
        f"  whole file          {bytes_text(sizes.file)} of {bytes_text(sizes.float32)} "
        f"({sizes.float32 / sizes.file:.1f}x)",
        f"  memory at run time  {bytes_text(sizes.memory)} (packing does not lower it)",
    ]
