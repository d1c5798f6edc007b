"""Configuration files: YAML read with the line of every key, and written so that it reads back the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

import yaml
from pydantic import BaseModel

from bitdial.errors import BitdialError, suggest


class Loader(yaml.SafeLoader):
    """YAML as people mean it: ``1e-3`` is a number, ``on`` and ``2024-01-01`` are text.

    PyYAML follows YAML 1.1, where ``1e-3`` is text, ``on`` is true and a date is a date object.
    """


_BOOL, _FLOAT, _DATE = (f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "timestamp"))
Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _FLOAT, _DATE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"""^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?
            |[-+]?[0-9]+[eE][-+]?[0-9]+
            |[-+]?\.(?:inf|Inf|INF)
            |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Writes paths, enumerations, tuples and sets as what they are read back from."""


_Dumper.add_multi_representer(PurePath, lambda dumper, path: dumper.represent_str(str(path)))
_Dumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_data(member.value))
_Dumper.add_multi_representer(tuple, lambda dumper, items: dumper.represent_list(items))
_Dumper.add_multi_representer(set, lambda dumper, items: dumper.represent_list(sorted(items)))


@dataclass(frozen=True)
class YamlFile:
    """The contents of a configuration file."""

    path: Path
    values: dict[str, Any]
    lines: dict[str, int]
    """Line number, from 1, of each dotted key."""

    def place(self, key: str) -> str:
        """Say where a key stands, for an error: ``run.yaml, line 3``."""
        return f"{self.path}, line {self.lines[key]}" if key in self.lines else str(self.path)


def read_yaml(path: str | Path) -> YamlFile:
    """Read a configuration file; an empty one stands for "all defaults".

    Raises:
        BitdialError: the file is missing, not YAML, not a mapping, or names a key twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        nearby = [other.name for other in path.parent.glob("*.y*ml") if suggest(path.stem, [other.stem])]
        hint = suggest(path.name, nearby) or "; check the path"
        raise BitdialError(f"expected a config file, but '{path}' does not exist{hint}") from None
    except IsADirectoryError:
        raise BitdialError(
            f"config must be a YAML file, got the folder '{path}'; a run's own is {path / 'config.yaml'}"
        ) from None
    except UnicodeDecodeError:
        raise BitdialError(f"config file '{path}' is not UTF-8 text; give a YAML file") from None
    try:
        node = yaml.compose(text, Loader=Loader)
        values = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise BitdialError(_yaml_sentence(path, error)) from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BitdialError(
            f"config file '{path}' must hold 'key: value' lines, got a {_kind(values)}; e.g. the line 'epochs: 3'"
        )
    return YamlFile(path, values, dict(_lines(node, "", path)))


def parse_value(text: str) -> Any:
    """Read one command line word as YAML would: ``"4"`` is 4, ``"{2: .5}"`` a dict; what is not YAML stays text."""
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text


def to_yaml(config: BaseModel) -> str:
    """Write a configuration so that ``--config`` reads back an equal one."""
    values = config.model_dump()
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


def to_flow(value: object) -> str:
    """Write a value on one line, as a flag takes it: ``{2: 0.5, 4: 0.75}``."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=True, width=1 << 20).strip()


def _lines(node: yaml.Node | None, prefix: str, path: Path) -> list[tuple[str, int]]:
    """List (dotted key, line) of every key below a node; a key that stands twice is an error."""
    found: dict[str, int] = {}
    below: list[tuple[str, int]] = []
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
            if key in found:
                raise BitdialError(
                    f"{path}, line {line}: key '{key}' stands twice, first in line {found[key]}; remove one of the two"
                )
            found[key] = line
            below += _lines(value_node, f"{key}.", path)
    return [*found.items(), *below]


def _yaml_sentence(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
    return f"{place}: expected YAML, got a syntax error ({problem}); write 'key: value' lines, indented with spaces"


def _kind(value: object) -> str:
    return {"list": "list", "str": "piece of text", "bool": "true or false"}.get(type(value).__name__, "number")
