"""The form of a recipe: a field for every option, from the same models that make its flags, help and errors.

What stands in a field is what would stand after its flag, so page and command line agree on every word.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bitdial.app.web.rooted import Roots, refusals
from bitdial.configuration.files import to_flow
from bitdial.configuration.flags import read_flags
from bitdial.configuration.loading import load_config
from bitdial.configuration.sentences import describe
from bitdial.configuration.settings import Setting, Settings, is_list, is_mapping
from bitdial.errors import BitdialError
from bitdial.recipes import find_choices

IMPORTANT = (
    "model", "dataset", "data_path", "training_method", "bitwidth_options", "quantizer", "lambda_value", "use_balanced",
    "gamma", "epochs", "steps", "num_cpt_iterations", "num_static_iterations", "batch_size", "lr", "seeds", "precision",
    "limit_train", "limit_test", "cyclic.profile", "cyclic.cycle_length", "model_options.bit_widths",
)  # fmt: skip
"""What most people want to set; the rest is folded."""
NOT_HERE = ("resume", "run_dir", "csv_log", "experiment.results_dir", "strict")
"""What the page decides: where runs lie, and what goes on from where."""
NONE = "(none)"
NO_PRESET = "(defaults)"
_MOST_FAULTS = 12
_FLAG = re.compile(r"^--([A-Za-z_.0-9]+)\b")


@dataclass(frozen=True)
class Field:
    """One option as the page shows it.

    Attributes:
        setting: what it is of.
        kind: "switch", "choice" or "text".
        default: text of its default, as it would stand after the flag.
        choices: of a choice, its values; of a text, what is offered.
    """

    setting: Setting
    kind: Literal["switch", "choice", "text"]
    default: str
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Dotted name, as after the two dashes."""
        return self.setting.name

    @property
    def label(self) -> str:
        """The last part of its name, in words."""
        return self.name.rpartition(".")[2].replace("_", " ")

    @property
    def group(self) -> str:
        """The group that it is in; "" outside of any."""
        return self.name.rpartition(".")[0]

    @property
    def help(self) -> str:
        """Its documentation, without the line breaks of the source."""
        return " ".join((self.setting.info.description or "").split())

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        return describe(self.setting.annotation)

    def words(self, value: object, default: str) -> list[str]:
        """What stands on the command line for a value of the field; nothing where that is the default.

        Args:
            value: what stands in the field.
            default: the field's own, or what a preset sets.

        Raises:
            BitdialError: quotes that do not close.
        """
        flag = self.setting.flag
        if self.kind == "switch":
            if bool(value) == (default == "true"):
                return []
            group, _, leaf = self.name.rpartition(".")
            return [flag] if value else [f"--{group}.no_{leaf}" if group else f"--no_{leaf}"]
        text = str("" if value is None else value).strip()
        if not text or text == default:
            return []
        text = "none" if text == NONE else text
        if self.setting.takes_list and not any(map(is_mapping, self.setting.members)):
            try:
                parts = shlex.split(text)
            except ValueError as error:
                raise BitdialError(f"{flag}: expected {self.expected}, got {text!r:.60} ({error})") from error
        else:
            parts = [text]
        if len(parts) == 1:  # one that begins with a dash is a value here, never a flag
            return [f"{flag}={parts[0]}"] if parts[0].startswith("-") else [flag, *parts]
        if any(part.startswith("-") and not re.fullmatch(r"-[\d.]+", part) for part in parts):
            raise BitdialError(f"{flag}: expected {self.expected}, got {text!r:.60}; values begin with no dash")
        return [flag, *parts]


