"""What a recipe is to the engine: a record of what is its own, and what the engine hands to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import torch
from torch import nn

from bitdial.data import Fingerprint
from bitdial.errors import BitdialError
from bitdial.evaluation.drawing import Drawing
from bitdial.evaluation.results import ArmRecord, EarlyStop, RunResults, WidthCost, WidthScore
from bitdial.evaluation.sweep import sweep, unchanged
from bitdial.evaluation.width_costs import width_costs
from bitdial.export.packed import packed_bytes
from bitdial.layers import BitDial, Ledger
from bitdial.layers.dial import Bits
from bitdial.recipes.options import RunOptions
from bitdial.recipes.saved_model import SavedModel, bits_of
from bitdial.training import CheckpointManager, RunFolder, Setup, Task, TrainingState

if TYPE_CHECKING:
    from rich.table import Table

    from bitdial.evaluation.page import Page
    from bitdial.recipes.run import Run

MOST_PACKED = 8
"""The widest weights that a packed file holds in their real bits."""

O = TypeVar("O", bound=RunOptions)  # noqa: E741  (options)
A = TypeVar("A", bound="Arm")
R = TypeVar("R", bound=ArmRecord)
S = TypeVar("S", bound=RunResults)


@dataclass(frozen=True)
class Loaders:
    """The data of one seed.

    Attributes:
        train: training batches, iterated again and again.
        test: batches to measure on.
        recalibration: training batches, unaugmented where possible, that batch-norm statistics are re-estimated from.
        validation: batches held out to choose by, or None.
    """

    train: Iterable[Any]
    test: Iterable[Any]
    recalibration: Iterable[Any]
    validation: Iterable[Any] | None = None

    @classmethod
    def of(cls, given: Loaders | Sequence[Iterable[Any]]) -> Loaders:
        """Take ``(train, test)`` or ``(train, test, recalibration)`` for `Loaders`.

        Raises:
            BitdialError: it is neither.
        """
        if isinstance(given, Loaders):
            return given
        if not isinstance(given, Sequence) or len(given) not in (2, 3):
            raise BitdialError(
                "loaders must be (train, test) or (train, test, recalibration), each giving batches again"
            )
        return cls(given[0], given[1], given[-1] if len(given) == 3 else given[0])


class Work(Protocol):
    """What is learned: data of any shape, a task, and a network for both."""

    @property
    def name(self) -> str:
        """What the data is called in reports."""
        ...

    @property
    def task(self) -> Task:
        """Loss and scores of a batch."""
        ...

    def build(self) -> nn.Module:
        """The network with new weights, unquantized, drawn from torch's global generators."""
        ...

    def loaders(self, seed: int, rank: int = 0, world_size: int = 1) -> Loaders:
        """The batches of a seed; each process trains on its share, all measure on everything."""
        ...

    def under(self, options: Any) -> Self:
        """The same data under the options of one arm."""
        ...

    def to(self, device: torch.device) -> Self:
        """The same data on the device that trains, where it fits."""
        ...

    def facts(self) -> dict[str, Any]:
        """What the file of a trained network has to say of network and data; see `SavedModel`."""
        ...

    def identify(self) -> Fingerprint:
        """Which examples there are in each part."""
        ...

    def divided_as(self, before: Fingerprint, now: Fingerprint) -> Self:
        """The data divided as it was before, where that can be done; `now` is its fingerprint, in the same terms."""
        ...

    def examples(self) -> int | None:
        """How many a batch may have at most; None where nobody knows.

        Raises:
            BitdialError: the batches are given, and nobody can make them larger.
        """
        ...

    def told(self, part: str = "") -> str:
        """The data in words, for the notes of a report; with "test", what is measured on."""
        ...


@dataclass(frozen=True)
class Arm:
    """One network trained one way.

    Attributes:
        name: what it is called in files, logs and reports.
        starts_from: the arm of the same seed whose trained network it goes on from; None: new weights.
        needs: further arms of the same seed whose trained networks it uses (a teacher, say).
        options: its own options, where they differ from those of the run.
        rehearsed: whether it is tried out on two examples before a run begins; one of several that are alike is enough.
        steps: about how many it takes, where arms differ, to tell how long the run will take; None: as many as others.
        follows: arms of the same seed whose records its length or the like goes by.
    """

    name: str
    starts_from: str | None = None
    needs: tuple[str, ...] = ()
    options: Any = field(default=None, repr=False)
    rehearsed: bool = True
    steps: int | None = None
    follows: tuple[str, ...] = ()

    @property
    def before(self) -> set[str]:
        """The arms that must be trained before it."""
        return {*self.needs, *([self.starts_from] if self.starts_from else [])}


