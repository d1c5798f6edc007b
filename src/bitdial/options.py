"""What every group of options is: a pydantic model, declared once, inherited or nested wherever it is used."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator

from bitdial.errors import BitdialError

C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Preset:
    """Which preset a configuration was made with, and what it set; configurations are equal without."""

    name: str = field(default="", compare=False)
    settings: frozenset[str] = field(default=frozenset(), compare=False)

    def blamed(self, text: str) -> str:
        """Return an error's text; where it speaks of settings that the preset set, that is added."""
        found = [each for each in self.settings if re.search(rf"\b{re.escape(each.rpartition('.')[2])}\b", text)]
        if not found or f"preset '{self.name}'" in text:
            return text
        are = "is" if len(found) == 1 else "are"
        return f"{text} ({' and '.join(sorted(found))} {are} set by the preset '{self.name}')"


class Config(BaseModel):
    """Base of every configuration: unknown keys are refused, and assignments are validated too.

    The docstring under each field is its documentation, in Python and in ``--help``. A subclass that wants another
    default for an inherited field says so in `defaults`, and does not declare the field again. Numbers are finite,
    unless a field says otherwise.
    """

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    aliases: ClassVar[Mapping[str, str]] = {}
    """Second names that flags and YAML keys of this model may use, each with the field it stands for."""

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Sets of fields of which at most one may have a value; the one given last (preset, file, flags) wins."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    """Inherited field -> its default in this model."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Dotted key of another project's configuration files -> the field that it means; a section of such a file that is
    named here makes a file one of that project, whose other sections are ignored."""

    _preset: Preset = PrivateAttr(Preset())
    _notes: list[str] = PrivateAttr([])
    """What there is to tell of the file that it was read from."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        own: Mapping[str, Any] = cls.__dict__.get("defaults", {})
        for name, value in own.items():
            inherited = copy(cls.model_fields[name])
            inherited.default = value
            cls.model_fields[name] = inherited
        if own:
            cls.model_rebuild(force=True)

    @classmethod
    def fitted(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a preset sets beside what the user gave, so that it asks for nothing: limited, or left out.

        Args:
            preset: dotted name -> value.
            given: what file, flags and call set.
        """
        return preset

    def blamed(self, text: str) -> str:
        """Return an error's text, with a word on what it is about that a preset has set, and not the user."""
        return self._preset.blamed(text)

    @property
    def file_notes(self) -> Sequence[str]:
        """What there is to tell of the file that it was read from."""
        return tuple(self._notes)

    def __setattr__(self, name: str, value: Any) -> None:
        values, given = dict(self.__dict__), set(self.__pydantic_fields_set__)
        try:
            super().__setattr__(name, value)
        except ValidationError:  # pydantic leaves in place what only a validator of the whole model refused
            object.__setattr__(self, "__dict__", values)
            object.__setattr__(self, "__pydantic_fields_set__", given)
            raise

    @model_validator(mode="after")
    def _at_most_one_of_a_set(self) -> Config:
        for names in self.exclusive:
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) > 1:
                raise BitdialError(f"{' and '.join(given)} exclude each other, got both; give only one of them")
        return self


def part(options: Config, component: type[C], **own: Any) -> C:
    """Cut a component's options out of those of a recipe: each field of that name, or of its alias, unless in `own`."""
    names = {name: options.aliases.get(name, name) for name in component.model_fields}
    known = type(options).model_fields
    return component(**{name: getattr(options, source) for name, source in names.items() if source in known} | own)
