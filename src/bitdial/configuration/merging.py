"""Layers of settings: nested dicts flattened to dotted names, and merged so that the later layer wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bitdial.configuration.sentences import describe, shown
from bitdial.configuration.settings import Settings, group_of
from bitdial.errors import BitdialError


@dataclass(frozen=True)
class Entry:
    """A value, and where it came from in the words that begin an error about it."""

    value: Any
    source: str


Layer = dict[str, Entry]
"""Dotted name -> entry."""


def flatten(values: Mapping[Any, Any], known: Settings, place: Callable[[str], str], prefix: str = "") -> Layer:
    """Flatten a nested dict, as a preset or a YAML file gives it, and check its keys.

    Args:
        values: Nested settings; hyphens in keys are underscores, aliases stand for their field.
        known: The settings of the configuration model.
        place: Says where a dotted key (as it was spelled) stands: ``run.yaml, line 3``.
        prefix: Where `values` lies, with the dot at its end.

    Raises:
        BitdialError: an unknown key, a key under two names, a group that is no mapping, true or false for a number.
    """
    layer: Layer = {}
    for key, value in values.items():
        spelled = f"{prefix}{key}"
        name = known.canonical(spelled)
        source = f"{place(spelled)}: {name}"
        if name in known.groups:
            if not isinstance(value, Mapping | None):
                raise BitdialError(
                    f"{source}: expected settings of this group {{key: value}}, got {shown(value)}; "
                    f"e.g. '{next(iter(known.groups[name].model_fields))}: ...' on a line of its own, indented"
                )
            entries = flatten(value or {}, known, place, f"{spelled}.")
        elif name in known:
            if isinstance(value, bool) and not known[name].takes_bool:
                raise BitdialError(
                    f"{source}: expected {describe(known[name].annotation)}, got {str(value).lower()}; replace it"
                )
            entries = {name: Entry(value, source)}
        else:
            hint = known.suggestion(name) or "; remove it, or see --help for the settings"
            raise BitdialError(f"{place(spelled)}: unknown setting '{spelled}'{hint}")
        for twice in entries.keys() & layer.keys():
            raise BitdialError(f"{source}: '{twice}' is set twice here, under two spellings; remove one of them")
        layer.update(entries)
    return layer


def group_defaults(config_type: type[BaseModel], prefix: str = "") -> Layer:
    """Collect what the default of a group sets, so that setting one of its fields keeps the others.

    With ``cyclic: Cyclic = Cyclic(cycle_length=40)``, a file that sets only ``cyclic.profile`` keeps the length of 40.
    """
    layer: Layer = {}
    for name, info in config_type.model_fields.items():
        if group_of(info.annotation) is not None:
            default = info.get_default(call_default_factory=True)
            if isinstance(default, BaseModel):
                layer.update(_explicit(default, f"{prefix}{name}."))
    return layer


def _explicit(group: BaseModel, prefix: str) -> Layer:
    layer: Layer = {}
    for name in group.model_fields_set:
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            layer.update(_explicit(value, f"{prefix}{name}."))
        else:
            layer[prefix + name] = Entry(value, f"default of {prefix}{name}")
    return layer


def merge(layers: Iterable[Layer], known: Settings) -> Layer:
    """Merge layers, the later one winning; a setting given in one layer clears those that it excludes."""
    merged: Layer = {}
    for layer in layers:
        for prefix, group in known.groups.items():
            dot = f"{prefix}." if prefix else ""
            for names in getattr(group, "exclusive", ()):
                given = [name for name in names if dot + name in layer and layer[dot + name].value is not None]
                if given:
                    source = layer[dot + given[0]].source
                    merged.update({dot + name: Entry(None, source) for name in names if name not in given})
        merged.update(layer)
    return merged


def nested(layer: Layer) -> dict[str, Any]:
    """Turn dotted names back into nested dicts, for pydantic."""
    values: dict[str, Any] = {}
    for name, entry in layer.items():
        *groups, leaf = name.split(".")
        inner = values
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = entry.value
    return values
