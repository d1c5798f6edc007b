"""The settings of a configuration model: every field, also of nested models, under its dotted name."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bitdial.errors import suggest


def members(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type, without ``None``: two for ``int | str | None``, one for ``int``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(member for part in get_args(annotation) for member in members(part))
    return () if annotation is type(None) else (annotation,)


def is_list(member: Any) -> bool:
    """Whether a type is a list, a tuple or a set of something."""
    return (get_origin(member) or member) in (list, tuple, set, frozenset)


def is_mapping(member: Any) -> bool:
    """Whether a type is a dict."""
    return (get_origin(member) or member) is dict


def group_of(annotation: Any) -> type[BaseModel] | None:
    """Return the nested model of a field that holds one (``Group`` or ``Group | None``), else ``None``."""
    found = members(annotation)
    if len(found) == 1 and isinstance(found[0], type) and issubclass(found[0], BaseModel):
        return found[0]
    return None


@dataclass(frozen=True)
class Setting:
    """One field of a configuration model, as the command line and YAML files name it."""

    name: str
    """Dotted name, e.g. ``cyclic.cycle_length``."""

    info: FieldInfo = field(repr=False)
    """pydantic's description of the field."""

    @property
    def flag(self) -> str:
        """The name on the command line, e.g. ``--cyclic.cycle_length``."""
        return f"--{self.name}"

    @property
    def annotation(self) -> Any:
        """The field's type."""
        return self.info.annotation

    @property
    def members(self) -> tuple[Any, ...]:
        """The alternatives of the field's type."""
        return members(self.annotation)

    @property
    def takes_bool(self) -> bool:
        """Whether the flag may stand alone, meaning true."""
        return bool in self.members

    @property
    def takes_list(self) -> bool:
        """Whether several values may follow the flag."""
        return any(map(is_list, self.members))


class Settings:
    """All settings of a configuration model by dotted name, in the order of its fields."""

    def __init__(self, config_type: type[BaseModel]) -> None:
        self.groups: dict[str, type[BaseModel]] = {"": config_type}
        self.aliases: dict[str, str] = {}
        self._settings = {setting.name: setting for setting in self._walk(config_type, "")}

    def _walk(self, model: type[BaseModel], prefix: str) -> Iterator[Setting]:
        for alias, name in getattr(model, "aliases", {}).items():
            self.aliases[prefix + alias] = prefix + name
        for name, info in model.model_fields.items():
            group = group_of(info.annotation)
            if group is None:
                yield Setting(prefix + name, info)
            else:
                self.groups[prefix + name] = group
                yield from self._walk(group, f"{prefix}{name}.")

    def __iter__(self) -> Iterator[Setting]:
        return iter(self._settings.values())

    def __contains__(self, name: str) -> bool:
        return name in self._settings

    def __getitem__(self, name: str) -> Setting:
        return self._settings[name]

    def canonical(self, name: str) -> str:
        """Return the one spelling of a name: underscores for hyphens, the field for its alias."""
        name = name.replace("-", "_")
        return self.aliases.get(name, name)

    def suggestion(self, name: str, *, mark: str = "") -> str:
        """Return ``"; did you mean 'x'?"`` for an unknown name, with `mark` (``--``) before it, or an empty string."""
        known = [name for name in (*self._settings, *self.groups, *self.aliases) if name]
        leaf = name.rpartition(".")[2]
        same_leaf = [setting for setting in self._settings if setting.rpartition(".")[2] == leaf]
        return suggest(name, same_leaf or known).replace("'", f"'{mark}", 1)


settings = Settings
"""The public name: what a test freezes, and what flags and YAML keys are checked against."""