@dataclass(frozen=True)
class Form:
    """The fields of a recipe, the important ones first.

    Attributes:
        recipe: its name.
        fields: by name.
    """

    recipe: str
    fields: Mapping[str, Field] = field(default_factory=dict)

    @property
    def open(self) -> list[Field]:
        """What stands open."""
        return [self.fields[name] for name in IMPORTANT if name in self.fields]

    @property
    def folded(self) -> dict[str, list[Field]]:
        """The rest, by heading."""
        found: dict[str, list[Field]] = {}
        for each in self.fields.values():
            if each.name not in IMPORTANT:
                found.setdefault(_HEADINGS.get(each.name) or each.group.replace("_", " ") or "other", []).append(each)
        return dict(sorted(found.items(), key=lambda item: _ORDER.index(item[0]) if item[0] in _ORDER else 9))


_HEADINGS = {
    **dict.fromkeys(
        ("optimizer", "momentum", "nesterov", "decay_norm_and_bias", "weight_decay", "scheduler", "milestones",
         "warmup_steps", "warmup_epochs", "lr_decay", "lr_patience", "max_grad_norm", "gradient_accumulation_steps",
         "label_smoothing", "ema_decay", "finetune", "finetune_lr"),
        "optimizer",
    ),
    **dict.fromkeys(
        ("standard_augmentation", "cutmix", "cutmix_alpha", "cutmix_probability", "mixup", "mixup_alpha",
         "mixup_probability", "autoaugment", "randaugment", "trivialaugment", "random_erasing",
         "random_erasing_probability"),
        "augmentation",
    ),
    **dict.fromkeys(
        ("early_stopping", "early_stopping_patience", "early_stopping_min_delta", "early_stopping_mode", "monitor",
         "validation_fraction", "validation_function", "num_configs", "validation_bits", "validation_batch_norm",
         "validation_batches", "eval_interval", "sensitivity"),
        "validation and stopping",
    ),
    **dict.fromkeys(
        ("devices", "num_nodes", "strategy", "compile", "memory_limit", "workers", "gpu", "use_amp", "seed"),
        "machine",
    ),
    **dict.fromkeys(
        ("log", "log_interval", "checkpoint_interval", "save_freq", "keep_last_n", "keep_best"), "logs and checkpoints"
    ),
}  # fmt: skip
_ORDER = ("optimizer", "augmentation", "validation and stopping", "logs and checkpoints", "machine", "mixed precision")


@cache
def form_of(recipe: str) -> Form:
    """The form of a recipe.

    Raises:
        BitdialError: there is none of that name.
    """
    known = Settings(find_choices(recipe).options)
    fields = (_field(each, known) for each in known if each.name not in NOT_HERE)
    return Form(recipe, {each.name: each for each in fields})


def presets_of(recipe: str) -> dict[str, str]:
    """Preset -> what it is for."""
    choices = find_choices(recipe)
    return {name: choices.summaries.get(name, "") for name in choices.presets if name != "resume"}


@cache
def set_by(recipe: str, preset: str) -> dict[str, str]:
    """The fields that a preset sets -> what would stand in them; nothing of no preset."""
    values = find_choices(recipe).presets[preset] if preset in presets_of(recipe) else {}
    found: dict[str, str] = {}

    def walk(values: Mapping[str, Any], above: str) -> None:
        for key, value in values.items():
            name = f"{above}{key}"
            if name in form.fields:
                text = _text(value)
                found[name] = NONE if text == "none" and NONE in form.fields[name].choices else text
            elif isinstance(value, Mapping):
                walk(value, f"{name}.")

    form = form_of(recipe)
    walk(values, "")
    return found


def _field(setting: Setting, known: Settings) -> Field:
    default = _default(setting, known)
    choices = [choice for each in setting.members if get_origin(each) is Literal for choice in get_args(each)]
    optional = type(None) in get_args(setting.annotation)
    if setting.members == (bool,) and not optional:
        return Field(setting, "switch", default)
    closed = bool(choices) and all(get_origin(each) is Literal for each in setting.members)
    if setting.members == (bool,):
        closed, choices = True, ["true", "false"]
    if closed:
        names = [str(choice) for choice in choices]
        shown = NONE if optional and default == "none" else default
        return Field(setting, "choice", shown, (*([NONE] if optional else []), *names))
    examples = tuple(str(each) for each in setting.info.examples or ())
    return Field(setting, "text", default, examples)