@dataclass(frozen=True)
class Bench(Generic[O]):
    """What one arm with one seed is trained on.

    Attributes:
        options: of the arm.
        work: data, task and network, under these options.
        seed: of the arm.
        model: to be trained in place: new and quantized, or a copy of what the arm starts from.
        loaders: the batches.
        setup: devices, logs, checkpoints; its `fit` trains.
        trained: the trained networks that the arm needs, by arm.
        done: the records of the arms before it, by arm.
        files: where the arm's files go; None writes nothing.
        checkpoints: the states that were saved of it.
        saved: the description of its network, for its file.
    """

    options: O
    work: Work
    seed: int
    model: nn.Module
    loaders: Loaders
    setup: Setup
    trained: Mapping[str, nn.Module] = field(default_factory=dict)
    done: Mapping[str, Any] = field(default_factory=dict)
    files: ArmFiles | None = None
    checkpoints: CheckpointManager | None = None
    saved: SavedModel | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.setup.fabric is None or bool(self.setup.fabric.is_global_zero)

    def sweep(self, widths: Sequence[Any]) -> list[WidthScore]:
        """`bitdial.sweep` of its network on the test batches."""
        recalibration, task = self.loaders.recalibration, self.setup.task
        return sweep(self.model, self.loaders.test, widths, recalibration_batches=recalibration, task=task)

    def width_costs(self, ledger: Ledger, widths: Mapping[str, Bits]) -> dict[str, WidthCost]:
        """What the files of its network hold at some widths, and its simulated BitOps there (`width_costs`)."""
        beside = 0
        if self.saved is not None and bits_of(self.model):
            with unchanged(self.model), suppress(BitdialError):  # which no file holds, such as weights that are NaN
                BitDial(self.model).set(MOST_PACKED)
                data = packed_bytes(self.model, description=self.saved.packed())
                beside = len(data) - ledger.size_bytes(MOST_PACKED)
        return width_costs(ledger, widths, beside)


def patience_suffices(options: Any, record: ArmRecord) -> bool:
    """Whether an arm was trained to its end, or as long as early stopping has patience now."""
    stop: EarlyStop | None = getattr(record, "early_stop", None)
    return stop is None or stop.patience >= options.early_stopping_patience


def _yes(*_: Any) -> bool:
    return True


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Tuned:
    """How ``bitdial search`` judges a run.

    Attributes:
        settings: options beneath those of the user: that there are evaluations, and of data held out.
        arm: whose evaluations are judged; None: the only one.
        rescales: options that change the scale of the task's own metric, so that its values cannot be compared.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    arm: str | None = None
    rescales: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Recipe(Generic[O, A, R, S]):
    """One recipe: what the engine in `bitdial.recipes.run` cannot know.

    Attributes:
        name: what ``bitdial train`` calls it.
        options: its options.
        presets: name -> settings, as in a YAML file.
        work: options (and what a script brings: model, data, task) -> the data and network of a run, checked.
        arms: the arms of one seed, each after those that it needs.
        quantize: what `bitdial.quantize` is called with for an arm's options; None leaves the network as it is.
        train: hang in hooks and schedules, and `Setup.fit`.
        measure: one record of what an arm gave. Called in every process, of which only the first may write.
        conclude: the results of a run, of all its records and of what all recipes put in.
        results: the type of ``results.json``.
        page: the report.
        figures: name -> every plot, of the results and of what the run's folder has besides.
        may_change: options that may differ when a run is resumed, besides where it runs.
        may_grow: options that may be raised then, never lowered.
        column: what the log calls an arm.
        own_folders: whether each arm has a folder of its own for checkpoints.
        keeping: which checkpoints are kept: arguments of `CheckpointManager`.
        suffices: whether a record is of all that is asked for now; else the arm goes on.
        leave: write what else a finished run leaves. The first process only.
        saves_plots: whether the plots are wanted as files.
        dialled: whether its networks can be measured at any width, by ``bitdial evaluate``.
        evaluated: the table that this prints of an arm with a seed, where it is none of accuracy and loss.
        tuned: how a search judges it.
    """

    name: str
    options: type[O]
    presets: Mapping[str, Mapping[str, Any]]
    work: Callable[..., Work]
    arms: Callable[[O], Sequence[A]]
    quantize: Callable[[O], Mapping[str, Any] | None]
    train: Callable[[A, Bench[O]], TrainingState]
    measure: Callable[[A, Bench[O], TrainingState], R]
    conclude: Callable[[Sequence[R], Run[O, A, R, S], dict[str, Any]], S]
    results: type[S]
    page: Callable[[S, Mapping[str, Drawing]], Page]
    figures: Callable[[S, RunFolder], dict[str, Drawing]]
    may_change: frozenset[str] = frozenset()
    may_grow: frozenset[str] = frozenset()
    column: str = "arm"
    own_folders: bool = False
    keeping: Callable[[O], Mapping[str, Any]] = lambda options: {"keep_last_n": 2, "keep_best": 0}
    suffices: Callable[[O, R], bool] = patience_suffices
    leave: Callable[[S, Run[O, A, R, S]], None] = _nothing
    saves_plots: Callable[[O], bool] = _yes
    dialled: bool = True
    evaluated: Callable[[Run[O, A, R, S], str, int], Table] | None = None
    tuned: Tuned = Tuned()

    @property
    def prog(self) -> str:
        """What a user types to get to it."""
        return f"bitdial train {self.name}"


@dataclass(frozen=True)
class ArmFiles:
    """Where an arm's files are.

    Attributes:
        run: the run's folder.
        key: ``NAME-seedN``.
        apart: whether the arm has a folder of its own for checkpoints.
    """

    run: RunFolder
    key: str
    apart: bool

    @property
    def folder(self) -> Path:
        """Folder of its checkpoints."""
        return self.run.checkpoints / self.key if self.apart else self.run.checkpoints

    @property
    def prefix(self) -> str:
        """What their names begin with."""
        return "checkpoint" if self.apart else self.key

    @property
    def record(self) -> Path:
        """What the arm gave, once it is trained to its end."""
        return self.folder / "arm.json" if self.apart else self.run.models / f"{self.key}.json"

    def holds(self, checkpoint: Path) -> bool:
        """Whether a file is a checkpoint of this arm."""
        inside = checkpoint.absolute().parent == self.folder.absolute()
        return inside and checkpoint.name.startswith(f"{self.prefix}-")
