"""Loading a configuration: preset, then file, then flags, merged setting by setting and validated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bitdial.configuration.files import read_yaml
from bitdial.configuration.flags import CommandLine, read_flags, wants_help
from bitdial.configuration.help import print_help
from bitdial.configuration.merging import Entry, Layer, flatten, group_defaults, merge, nested
from bitdial.configuration.sentences import sentence, setting_of
from bitdial.configuration.settings import Settings
from bitdial.errors import BitdialError, suggest

C = TypeVar("C", bound=BaseModel)
Presets = Mapping[str, Mapping[str, Any]]


def load_config(
    config_type: type[C],
    presets: Presets | None = None,
    argv: Sequence[str] = (),
    *,
    prog: str = "bitdial",
    positional: str | None = None,
) -> C:
    """Build a configuration from a command line.

    A later source wins over an earlier one, setting by setting: the model's defaults, the preset (the first word, or
    ``--preset NAME``), the file of ``--config FILE.yaml``, the flags. A setting that is a dict or a list is replaced as
    a whole. ``-h`` or ``--help`` prints the help, with the defaults that preset and file leave, and exits.

    Args:
        config_type: The model; its nested models are groups of flags, ``--group.field``.
        presets: Preset name -> nested dict of settings, written as in a YAML file.
        argv: The words after the command.
        prog: What the user typed to get here, e.g. ``"bitdial train cyclic"``; help and errors name it.
        positional: A setting that the first word fills, instead of naming a preset.

    Raises:
        BitdialError: anything the user got wrong, as one sentence.
        SystemExit: with status 0, after printing help.
    """
    presets = presets or {}
    known = Settings(config_type)
    if wants_help(argv):
        default = _defaults(config_type, presets, argv, known, prog, positional)
        print_help(config_type, default, presets, prog=prog, positional=positional)
        raise SystemExit(0)
    line = read_flags(argv, known, prog=prog)
    layers = _layers(config_type, line, presets, known, prog, positional)
    layers.append(_flag_layer(line, known, prog, positional))
    return _validated(config_type, merge(layers, known), known, prog, positional)


def _layers(
    config_type: type[C], line: CommandLine, presets: Presets, known: Settings, prog: str, positional: str | None
) -> list[Layer]:
    """Return the layers below the flags."""
    layers = [group_defaults(config_type)]
    preset = _preset_name(line, presets, prog, positional)
    if preset is not None:
        layers.append(flatten(presets[preset], known, lambda _: f"preset '{preset}'"))
    if "config" in line.sources:
        file = read_yaml(line.sources["config"])
        layers.append(flatten(file.values, known, file.place))
    return layers


def _preset_name(line: CommandLine, presets: Presets, prog: str, positional: str | None) -> str | None:
    word = None if positional else line.word
    flag = line.sources.get("preset")
    if word is not None and flag is not None:
        raise BitdialError(f"expected one preset, got '{word}' and --preset {flag}; remove one of them")
    name = word if word is not None else flag
    if name is None or name in presets:
        return name
    if name.endswith((".yaml", ".yml")):
        raise BitdialError(f"expected a preset or a flag, got the file '{name}'; write `{prog} --config {name}`")
    if not presets:
        raise BitdialError(f"expected a flag, got '{name}'; flags start with '--', `{prog} --help` lists them")
    listed = ", ".join(sorted(presets))
    raise BitdialError(
        f"expected a preset ({listed}) or a flag, got '{name}'{suggest(name, presets) or '; choose one'}"
    )


def _flag_layer(line: CommandLine, known: Settings, prog: str, positional: str | None) -> Layer:
    layer = {name: Entry(value, f"--{name}") for name, value in line.values.items()}
    if positional is not None and line.word is not None:
        if positional in layer:
            raise BitdialError(f"expected one {positional}, got '{line.word}' and --{positional}; remove one of them")
        layer[positional] = Entry(line.word, positional)
    return layer


def _validated(config_type: type[C], merged: Layer, known: Settings, prog: str, positional: str | None = None) -> C:
    try:
        return config_type.model_validate(nested(merged))
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        name = setting_of(error["loc"], known)
        if name is not None and name == positional and error["type"] == "missing":
            word = name.upper()
            raise BitdialError(f"expected {word} after the command, got nothing; write `{prog} {word}`") from None
        text = sentence(error, known)
        if name is not None:
            source = merged[name].source if name in merged else f"--{name}"
            text = f"{source}: {text}"
        hint = "" if ";" in text else f"; see `{prog} --help`"
        raise BitdialError(f"{text}{hint}") from None


def _defaults(
    config_type: type[C], presets: Presets, argv: Sequence[str], known: Settings, prog: str, positional: str | None
) -> C | None:
    """Return the defaults to show in the help; whoever asks for help gets it, whatever else the line says."""
    try:
        layers = _layers(config_type, read_flags(argv, known, prog=prog), presets, known, prog, positional)
        return _validated(config_type, merge(layers, known), known, prog)
    except BitdialError:
        return None