def _default(setting: Setting, known: Settings) -> str:
    """The default of a setting, with what the default of its group sets."""
    value: Any = known.groups[""]
    for part in setting.name.split("."):
        if isinstance(value, type) and issubclass(value, BaseModel):
            value = value.model_fields[part].get_default(call_default_factory=True)
        else:
            value = getattr(value, part)
        if value is PydanticUndefined:
            return ""
    return _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if is_list(type(value)):
        return " ".join(f"{each:g}" if isinstance(each, int | float) else shlex.quote(_text(each)) for each in value)
    if isinstance(value, Mapping | BaseModel):
        return to_flow(value)
    return str(value)


@dataclass(frozen=True)
class Checked:
    """What a filled form says.

    Attributes:
        words: of the command line after ``bitdial train``.
        preset: its name, if one is chosen.
        faults: field -> what is wrong with it; "" for what belongs to no single one.
        options: dotted name -> value, as the command line would read it.
    """

    words: list[str]
    preset: str | None
    faults: Mapping[str, str]
    options: Mapping[str, Any]

    @property
    def command(self) -> str:
        """The command line."""
        return shlex.join(["bitdial", "train", *self.words])


def check(recipe: str, preset: str, values: Mapping[str, object], roots: Roots) -> Checked:
    """Read a filled form as the command line would be read, and find everything that is wrong with it.

    Args:
        recipe: its name.
        preset: one of its presets, or anything else for none.
        values: what stands in its fields, by name.
        roots: where options may name files.
    """
    form, faults = form_of(recipe), dict[str, str]()
    known = Settings(find_choices(recipe).options)
    chosen = [preset] if preset in presets_of(recipe) else []
    under = set_by(recipe, preset)
    flags: dict[str, list[str]] = {}
    for name, value in values.items():
        if name not in form.fields:
            continue
        try:
            flags[name] = form.fields[name].words(value, under.get(name, form.fields[name].default))
            read = read_flags(flags[name], known, prog="")
            fault = next((f"--{name}: {told}" for _, told in refusals(read.values, known, roots)), None)
        except BitdialError as error:
            fault = str(error)
        if fault is not None:
            faults[name], flags[name] = fault, []
    words = [recipe, *chosen, *(word for given in flags.values() for word in given)]
    while len(faults) < _MOST_FAULTS:
        sound = [word for name, given in flags.items() if name not in faults for word in given]
        fault = _fault(recipe, [*chosen, *sound])
        if fault is None:
            break
        name = _blamed(fault, flags)
        if name in faults:
            break
        faults[name] = fault
    given = [] if faults else words[1 + len(chosen) :]
    return Checked(
        words, preset if chosen else None, faults, read_flags(given, known, prog=f"bitdial train {recipe}").values
    )


def _blamed(fault: str, flags: Mapping[str, Sequence[str]]) -> str:
    """The field that a sentence begins with, if something is in it; else ""."""
    match = _FLAG.match(fault) or re.match(r"([a-z_.0-9]+)\b", fault)
    name = match[1].removeprefix("no_") if match else ""
    given = [each for each in flags if flags[each] and name and name in (each, each.rpartition(".")[2])]
    return given[0] if len(given) == 1 else ""


def _fault(recipe: str, argv: Sequence[str]) -> str | None:
    try:
        find_choices(recipe).check(recipe, argv)
    except BitdialError as error:
        return str(error).removesuffix(f"; see `bitdial train {recipe} --help`")
    return None


def config_of(recipe: str, words: Sequence[str]) -> str:
    """The ``config.yaml`` that the words of a command line stand for, with all defaults."""
    choices = find_choices(recipe)
    options = load_config(choices.options, choices.presets, list(words), prog=f"bitdial train {recipe}", recipe=recipe)
    plain = {name: value for name, value in options.model_dump(mode="json").items() if name not in NOT_HERE}
    return yaml.safe_dump({"recipe": recipe, **plain}, sort_keys=False, allow_unicode=True)
