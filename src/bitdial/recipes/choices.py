"""What can be chosen of a recipe, and what can be told to be wrong before torch is loaded, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitdial.configuration import load_config
from bitdial.data.options import HUB, check_dataset_name
from bitdial.errors import BitdialError
from bitdial.models.names import check_name, check_signal_name
from bitdial.names import is_recordings
from bitdial.own_files import is_place, own_file
from bitdial.recipes.options import BROUGHT, OWN, RunOptions, WorkOptions
from bitdial.recipes.source import source_of

_READ = {
    "teacher": "the folder of a run",
    "start_from": "a checkpoint or a state dict",
    "checkpoint": "a run, a checkpoint or a state dict",
    "test_path": "a folder of pictures",
}
"""Option of a recipe that names what is there already -> what that is."""
_AT_PATH = {
    "folder": "a folder",
    "npz": "a file",
    "recordings": "a folder or an index file",
    None: "a folder of pictures",
}
"""Data set that is where the user says (none: pictures) -> what that is."""


@dataclass(frozen=True)
class Choices:
    """The options of a recipe, its presets, and what each of these is for, in a line."""

    options: type[RunOptions]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summaries: Mapping[str, str] = field(default_factory=dict)

    def listed(self, prog: str) -> str:
        """The presets, one a line."""
        if not self.presets:
            return f"`{prog}` has no presets: its defaults are for a first run. `{prog} --help` lists its flags."
        rows = "\n".join(f"  {name:<13} {self.summaries[name]}" for name in self.presets)
        return (
            f"Presets of `{prog} PRESET [--flag value ...]`:\n\n{rows}\n\n"
            f"Flags win over the preset; `{prog} --help` lists them."
        )

    def check(self, recipe: str, argv: Sequence[str]) -> None:
        """Refuse what is wrong in a command line, as far as that needs no torch; print the help where it is asked for.

        Raises:
            BitdialError: a flag, a value, a name, or a file that is not there.
            SystemExit: after the help.
        """
        options = load_config(self.options, self.presets, argv, prog=f"bitdial train {recipe}", recipe=recipe)
        for name, fault in self.faults(recipe, options):
            raise BitdialError(f"--{name}: {fault}" if name in {*_READ, "data_path"} else fault)

    def faults(self, recipe: str, options: RunOptions) -> Iterator[tuple[str, str]]:
        """What is wrong with valid options, as far as that needs no torch: each option's name, and a sentence."""
        yield from _fault("resume", lambda name: source_of(name, options), recipe)
        if options.resume is not False:
            return  # the run knows its network and data
        if isinstance(options, WorkOptions):
            yield from _faults_of_work(options.model, options.dataset)
        data = _AT_PATH.get(getattr(options, "dataset", None))
        for name, expected in {**_READ, **({"data_path": data} if data else {})}.items():
            path = getattr(options, name, None)
            if is_place(str(path)):
                yield from _fault(name, own_file, str(path))
            elif isinstance(path, Path) and not path.expanduser().exists():
                yield name, f"expected {expected} at {path}, got nothing; check the path"


def check_work(model: str, dataset: str) -> None:
    """Refuse a network or a data set by a name that there is none of; what belongs to a library, it is asked later.

    Raises:
        BitdialError: the text lists those there are.
    """
    for _, fault in _faults_of_work(model, dataset):
        raise BitdialError(fault)


def _faults_of_work(model: str, dataset: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a network and a data set by name: the option's name, and a sentence."""
    if model == OWN:
        yield "model", BROUGHT.format("model must be a network's name")
    if is_recordings(dataset):
        yield from _fault("model", check_signal_name, model)
        return
    yield from _fault("model", check_name, model)
    if dataset == OWN:
        yield "dataset", BROUGHT.format("dataset must be the name of a data set")
    elif is_place(dataset):
        yield from _fault("dataset", own_file, dataset)
    elif not dataset.startswith(HUB):
        yield from _fault("dataset", check_dataset_name, dataset)


def _fault(option: str, check: Callable[[str], object], value: str) -> Iterator[tuple[str, str]]:
    try:
        check(value)
    except BitdialError as error:
        yield option, str(error)
