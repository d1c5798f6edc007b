"""What a run found, as records: of an arm, of arms side by side, and what every recipe's ``results.json`` holds.

Every field is described under its name; ``model_json_schema()`` gives the same text as a JSON schema, and
``docs/results_schema.md`` as a page. In memory a number that could not be measured is NaN; in the file it is ``null``.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from bitdial import machine
from bitdial.errors import BitdialError
from bitdial.files import write_atomically
from bitdial.terminal import as_html, as_text

if TYPE_CHECKING:
    from rich.console import Console

    from bitdial.evaluation.shipped import Shipped

SCHEMA_VERSION: Literal[1] = 1
"""Raised by one whenever a field changes its meaning or goes; a new optional field leaves it."""

ArmKind = Literal["cpt", "static", "matched", "baseline", "ablation"]
Verdict = Literal["better", "worse", "inside the interval", "no interval"]
_LIBRARIES = ("bitdial", "torch", "torchvision", "lightning", "numpy", "pydantic", "transformers", "timm")


def _fraction(value: float) -> float:
    if math.isnan(value) or 0.0 <= value <= 1.0:
        return value
    raise ValueError(f"accuracy is a fraction in [0, 1], got {value}; divide a percentage by 100")


Measured = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number that may be NaN when nothing could be measured; ``null`` in the file."""

Accuracy = Annotated[Measured, AfterValidator(_fraction)]
"""A fraction in [0, 1], or NaN."""


def width_key(bits: float) -> str:
    """Return the name of a width in dictionaries and headings: ``"4"`` for 4.0, ``"2.5"`` for 2.5."""
    return f"{bits:g}"


