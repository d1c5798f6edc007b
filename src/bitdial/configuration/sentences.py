"""One sentence for each thing that can be wrong with a value: what was expected, what was got, what to do."""

from __future__ import annotations

import types
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from bitdial.configuration.settings import Settings, is_list, is_mapping, members
from bitdial.errors import suggest

_NAMES: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "true or false values"),
    Any: ("any value", "values"),
}
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of")


def describe(annotation: Any, *, plural: bool = False) -> str:
    """Say in words what values a type takes: ``int | None`` is "a whole number or none"."""
    if get_origin(annotation) is Annotated:
        return describe(get_args(annotation)[0], plural=plural)
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(describe(part, plural=plural) for part in get_args(annotation))
    if annotation is type(None):
        return "none"
    if annotation in _NAMES:
        return _NAMES[annotation][plural]
    if get_origin(annotation) is Literal:
        choices = [repr(choice) if isinstance(choice, str) else str(choice) for choice in get_args(annotation)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if is_list(annotation):
        of = [part for part in get_args(annotation) if part is not Ellipsis]
        items = f" of {describe(of[0], plural=True)}" if of else ""
        return f"lists{items}" if plural else f"a list{items}"
    if is_mapping(annotation):
        return "mappings" if plural else "a mapping {key: value}"
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return "paths" if plural else "a path"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "groups of settings" if plural else "a group of settings {key: value}"
    return str(getattr(annotation, "__name__", annotation))


def setting_of(location: tuple[int | str, ...], known: Settings) -> str | None:
    """Return the dotted name of the setting that a pydantic location lies in, or ``None`` if it lies in none."""
    for length in range(len(location), 0, -1):
        name = ".".join(str(part) for part in location[:length])
        if name in known:
            return name
    return None


def sentence(error: ErrorDetails, known: Settings) -> str:
    """Turn one pydantic error into a sentence that lacks only its beginning: where the value came from."""
    kind, got = error["type"], error["input"]
    if kind == "value_error":  # a validator of ours: its text is a sentence already
        return str(error["ctx"]["error"])
    name = setting_of(error["loc"], known)
    if kind == "missing":
        return "expected a value, got none; there is no default"
    message = error["msg"]
    if kind == "finite_number":
        return f"expected a finite number, got {shown(got)}"
    if kind in _BOUNDS:
        return f"expected a value {message.removeprefix('Input should be ')}, got {shown(got)}"
    if name is None:
        return f"{message[0].lower()}{message[1:]}, got {shown(got)}"
    if kind in ("too_short", "too_long"):
        return f"{message[0].lower()}{message[1:]}"
    setting = known[name]
    entry = error["loc"][len(name.split(".")) :]
    if entry and all(is_mapping(member) and get_args(member) for member in setting.members):
        annotation, where = get_args(setting.members[0])[entry[1:2] != ("[key]",)], f"for '{entry[0]}' "
    else:
        annotation, where = setting.annotation, ""
    choices = [choice for member in members(annotation) for choice in get_args(member) if isinstance(choice, str)]
    hint = suggest(got, choices) if isinstance(got, str) else ""
    if not hint and setting.takes_list and isinstance(got, str) and "," in got:
        hint = "; separate the values with spaces"
    return f"{where}expected {describe(annotation)}, got {shown(got)}{hint}"


def shown(value: object) -> str:
    """Show a value that a user gave, shortened to stay within a sentence."""
    text = repr(value) if isinstance(value, str) else "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
