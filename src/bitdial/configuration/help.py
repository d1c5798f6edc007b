"""The help of a command, drawn by tyro from the configuration model."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

import tyro
from pydantic import BaseModel

from bitdial.configuration.files import parse_value, to_flow
from bitdial.configuration.settings import is_mapping, members

_registry = tyro.constructors.ConstructorRegistry()


@_registry.primitive_rule
def _mapping_is_one_word(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Show a dict as one flag with one value; tyro would make a flag of every key that the default happens to have."""
    if not any(is_mapping(member) for member in members(info.type)):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="'{KEY: VALUE, ...}'",
        instance_from_str=lambda texts: parse_value(texts[0]),
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=lambda value: [to_flow(value)],
    )


def print_help(
    config_type: type[BaseModel],
    default: BaseModel | None,
    presets: Iterable[str],
    *,
    prog: str,
    positional: str | None = None,
) -> None:
    """Print the flags of `config_type`, with what each means and its value in `default`, as wide as the terminal."""
    names = sorted(presets)
    first = f" {positional.upper()}" if positional else " [PRESET]" if names else ""
    notes = (inspect.getdoc(config_type) or "").split("\n\n")
    if names:
        notes.append(f"Presets: {', '.join(names)}. A preset is the first word, or --preset NAME.")
    notes.append(
        "Settings are also read from --config FILE.yaml, whose keys are the names of the flags. "
        f"Flags win over the file{', the file over the preset' if names else ''}."
    )
    width = min(shutil.get_terminal_size().columns, 120)
    given: dict[str, Any] = {} if default is None else {"default": default}
    try:
        tyro.cli(
            config_type,
            prog=prog + first,
            # tyro joins lines that it thinks are one paragraph and wraps none; it leaves indented lines alone
            description="\n\n".join(textwrap.fill(note, width, subsequent_indent="  ") for note in notes),
            args=["--help"],
            use_underscores=True,
            registry=_registry,
            **given,
        )
    except SystemExit:  # tyro ends the process after its help; our caller decides that
        return
