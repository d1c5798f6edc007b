"""Configuration files of another project, read as they are: its own nesting, and sections that mean nothing here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bitdial.configuration.files import YamlFile
from bitdial.configuration.sentences import shown
from bitdial.configuration.settings import Settings, is_mapping
from bitdial.errors import BitdialError, suggest

_ALIKE = 0.8
"""From this likeness on, an unknown name in a file of another project is taken for a misspelt one."""


@dataclass
class Adopted:
    """What a file says, in the names of the settings."""

    values: dict[str, Any] = field(default_factory=dict)
    """Setting -> value."""
    places: dict[str, str] = field(default_factory=dict)
    """Setting -> the dotted key that it stands under in the file."""
    ignored: list[str] = field(default_factory=list)
    """Dotted keys that mean nothing here."""

    def take(self, name: str, value: Any, key: str, file: YamlFile) -> None:
        """Take a value for a setting; a second, unlike one is refused."""
        if name in self.values and self.values[name] != value:
            raise BitdialError(
                f"{file.place(key)}: '{key}' is {shown(value)}, got another value for the same in "
                f"{file.place(self.places[name])}: '{self.places[name]}' is {shown(self.values[name])}; keep one"
            )
        self.values[name], self.places[name] = value, key


def adopt(file: YamlFile, values: Mapping[Any, Any], known: Settings, *, strict: bool = False) -> Adopted:
    """Read a file that may be one of another project, as the model's `elsewhere` describes it.

    It is one where it has a section that `elsewhere` names. Keys of such sections are checked; what else the file has,
    and no setting is named like, is ignored. Any other file is left as it is.

    Args:
        file: where the values stand.
        values: its content.
        known: the settings of the model, of which `elsewhere` is asked.
        strict: refuse what would be ignored.

    Raises:
        BitdialError: a misspelt key, two values for one setting, a section that is none; with `strict` an unused one.
    """
    elsewhere: Mapping[str, str] = getattr(known.groups[""], "elsewhere", {})
    sections = {key.partition(".")[0] for key in elsewhere if "." in key}
    found, rest = Adopted(), dict(values)
    named = {str(key).replace("-", "_"): key for key in values}
    for name in sorted(sections & named.keys()):
        _section(file, rest.pop(named[name]), elsewhere, str(named[name]), name, found)
    if len(rest) == len(values):
        for key in rest:
            near = difflib.get_close_matches(str(key), sections, 1, _ALIKE)
            if near and known.canonical(str(key)) not in known:
                raise BitdialError(f"{file.place(str(key))}: unknown section '{key}'; did you mean '{near[0]}'?")
        return Adopted(rest)
    for key, value in rest.items():
        spelled, name = str(key), known.canonical(str(key))
        section = isinstance(value, Mapping)
        if name in known.groups:
            means = not section or not value or any(known.canonical(f"{name}.{inner}") in known for inner in value)
        else:
            means = name in known and (not section or any(map(is_mapping, known[name].members)))
        if means:
            found.take(name, value, spelled, file)
            continue
        names = [*sections, *known.groups] if section else [*sections, *(each.name for each in known), *known.aliases]
        near = difflib.get_close_matches(name, [each for each in names if each], 1, _ALIKE)
        if near and near[0] != name:
            raise BitdialError(f"{file.place(spelled)}: unknown setting '{spelled}'; did you mean '{near[0]}'?")
        found.ignored.append(spelled)
    found.ignored.sort(key=lambda key: file.lines.get(key, 0))
    if strict and found.ignored:
        first, more = found.ignored[0], len(found.ignored) - 1
        raise BitdialError(
            f"{file.place(first)}: expected settings that mean something here, got '{first}'"
            f"{f' and {more} more' if more else ''}; remove what is not used, or leave --strict out"
        )
    return found


def _section(file: YamlFile, value: Any, elsewhere: Mapping[str, str], spelled: str, path: str, found: Adopted) -> None:
    """Take the settings of a section that is used, and of those in it."""
    inside = {key.removeprefix(f"{path}.").partition(".")[0] for key in elsewhere if key.startswith(f"{path}.")}
    if not isinstance(value, Mapping | None):
        raise BitdialError(
            f"{file.place(spelled)}: {path} must be a section of settings ({', '.join(sorted(inside)[:4])}, ...), "
            f"got {shown(value)}; write them on lines of their own, indented"
        )
    for key, inner in (value or {}).items():
        place, name = f"{spelled}.{key}", str(key).replace("-", "_")
        if f"{path}.{name}" in elsewhere:
            found.take(elsewhere[f"{path}.{name}"], inner, place, file)
        elif name in inside:
            _section(file, inner, elsewhere, place, f"{path}.{name}", found)
        else:
            near = suggest(name, inside)
            if near or not isinstance(inner, Mapping):
                hint = near or f"; there are {', '.join(sorted(inside))}"
                raise BitdialError(f"{file.place(place)}: unknown setting '{key}' in the section {path}{hint}")
            found.ignored.append(place)
