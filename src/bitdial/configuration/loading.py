"""Loading a configuration: preset, then file, then flags, merged setting by setting and validated once.

Each source becomes a layer, dotted names with values and where they came from; the later layer wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from bitdial.configuration.files import read_yaml
from bitdial.configuration.flags import HELP, CommandLine, print_help, read_flags
from bitdial.configuration.foreign import adopt
from bitdial.configuration.sentences import describe, sentence, setting_of, shown
from bitdial.configuration.settings import Settings
from bitdial.errors import BitdialError, suggest
from bitdial.options import Config, Preset

C = TypeVar("C", bound=BaseModel)
Presets = Mapping[str, Mapping[str, Any]]


def load_config(
    config_type: type[C],
    presets: Presets | None = None,
    argv: Sequence[str] = (),
    *,
    prog: str = "bitdial",
    positional: str | None = None,
    recipe: str | None = None,
    values: Mapping[str, Any] | None = None,
    fits: bool = True,
) -> C:
    """Build a configuration from a command line, or from a call in Python.

    A later source wins over an earlier one, setting by setting: the model's defaults, the preset (the first word, or
    ``--preset NAME``), the file of ``--config FILE.yaml``, the flags, the `values`. A setting that is a dict or a list
    is replaced as a whole. ``-h`` or ``--help`` prints the help, with the defaults that preset and file leave, and
    exits.

    Args:
        config_type: The model; its nested models are groups of flags, ``--group.field``.
        presets: Preset name -> nested dict of settings, written as in a YAML file.
        argv: The words after the command.
        prog: What the user typed to get here, e.g. ``"bitdial train cyclic"``; help and errors name it.
        positional: A setting that the first word fills, instead of naming a preset.
        recipe: What a file's key ``recipe`` must say, where it has one.
        values: Settings by name, given in Python; groups are nested, or named with dots.
        fits: Whether the preset is fitted to what else is given, as the model's `fitted` says.

    Raises:
        BitdialError: anything the user got wrong, as one sentence.
        SystemExit: with status 0, after printing help.
    """
    command = _Command(config_type, presets or {}, Settings(config_type), prog, positional, recipe)
    if any(word in HELP for word in argv):
        print_help(config_type, command.defaults(argv), command.presets, prog=prog, positional=positional)
        raise SystemExit(0)
    line = read_flags(argv, command.known, prog=prog)
    layers = [*command.layers(line), command.flags(line)]
    layers.append(flatten(values or {}, command.known, lambda _: "argument"))
    if fits:
        command.fit(layers)
    config = command.validated(layers)
    if isinstance(config, Config):
        config._notes = command.notes
        config._preset = command.made_with(merge(layers, command.known))
    return config


def problems_of(
    config_type: type[C],
    presets: Presets | None = None,
    values: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
) -> tuple[C | None, list[tuple[str, str]]]:
    """Check values as `load_config` does, but find all that is wrong with them.

    Args:
        config_type: The model.
        presets: Preset name -> nested dict of settings.
        values: Settings by name; groups are nested, or named with dots.
        preset: Which preset lies under them.

    Returns:
        The configuration, None where anything is wrong; and (dotted name, sentence) for all that is: an unknown name as
        it was spelled, ``"preset"`` for an unknown preset, empty for what is about the whole.
    """
    command = _Command(config_type, presets or {}, Settings(config_type), "bitdial", None, None)
    found: list[tuple[str, str]] = []
    try:
        layers = command.layers(CommandLine(sources={} if preset is None else {"preset": preset}))
    except BitdialError as error:
        return None, [("preset", str(error))]
    given: Layer = {}
    for name, value in (values or {}).items():
        inner = (
            value.items()
            if isinstance(value, Mapping) and command.known.canonical(str(name)) in command.known.groups
            else ()
        )
        for key, each in [(f"{name}.{key}", each) for key, each in inner] or [(str(name), value)]:
            try:
                given |= flatten({key: each}, command.known, lambda _: "")
            except BitdialError as fault:
                found.append((command.known.canonical(key), str(fault).partition(": ")[2].removeprefix(f"{key}: ")))
    layers.append(given)
    command.fit(layers)
    merged = merge(layers, command.known)
    try:
        config = config_type.model_validate(nested(merged))
    except ValidationError as failure:
        blame = command.made_with(merged).blamed
        for each in failure.errors(include_url=False):
            found.append((setting_of(each["loc"], command.known) or "", blame(sentence(each, command.known))))
        return None, found
    return (None if found else config), found


@dataclass(frozen=True)
class _Command(Generic[C]):
    """What `load_config` was asked for."""

    config_type: type[C]
    presets: Presets
    known: Settings
    prog: str
    positional: str | None
    recipe: str | None
    notes: list[str] = field(default_factory=list)
    preset: list[str] = field(default_factory=list)
    """Its name, once it is known."""

    def made_with(self, merged: Layer) -> Preset:
        """What the preset set that nothing over it did."""
        if not self.preset:
            return Preset()
        (preset,) = self.preset
        settings = {name for name, entry in merged.items() if entry.source.startswith(f"preset '{preset}': ")}
        return Preset(preset, frozenset(settings))

    def fit(self, layers: list[Layer]) -> None:
        """Fit the preset among the layers to what lies over it."""
        if not self.preset or not issubclass(self.config_type, Config):
            return
        _, preset, *over = layers
        given = {name: entry.value for layer in over for name, entry in layer.items()}
        fitted = self.config_type.fitted({name: entry.value for name, entry in preset.items()}, given)
        layers[1] = {name: Entry(value, preset[name].source) for name, value in fitted.items()}

    def layers(self, line: CommandLine) -> list[Layer]:
        """Return the layers below the flags."""
        layers = [group_defaults(self.config_type, self.known)]
        preset = self._preset_name(line)
        if preset is not None:
            self.preset[:] = [preset]
            layers.append(flatten(self.presets[preset], self.known, lambda _: f"preset '{preset}'"))
        if "config" in line.sources:
            file = read_yaml(line.sources["config"])
            settings = dict(file.values)
            told = settings.pop("recipe", self.recipe) if self.recipe is not None else None
            if told != self.recipe:
                raise BitdialError(
                    f"{file.place('recipe')}: expected options of the recipe {self.recipe}, got those of {told}; "
                    f"write `bitdial train {told} --config {file.path}`"
                )
            strict = line.values.get("strict", settings.get("strict", False)) is True
            found = adopt(file, settings, self.known, strict=strict)
            if found.ignored:
                self.notes.append(f"{file.path}: means nothing here and is ignored: {', '.join(found.ignored)}")
            layers.append(flatten(found.values, self.known, lambda key: file.place(found.places.get(key, key))))
        return layers

    def _preset_name(self, line: CommandLine) -> str | None:
        word = None if self.positional else line.word
        flag = line.sources.get("preset")
        if word is not None and flag is not None:
            raise BitdialError(f"expected one preset, got '{word}' and --preset {flag}; remove one of them")
        name = word if word is not None else flag
        if name is None or name in self.presets:
            return name
        if name.endswith((".yaml", ".yml")):
            raise BitdialError(
                f"expected a preset or a flag, got the file '{name}'; write `{self.prog} --config {name}`"
            )
        if not self.presets:
            raise BitdialError(f"expected a flag, got '{name}'; flags start with '--', `{self.prog} --help` lists them")
        listed = ", ".join(sorted(self.presets))
        raise BitdialError(
            f"expected a preset ({listed}) or a flag, got '{name}'{suggest(name, self.presets) or '; choose one'}"
        )

    def flags(self, line: CommandLine) -> Layer:
        """Return the layer of the command line itself."""
        layer = {name: Entry(value, f"--{name}") for name, value in line.values.items()}
        word, positional = line.word, self.positional
        if positional is not None and word is not None:
            if positional in layer:
                raise BitdialError(f"expected one {positional}, got '{word}' and --{positional}; remove one of them")
            layer[positional] = Entry(word, positional)
        return layer

    def validated(self, layers: Iterable[Layer]) -> C:
        """Merge layers into a configuration."""
        merged = merge(layers, self.known)
        try:
            return self.config_type.model_validate(nested(merged))
        except ValidationError as failure:
            error = failure.errors(include_url=False)[0]
            name = setting_of(error["loc"], self.known)
            if name is not None and name == self.positional and error["type"] == "missing":
                raise BitdialError(
                    f"expected {name.upper()} after the command, got nothing; write `{self.prog} {name.upper()}`"
                ) from None
            text = sentence(error, self.known)
            text = self.made_with(merged).blamed(text)
            if name is not None:
                text = f"{merged[name].source if name in merged else f'--{name}'}: {text}"
            raise BitdialError(text if ";" in text else f"{text}; see `{self.prog} --help`") from None

    def defaults(self, argv: Sequence[str]) -> C | None:
        """Return the defaults to show in the help; whoever asks for help gets it, whatever else the line says."""
        try:
            return self.validated(self.layers(read_flags(argv, self.known, prog=self.prog)))
        except BitdialError:
            return None


@dataclass(frozen=True)
class Entry:
    """A value, and where it came from in the words that begin an error about it."""

    value: Any
    source: str


Layer = dict[str, Entry]
"""Dotted name -> entry."""


def flatten(values: Mapping[Any, Any], known: Settings, place: Callable[[str], str], prefix: str = "") -> Layer:
    """Flatten a nested dict, as a preset or a YAML file gives it, and check its keys.

    Hyphens in keys are underscores, aliases stand for their field; `place` says where a dotted key (as it was spelled)
    stands: ``run.yaml, line 3``.

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


def group_defaults(config_type: type[BaseModel], known: Settings) -> Layer:
    """Collect what the default of a group sets, so that setting one of its fields keeps the others.

    With ``cyclic: Cyclic = Cyclic(cycle_length=40)``, a file that sets only ``cyclic.profile`` keeps the length of 40.
    """
    given = {}
    for name, info in config_type.model_fields.items():
        default = info.get_default(call_default_factory=True) if name in known.groups else None
        if isinstance(default, BaseModel):
            given[name] = default.model_dump(exclude_unset=True)
    return flatten(given, known, lambda _: "default")


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
