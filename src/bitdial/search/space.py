"""What a search may choose: a YAML file, read and checked against the options that it names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from bitdial.configuration import load_config
from bitdial.configuration.files import read_yaml
from bitdial.configuration.loading import flatten
from bitdial.configuration.sentences import describe, shown
from bitdial.configuration.settings import Setting, Settings, is_mapping
from bitdial.errors import BitdialError, suggest

if TYPE_CHECKING:
    from optuna.trial import Trial

_KEYS = ("low", "high", "step", "log")
_PLAIN = (bool, int, float, str, type(None))
"""What a study stores as it is; other choices are stored as compact JSON."""

Build = Callable[[Mapping[str, Any]], BaseModel]
"""Options of which some are set, by dotted name."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where `whole`, even in their logarithm where `log`."""

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    def suggest(self, trial: Trial, name: str) -> float:
        """Let a trial choose."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    @property
    def middle(self) -> float:
        """What lies between both ends."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        step = self.step or (1 if self.whole else None)
        if step is not None:
            middle = self.low + round((middle - self.low) / step) * step
        return round(middle) if self.whole else middle

    @property
    def points(self) -> list[float] | None:
        """All numbers, where they can be counted."""
        step = self.step or (1 if self.whole else None)
        if step is None:
            return None
        steps = range(int((Decimal(str(self.high)) - Decimal(str(self.low))) // Decimal(str(step))) + 1)
        found = [float(Decimal(str(self.low)) + number * Decimal(str(step))) for number in steps]
        return [int(each) for each in found] if self.whole else found

    def described(self) -> dict[str, Any]:
        """As the file has it."""
        more = {"step": self.step, "log": self.log}
        return {"low": self.low, "high": self.high} | {name: value for name, value in more.items() if value}


@dataclass(frozen=True)
class Choices:
    """Some values, of any type that the option takes."""

    values: tuple[Any, ...]

    def suggest(self, trial: Trial, name: str) -> Any:
        """Let a trial choose."""
        stored = [_stored(value) for value in self.values]
        return self.values[stored.index(trial.suggest_categorical(name, stored))]

    @property
    def middle(self) -> Any:
        """The first."""
        return self.values[0]

    @property
    def points(self) -> list[Any]:
        """All, as a study stores them."""
        return [_stored(value) for value in self.values]

    def described(self) -> list[Any]:
        """As the file has it."""
        return list(self.values)


@dataclass(frozen=True)
class Space:
    """Options that a search chooses, and options that the file fixes.

    Attributes:
        searched: dotted name -> what there is to choose from.
        fixed: dotted name -> value.
        sources: dotted name -> where it stands, as errors begin.
    """

    searched: Mapping[str, Range | Choices]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(
        cls,
        path: str | Path,
        options: type[BaseModel],
        *,
        build: Build | None = None,
        flags: Collection[str] = (),
        refused: Mapping[str, str] | None = None,
        kept: Mapping[str, str] | None = None,
    ) -> Space:
        """Read and check a file such as ``{lr: {low: 1e-4, high: .1, log: true}, batch_size: [32, 64], steps: 200}``.

        Args:
            path: of the file.
            options: that it names.
            build: options of which some are set, to validate with; None: the defaults of `options` under them.
            flags: options that are set elsewhere already.
            refused: option -> why the file may not hold it.
            kept: option -> why it may be fixed, but not searched.

        Raises:
            BitdialError: anything that is wrong with it, with file and line.
        """
        file = read_yaml(path)
        known = Settings(options)
        if not file.values:
            raise BitdialError(
                f"{path}: expected options to search, got an empty file; e.g. the line 'lr: {{low: 1e-4, high: .1}}'"
            )
        searched: dict[str, Range | Choices] = {}
        fixed: dict[str, Any] = {}
        layer = flatten(file.values, known, file.place)
        for name, entry in layer.items():
            value, source = entry.value, entry.source
            if name in (refused or {}):
                raise BitdialError(f"{source}: {(refused or {})[name]}; remove it from the space")
            if name in flags:
                raise BitdialError(f"{source}: this option is a flag of the command too; remove one of them")
            found = _dimension(value, known[name], source)
            if not isinstance(found, Range | Choices):
                fixed[name] = found
                continue
            if name in (kept or {}):
                raise BitdialError(f"{source}: may not be searched, {(kept or {})[name]}; give one value")
            searched[name] = found
        if not searched:
            raise BitdialError(f"{path}: expected an option to search, got only fixed ones; give one a range")
        sources = {name: entry.source for name, entry in layer.items()}
        space = cls(searched, fixed, sources)
        space._check_values(build or (lambda values: load_config(options, values=values)))
        return space

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Let a trial choose; return the options by dotted name, fixed ones included."""
        return {**self.fixed, **{name: each.suggest(trial, name) for name, each in self.searched.items()}}

    @property
    def middle(self) -> dict[str, Any]:
        """The options in the middle of all ranges, with the first of all choices."""
        return {**self.fixed, **{name: each.middle for name, each in self.searched.items()}}

    @property
    def grid(self) -> dict[str, list[Any]]:
        """All values of each searched option.

        Raises:
            BitdialError: one has more than can be counted.
        """
        found = {name: each.points for name, each in self.searched.items()}
        for name, points in found.items():
            if points is None:
                raise BitdialError(
                    f"{self.sources.get(name, name)}: a grid has choices or a range with a step, got one without; "
                    "give a step, or another --sampler"
                )
        return {name: points for name, points in found.items() if points is not None}

    def described(self) -> dict[str, Any]:
        """What is searched, in a form that does not depend on how the file was written."""
        return {name: self.searched[name].described() for name in sorted(self.searched)}

    def _check_values(self, build: Build) -> None:
        """Validate every bound, choice and fixed value as the option's own; what contradicts others may still occur."""
        tried = {name: (value,) for name, value in self.fixed.items()}
        for name, each in self.searched.items():
            tried[name] = (each.low, each.high) if isinstance(each, Range) else each.values
        for name, values in tried.items():
            for value in values:
                try:
                    build({**self.middle, name: value})
                except BitdialError as error:
                    place, found, told = str(error).partition(f"argument: {name}: ")
                    if found and not place:
                        raise BitdialError(f"{self.sources.get(name, name)}: {told}") from None


def _dimension(value: Any, setting: Setting, source: str) -> Any:
    """A range, choices, or the one value that the option is fixed to."""
    if isinstance(value, list):
        return _choices(value, source)
    if not isinstance(value, Mapping):
        if isinstance(value, float) and not math.isfinite(value):
            raise BitdialError(f"{source}: expected a finite number, got {value}; replace it")
        return value
    if any(map(is_mapping, setting.members)) and not {"low", "high"} & value.keys():
        return value  # a dict is what the option takes
    return _range(value, setting, source)


def _choices(values: list[Any], source: str) -> Any:
    if not values:
        raise BitdialError(f"{source}: expected at least one choice, got an empty list; write e.g. [1, 2]")
    for number, value in enumerate(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise BitdialError(f"{source}: choices must be finite, got {value}; remove it")
        if value in values[:number]:
            raise BitdialError(f"{source}: choices must be different, got {shown(value)} twice; remove one of them")
    return Choices(tuple(values)) if len(values) > 1 else values[0]


def _range(given: Mapping[Any, Any], setting: Setting, source: str) -> Range:
    for key in given:
        if key not in _KEYS:
            hint = suggest(str(key), _KEYS) or f"; a range has {', '.join(_KEYS)}"
            raise BitdialError(f"{source}: unknown key '{key}' of a range{hint}")
    for key in ("low", "high"):
        if given.get(key) is None:
            raise BitdialError(f"{source}: a range has low and high, got no {key}; write e.g. {{low: 1, high: 10}}")
    if not {int, float} & set(setting.members):
        raise BitdialError(
            f"{source}: a range is of numbers, expected {describe(setting.annotation)}; give choices, e.g. [a, b]"
        )
    whole = float not in setting.members
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise BitdialError(f"{source}: log must be true or false, got {shown(log)}; replace it")
    numbers = {key: _number(given[key], key, whole, source) for key in given if key != "log" and given[key] is not None}
    low, high, step = numbers["low"], numbers["high"], numbers.get("step")
    if low >= high:
        how = "equal to" if low == high else "above"
        raise BitdialError(
            f"{source}: low must be below high, got {low:g} {how} {high:g}; "
            + ("write the value alone to fix it" if low == high else "exchange them")
        )
    if log and low <= 0:
        raise BitdialError(f"{source}: low must be above 0 with log, got {low:g}; raise it, or leave log out")
    if step is not None:
        if step <= 0:
            raise BitdialError(f"{source}: step must be above 0, got {step:g}; give a larger one")
        if log:
            raise BitdialError(f"{source}: step and log exclude each other, got both; leave one out")
        if step > high - low:
            raise BitdialError(f"{source}: step must fit between low and high, got {step:g}; give a smaller one")
        high = Range(low, high, step, whole=whole).points[-1]  # type: ignore[index]  # the last one that steps reach
    return Range(low, high, step, log, whole)


def _number(value: Any, key: str, whole: bool, source: str) -> float:
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise BitdialError(f"{source}: {key} must be a number, got {shown(value)}; replace it")
    if not math.isfinite(number):
        raise BitdialError(f"{source}: {key} must be a finite number, got {number}; replace it")
    if whole and number != int(number):
        raise BitdialError(f"{source}: {key} must be a whole number, as the option is, got {number:g}; round it")
    return int(number) if whole else float(number)


def _stored(value: Any) -> Any:
    return value if isinstance(value, _PLAIN) else json.dumps(value, separators=(",", ":"))
