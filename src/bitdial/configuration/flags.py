"""Flags: a command line taken apart and checked against the settings of a model, and the help, which tyro draws."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tyro
from pydantic import BaseModel, TypeAdapter, ValidationError

from bitdial.configuration.files import parse_value, to_flow
from bitdial.configuration.sentences import describe
from bitdial.configuration.settings import Setting, Settings, is_list, is_mapping, members
from bitdial.errors import BitdialError

RESERVED = ("config", "preset")
"""Flags that say where other settings come from."""

HELP = ("-h", "--help")

_FLAG = re.compile(r"--?[A-Za-z_]")  # "-1" and "-.5" are values


@dataclass
class CommandLine:
    """A command line taken apart."""

    word: str | None = None
    """The word before all flags, if there is one."""

    sources: dict[str, str] = field(default_factory=dict)
    """Values of the reserved flags."""

    values: dict[str, Any] = field(default_factory=dict)
    """Dotted name -> value, of the type that its text looks like."""


def read_flags(argv: Sequence[str], known: Settings, *, prog: str) -> CommandLine:
    """Take a command line apart; hyphens and underscores are alike, ``--flag=value`` is ``--flag value``.

    Raises:
        BitdialError: an unknown flag, a flag given twice, a value missing or one too many.
    """
    line = CommandLine()
    words = [word for word in argv if word not in HELP]
    if words and not _FLAG.match(words[0]):
        line.word = words.pop(0)
    spelled: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if not _FLAG.match(word):
            raise BitdialError(f"expected a flag, got '{word}'; flags start with '--', `{prog} --help` lists them")
        given, equals, inline = word.partition("=")
        texts = [inline] if equals else []
        while words and not _FLAG.match(words[0]) and not equals:
            texts.append(words.pop(0))
        name, negated = _name(given, known, prog)
        if name in spelled:
            again = (
                f"{given} twice" if spelled[name] == given else f"{spelled[name]} and {given}, two names of the same"
            )
            raise BitdialError(f"expected each flag once, got {again}; remove one of them")
        spelled[name] = given
        if name in RESERVED:
            line.sources[name] = _single(given, texts, "a file" if name == "config" else "a name")
        elif negated:
            if texts:
                raise BitdialError(f"{given} takes no value, got '{texts[0]}'; write --{name} {texts[0]} instead")
            line.values[name] = False
        else:
            line.values[name] = _value(given, texts, known[name])
    return line


def take_operands(config_type: type[BaseModel], argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a command line into its operands, such as paths, and its flags with their values.

    A word is an operand that is no flag and no value of one; after ``--`` every word is.

    Raises:
        BitdialError: a file whose name looks like a flag.
    """
    known, operands, flags, words = Settings(config_type), list[str](), list[str](), list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*operands, *words], flags
        if not _FLAG.match(word):
            operands.append(word)
            continue
        flags.append(word)
        name = known.canonical(word.lstrip("-")).removeprefix("no_")
        setting = next((each for each in known if each.name == name), None)
        if setting is None and name not in RESERVED and os.path.lexists(word):
            raise BitdialError(f"unknown flag {word}; the names of files that begin so come after a --")
        if "=" in word or word in HELP or (setting is not None and setting.takes_bool):
            continue
        while words and words[0] != "--" and not _FLAG.match(words[0]):
            flags.append(words.pop(0))
            if setting is None or not setting.takes_list:
                break
    return operands, flags


def _name(given: str, known: Settings, prog: str) -> tuple[str, bool]:
    """Return the setting that a flag names, and whether the flag negates it (``--no_compile``)."""
    name = known.canonical(given.lstrip("-"))
    if given.startswith("--"):
        if name in known or name in RESERVED:
            return name, False
        group, _, leaf = name.rpartition(".")
        for positive in (name.removeprefix("no_"), f"{group}.{leaf.removeprefix('no_')}".lstrip(".")):
            if positive != name and positive in known and known[positive].takes_bool:
                return positive, True
    if name in known.groups:
        example = next(setting.flag for setting in known if setting.name.startswith(f"{name}."))
        raise BitdialError(f"--{name} is a group of flags, expected one of its flags, e.g. {example}")
    hint = known.suggestion(name, mark="--")
    raise BitdialError(f"unknown flag {given}{hint or f'; `{prog} --help` lists the flags'}")


def _single(given: str, texts: list[str], expected: str) -> str:
    if not texts:
        raise BitdialError(f"{given}: expected {expected} after the flag, got nothing; write {given} VALUE")
    if len(texts) > 1:
        got = " ".join(repr(text) for text in texts)
        raise BitdialError(f"{given}: expected {expected}, got {got}; give one value")
    return texts[0]


def _value(given: str, texts: list[str], setting: Setting) -> Any:
    """Return the value of a flag, of the first type among those its text may mean that the setting takes."""
    if not texts and setting.takes_bool:
        return True
    expected = describe(setting.annotation)
    if len(texts) > 1 and any(map(is_mapping, setting.members)) and not setting.takes_list:
        # the shell split "{2: .5}" at its spaces
        raise BitdialError(f"{given}: expected one word, got {len(texts)}; quote it: {given} '{' '.join(texts)}'")
    if not texts or not setting.takes_list:
        _single(given, texts, expected)
    parsed = [_parsed(text, setting) for text in texts]
    meanings: list[Any] = [parsed, texts] if len(texts) > 1 else [parsed[0], texts[0]]
    if len(texts) == 1 and setting.takes_list:
        meanings += [parsed, texts]
    adapter: TypeAdapter[Any] = TypeAdapter(setting.annotation)
    for meaning in meanings:
        try:
            adapter.validate_python(meaning)
        except ValidationError:
            continue
        return meaning
    return meanings[-2] if all(map(is_list, setting.members)) else meanings[0]


def _parsed(text: str, setting: Setting) -> Any:
    if text in ("none", "None"):
        return None
    value = parse_value(text)
    # pydantic takes true for 1; nobody means that who writes `--lr true`
    return text if isinstance(value, bool) and not setting.takes_bool else value


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
        notes.append(
            f"Presets: {', '.join(names)}. A preset is the first word, or --preset NAME; --list says what each is for."
        )
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
