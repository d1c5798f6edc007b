"""The command ``bitdial completion SHELL``: commands, flags, presets and names, completed by the shell.

The script asks this program for the words that may stand at the cursor, and so never knows less than it. Where there
are none, the shell completes the names of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pkgutil import resolve_name
from typing import Any, Literal, get_args, get_origin

from bitdial.commands import COMMANDS, OPTIONS
from bitdial.commands.bench import SUBJECTS
from bitdial.configuration.settings import Setting, Settings, members
from bitdial.errors import BitdialError, suggest
from bitdial.recipes import RECIPES, find_choices

SCRIPTS = {
    "bash": """_bitdial() {
    local IFS=$'\\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _bitdial bitdial""",
    "zsh": """#compdef bitdial
_bitdial() {
    local -a found
    found=("${(@f)$("${words[1]}" completion words "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then compadd -Q -a found; else _files; fi
}
compdef _bitdial bitdial""",
    "fish": """function __bitdial
    set -l before (commandline -opc)
    $before[1] completion words $before[2..] (commandline -ct) 2>/dev/null
end
complete -c bitdial -a '(__bitdial)'""",
}
_POSSIBLE = {
    "stop": ("waiting", "running"),
    "resume": ("stopped", "failed"),
    "rm": ("finished", "stopped", "failed"),
}
"""What can be done with a run -> in which states; anything else in any."""
_HOMES = {"bash": "~/.bashrc", "zsh": "~/.zshrc, below compinit", "fish": "~/.config/fish/completions/bitdial.fish"}


def run(argv: list[str]) -> int:
    """Print the script of a shell, or the words that may come next; return the exit status."""
    if argv[:1] == ["words"]:
        print(*words_at(argv[1:]), sep="\n")
        return 0
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    shell = argv[0]
    if shell not in SCRIPTS or len(argv) > 1:
        hint = suggest(shell, SCRIPTS) or f"; there are: {', '.join(SCRIPTS)}"
        raise BitdialError(f"expected the name of one shell, got '{' '.join(argv)}'{hint}")
    print(SCRIPTS[shell])
    return 0


def words_at(line: list[str]) -> list[str]:
    """The words that may stand where the last one of a line (which may be empty) does; none: a file, or anything.

    Args:
        line: the words after ``bitdial``, up to the cursor.
    """
    *before, begun = line or [""]
    offered = sorted(set(_offered(before)))
    if "-" in begun.lstrip("-"):  # --limit-train
        offered = [word if "_" not in word else word.replace("_", "-") for word in offered]
    return [word for word in offered if word.startswith(begun) and (begun.startswith("-") or not word.startswith("-"))]


def _offered(before: list[str]) -> Iterator[str]:
    if not before:
        yield from ("train", *COMMANDS, "--help", "--version")
        return
    command, *rest = before
    groups: Mapping[str, Iterable[str]] = {
        "train": RECIPES,
        "search": RECIPES,
        "bench": SUBJECTS,
        "completion": SCRIPTS,
    }
    if command == "runs":
        yield from _offered_of_runs(rest)
        return
    if command in groups and not rest:
        yield from (*groups[command], "--help")
        return
    name = f"bench {rest[0]}" if command == "bench" else command
    known: list[Settings] = [Settings(resolve_name(OPTIONS[name]))] if name in OPTIONS else []
    if command in ("train", "search") and rest[0] in RECIPES:
        choices = find_choices(rest[0])
        known.append(Settings(choices.options))
        if len(rest) == 1:
            yield from choices.presets
        yield from ("--config", "--preset", *(["--list"] if command == "train" else []))
        if rest[-1] == "--preset":
            yield from choices.presets
    yield "--help"
    given = {word.partition("=")[0] for word in rest}
    at = max((i for i, word in enumerate(rest) if word.startswith("-")), default=None)
    for settings in known:
        if at is not None:
            yield from _values(rest[at], rest[at + 1 :], settings)
        for setting in settings:
            if setting.flag not in given:
                no = setting.takes_bool and setting.info.default is True
                yield f"--no_{setting.name}" if no and "." not in setting.name else setting.flag


def _offered_of_runs(rest: list[str]) -> Iterator[str]:
    """What may stand after ``bitdial runs``: an action, the id of a run that it can be done with, flags."""
    from bitdial.app.jobs import JobManager

    actions = [name.partition(" ")[2] for name in OPTIONS if name.startswith("runs ")]
    if not rest:
        yield from actions
    name = f"runs {rest[0]}" if rest and rest[0] in actions else "runs"
    at = rest.index("--runs") + 1 if "--runs" in rest else len(rest)
    if name != "runs" and rest[-1] in (rest[0], *rest[at : at + 1]):
        possible = _POSSIBLE.get(rest[0], ())
        found = JobManager(rest[at] if at < len(rest) else "runs").list()
        yield from (each.id for each in found if not possible or each.state in possible)
    yield "--help"
    yield from (
        each.flag for each in Settings(resolve_name(OPTIONS[name])) if each.name != "run" and each.flag not in rest
    )


def _values(flag: str, after: list[str], settings: Settings) -> Iterable[str]:
    """What may stand after a flag and its values so far."""
    name = settings.canonical(flag.lstrip("-"))
    if name not in settings or (after and not settings[name].takes_list):
        return ()
    return choices_of(settings[name])


def choices_of(setting: Setting) -> list[str]:
    """The values of a setting that have names."""

    def literals(annotation: Any) -> Iterator[Any]:
        for member in members(annotation):
            if get_origin(member) is Literal:
                yield from get_args(member)
            elif get_args(member):
                yield from literals(get_args(member)[0])

    return [*map(str, literals(setting.annotation)), *map(str, setting.info.examples or ())]


def _help() -> str:
    rows = "\n".join(f"  {shell:<5} bitdial completion {shell} >> {home}" for shell, home in _HOMES.items())
    return (
        "usage: bitdial completion SHELL\n\nPrint what makes a shell complete commands, flags, presets and names.\n\n"
        f"shells, and how to install it for good:\n{rows}\n\n"
        'For the running bash alone: eval "$(bitdial completion bash)"'
    )