def to_json(value: Any, indent: str = "") -> str:
    """Return strict JSON text: indented objects, a list of plain values on one line, no NaN and no infinity.

    What is not finite becomes ``null``, because JSON has no word for it and other languages' readers stop at ``NaN``.
    One line per list keeps a history of a thousand steps readable beside the rest.
    """
    deeper = indent + "  "
    if isinstance(value, Mapping) and value:
        rows = [f"{deeper}{json.dumps(str(key))}: {to_json(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list | tuple):
        items = [to_json(item, deeper) for item in value]
        if any(isinstance(item, Mapping | list | tuple) for item in value):
            return "[\n" + ",\n".join(deeper + item for item in items) + f"\n{indent}]"
        return f"[{', '.join(items)}]"
    return json.dumps(None if isinstance(value, float) and not math.isfinite(value) else value)


class Record(BaseModel):
    """What all records share: unknown fields are refused, and the docstring under a field is its description."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Scored(Record):
    """What a task scores besides loss and accuracy."""

    metrics: dict[str, Measured] = {}
    """What else the task scores, by name: means over the predictions; left out where there are none."""
    confusion: list[list[int]] = []
    """How often each class (column) was predicted for examples of each class (row); of up to 20 classes, else left
    out."""

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {name: value for name, value in content.items() if value or name not in ("metrics", "confusion")}


class WidthScore(Scored):
    """How good a model is at one width."""

    bits: float = Field(gt=0, le=32)
    """The width, in bits, of weights and activations; the mean over the layers where they differ; 32 is unquantized."""
    accuracy: Accuracy
    """Fraction of right answers, 0 to 1 (for text: of the next tokens)."""
    loss: Measured
    """Mean loss for each answer, in nats."""
    perplexity: Measured | None = None
    """exp(loss), for text; null for other tasks."""


class History(Record):
    """What was logged while one arm was trained; the lists run in parallel, one entry for each logged step."""

    step: list[int] = []
    """The step's number, counted from 0 at the arm's own start, rising."""
    loss: list[Measured] = []
    """Training loss at that step; null where it was not finite."""
    bits: list[float] = []
    """Width at that step, in bits: what the dial says, the mean over the quantized layers."""
    learning_rate: list[float] = []
    """Learning rate at that step; may be empty."""
    cycle_boundaries: list[int] = []
    """The steps at which a cycle of the precision starts; empty for an arm that does not cycle."""

    @model_validator(mode="after")
    def _parallel(self) -> Self:
        wrong = {"loss": len(self.loss), "bits": len(self.bits)}
        if self.learning_rate:
            wrong["learning_rate"] = len(self.learning_rate)
        for name, length in wrong.items():
            if length != len(self.step):
                raise ValueError(
                    f"history.{name} must have one entry for each of the {len(self.step)} steps, got {length}"
                )
        if any(later <= earlier for earlier, later in pairwise(self.step)):
            raise ValueError("history.step must rise from entry to entry")
        return self


class EarlyStop(Record):
    """Where early stopping ended a training before its length was reached."""

    unit: Literal["epoch", "step"]
    """What is counted."""
    at: int
    """How many were trained."""
    of: int
    """How many were asked for."""
    best: int | None
    """How many there had been at the best score; null where no score was a finite number."""
    patience: int
    """Evaluations without improvement that were borne."""

    def told(self) -> str:
        """In words."""
        best = "with no finite score" if self.best is None else f"best at {self.best}"
        return f"stopped early at {self.unit} {self.at} of {self.of}, {best}"


class WidthCost(Record):
    """What a network takes once it ships, at one width."""

    size_bytes: int
    """Bytes on the disk with packed weights, computed from its layers."""
    bitops: float
    """Simulated BitOps of a forward pass for one example."""


class ArmRecord(Record):
    """What one arm with one seed gave; each recipe has a type of its own."""

    arm_field: ClassVar[str] = "name"
    """The field that names the arm."""
    steps_field: ClassVar[str] = "steps"
    """The field that counts the optimizer steps that the arm was trained for."""

    @property
    def key(self) -> str:
        """Arm and seed in one, as files are named."""
        return f"{getattr(self, self.arm_field)}-seed{getattr(self, 'seed')}"  # noqa: B009  (each record has one)

    @property
    def steps_taken(self) -> int:
        """Optimizer steps that the arm was trained for."""
        return int(getattr(self, self.steps_field))


class ArmResult(ArmRecord):
    """One arm of the comparison, trained with one seed."""

    steps_field: ClassVar[str] = "iterations"

    name: str = Field(min_length=1)
    """The arm: ``cpt``, ``static_2bit``, ``matched_cost``, ``baseline_fp32``, ``ablation_random_cycling``, ..."""
    kind: ArmKind
    """What sort of arm it is."""
    seed: int
    """The seed that it was trained with; arms with the same seed are compared in pairs."""
    scores: list[WidthScore]
    """The scores at each target width."""
    own: WidthScore
    """The score at its own width: the one it was trained for, or the model's default width for ``cpt``."""
    own_label: str
    """That width in words: ``4``, ``2/4 alternating``, ``32``."""
    visited: list[float] | None = None
    """For ``cpt`` the target widths that its cycle came within half a bit of; null for an arm that trained at its own
    width."""
    average_bits: float = Field(gt=0, le=32)
    """Width of the forward pass over this arm's own steps, in bits: a mean weighted with multiply-accumulates."""
    dial_bits: float | None = None
    """Width over this arm's own steps as the dial says: the mean over the quantized layers; null in older files."""
    bitops: float = Field(ge=0)
    """Simulated BitOps of training this arm, what it was fine-tuned from included."""
    bitops_own: float = Field(ge=0)
    """Simulated BitOps of this arm's own steps."""
    seconds: float = Field(ge=0)
    """Wall-clock seconds of training, over the steps that `bitops` counts."""
    seconds_own: float | None = Field(default=None, ge=0)
    """Wall-clock seconds of this arm's own steps; null when they were not measured apart."""
    iterations: int = Field(ge=0)
    """How many optimizer steps of its own the arm took."""
    costs: dict[str, WidthCost] = {}
    """What it takes to ship at each width, by the width in words; empty in files of earlier versions."""
    forward_seconds: float | None = None
    """Wall-clock seconds of one prediction as it is computed here, at any width; null in files of earlier versions."""
    history: History = History()
    """What was logged while it was trained."""
    precision_note: str | None = None
    """Which steps a narrow floating-point format lost, and where it changed; null where all went well."""
    early_stop: EarlyStop | None = None
    """Where early stopping ended the training; null where it did not."""

    @model_validator(mode="after")
    def _one_score_a_width(self) -> Self:
        widths = [score.bits for score in self.scores]
        if len(set(widths)) != len(widths):
            raise ValueError(f"arm '{self.name}' must have one score for each width, got scores at {widths} bits")
        return self

    def at(self, bits: float) -> WidthScore | None:
        """Return the score at a target width, or None when the arm was not measured there."""
        return next((score for score in self.scores if score.bits == bits), None)


class Interval(Record):
    """A mean over seeds with its Student t interval: of 95% wherever it stands in a file."""

    mean: Measured
    """The mean."""
    low: float | None = None
    """Lower end of the interval; null with one seed, which has none."""
    high: float | None = None
    """Upper end of the interval; null with one seed, which has none."""
    n: int = Field(ge=1)
    """How many values the mean is taken over."""

    @property
    def half(self) -> float | None:
        """Half the width of the interval: what stands after the ± sign; None where there is no interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


class ArmSummary(Record):
    """One arm over all its seeds."""

    name: str
    """The arm."""
    kind: ArmKind
    """What sort of arm it is."""
    seeds: int
    """How many seeds it was trained with."""
    accuracy: dict[str, Interval]
    """Accuracy at each target width, as a fraction; the keys are widths in bits, such as ``"4"``."""
    own: Interval
    """Accuracy at its own width, as a fraction."""
    own_bits: float
    """That width, in bits."""
    own_label: str
    """That width in words."""
    own_loss: Interval
    """Loss at that width, in nats."""
    own_perplexity: Interval | None = None
    """Perplexity at that width, for text."""
    average_bits: float
    """Mean over seeds of the training width, in bits, weighted with multiply-accumulates, unquantized layers too."""
    dial_bits: float | None = None
    """Mean over seeds of the training width as the dial says, over the quantized layers; null in older files."""
    accuracy_per_bit: Measured
    """Own accuracy in percentage points divided by `average_bits`."""
    bitops: float
    """Mean over seeds of the simulated training BitOps, what it was fine-tuned from included."""
    bitops_own: float
    """Mean over seeds of the simulated BitOps of the arm's own steps."""
    seconds: float
    """Mean over seeds of the wall-clock seconds, over the steps that `bitops` counts."""
    seconds_own: float | None = None
    """Mean over seeds of the wall-clock seconds of the arm's own steps; null when they were not measured apart."""
    rank: int
    """1 for the first of the ranking."""
    pareto: bool
    """True when no other arm is at least as accurate for no more BitOps and better in one of the two."""


class PairedDifference(Record):
    """The CPT model against another arm, seed by seed."""

    arm: str
    """The other arm."""
    arm_label: str
    """The width at which the other arm was measured, in words: its own."""
    cpt_bits: float
    """The width at which the CPT model was measured, in bits."""
    same_width: bool
    """True when both were measured at the same width; false when CPT has no score there and stands at its own."""
    difference: Interval
    """Accuracy of CPT minus that of the arm, as a fraction, over the seeds that both have."""
    verdict: Verdict
    """What the interval says about CPT; ``no interval`` with one shared seed."""


class Candidate(Record):
    """An arm at a width that it was measured at: what a recommendation chooses among."""

    arm: str
    """The arm."""
    kind: ArmKind
    """What sort of arm it is."""
    bits: float
    """The width, in bits; the mean over the layers where they differ."""
    label: str
    """That width in words: ``4``, ``2/4 alternating``; it tells the candidates of an arm apart."""
    trained_for: bool
    """True where the arm trained at this width: its own, and for ``cpt`` each that its cycle visited."""
    tied: bool
    """True for the most accurate candidate and those that tie with it; the recommended one is one of them."""
    accuracy: Interval
    """Accuracy at this width, as a fraction."""
    bitops: float
    """Mean over seeds of the arm's simulated training BitOps, what it was fine-tuned from included."""
    seconds: float
    """Mean over seeds of the arm's wall-clock seconds, over the steps that `bitops` counts."""


class Comparison(Record):
    """All arms side by side."""

    summaries: list[ArmSummary]
    """The arms in the order of the ranking."""
    ranking: list[str]
    """The names of the arms, first to last."""
    recommended: str
    """The name of the arm worth shipping."""
    recommended_bits: float | None = None
    """The width to ship it at, in bits; null in files of earlier versions, which recommend an arm at its own width."""
    recommended_label: str | None = None
    """That width in words; null in files of earlier versions."""
    reason: str
    """Why, in one sentence."""
    cpt_differences: list[PairedDifference]
    """CPT against every other arm; empty when no arm is of the kind ``cpt``."""
    pareto: list[str]
    """The arms on the front of accuracy against BitOps, cheapest first."""
    candidates: list[Candidate] = []
    """What the recommendation chose among, the most accurate first; empty in files of earlier versions."""

    @property
    def chosen(self) -> Candidate:
        """The recommended candidate; of a file that holds no candidates, the recommended arm at its own width."""
        wanted = self.recommended, self.recommended_label
        found = next((item for item in self.candidates if (item.arm, item.label) == wanted), None)
        return found or own_candidate(self.summary(self.recommended))

    def summary(self, name: str) -> ArmSummary:
        """Return the summary of the arm called `name`."""
        return next(item for item in self.summaries if item.name == name)


def own_candidate(row: ArmSummary) -> Candidate:
    """Return an arm at its own width as a candidate; not tied with anything."""
    return Candidate(
        arm=row.name,
        kind=row.kind,
        bits=row.own_bits,
        label=row.own_label,
        trained_for=True,
        tied=False,
        accuracy=row.own,
        bitops=row.bitops,
        seconds=row.seconds,
    )


class Machine(Record):
    """What the numbers were measured on."""

    system: str
    """Operating system and its version."""
    processor: str
    """Name of the processor."""
    cores: int
    """Cores that this process may use."""
    memory_gib: float | None = None
    """Main memory in GiB; null where the system does not tell."""
    accelerators: list[str] = []
    """Names of the GPUs."""
    python: str
    """Version of Python."""
    versions: dict[str, str] = {}
    """Versions of the libraries that the numbers depend on."""


def describe_machine() -> Machine:
    """Return the processor, the accelerators and the versions that numbers measured now depend on."""
    return Machine(
        system=f"{machine.system()} ({platform.machine()})",
        processor=machine.processor(),
        cores=machine.usable_cores(),
        memory_gib=round(machine.total_memory() / 2**30, 1),
        accelerators=machine.gpu_names(),
        python=platform.python_version(),
        versions=machine.versions(_LIBRARIES),
    )


class RunResults(Record):
    """What every recipe's ``results.json`` holds; each adds the records of its arms and what it makes of them."""

    record_type: ClassVar[type[ArmRecord]]
    """The type of its records."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    recipe: str
    """The recipe that was run."""
    created: str
    """When the file was made: ISO 8601, with the time zone."""
    command: str = ""
    """The command line that makes these results again."""
    config: dict[str, Any]
    """The configuration of the run, with every default filled in."""
    machine: Machine
    """What it ran on."""
    class_names: list[str] = []
    """What the classes are called, in the order of `confusion`; empty where there is none, or nobody knows."""
    notes: list[str] = []
    """What a reader has to know to read the numbers rightly."""

    @property
    def records(self) -> Sequence[ArmRecord]:
        """One record for every arm with every seed."""
        raise NotImplementedError

    def ships(self) -> Sequence[Shipped]:
        """What is worth shipping, for ``bitdial compare``; nothing where no network has a score."""
        raise NotImplementedError

    def print(self, console: Console, folder: Path | None = None) -> None:
        """Print the table as wide as the console, and what is to be said of it, with places of files in `folder`."""
        raise NotImplementedError

    def show(self, console: Console, folder: Path | None = None) -> None:
        """Print all there is to print: what the recipe has to say, and which arms stopped early."""
        self.print(console, folder)
        several = len(self.records) > 1
        for record in self.records:
            stop: EarlyStop | None = getattr(record, "early_stop", None)
            if stop is not None:
                console.print(f"{record.key if several else 'Training'} {stop.told()}", soft_wrap=True)

    def __repr__(self) -> str:
        """The table as text."""
        return as_text(self.show)

    def _repr_html_(self) -> str:
        """The table, for a notebook."""
        return as_html(self.show)

    __str__ = __repr__

    def save(self, path: str | Path) -> Path:
        """Write the file atomically as strict JSON (what is not finite becomes ``null``) and return its path."""
        content = self.model_dump(mode="json")
        content["notes"] = content.pop("notes")  # people read them last
        return write_atomically(path, to_json(content) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            BitdialError: there is no such file, it is not JSON, it has another schema version, or a field is wrong.
        """
        where = Path(path)
        try:
            content = json.loads(where.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BitdialError(f"no results at {where}; a run writes them at its end, as results.json") from None
        except ValueError as error:
            raise BitdialError(f"{where} is not a JSON file ({error}); was it edited or cut short?") from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise BitdialError(
                f"{where} must have schema_version {SCHEMA_VERSION}, got {version!r}; read it with the version of "
                "bitdial that wrote it, or run the experiment again"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            recipe = cls.model_fields["recipe"].default
            raise BitdialError(
                f"{where} does not follow the schema of results of `bitdial train {recipe}`: {field}: {first['msg']}"
            ) from None
