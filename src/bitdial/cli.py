"""The command line: finds the command, and turns what a user got wrong into one sentence.

Nothing heavy is imported here: ``bitdial --help`` and mistyped commands answer before torch would have loaded.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pkgutil import resolve_name
from types import TracebackType

from bitdial.commands import COMMANDS
from bitdial.errors import BitdialError, RunInterrupted, suggest
from bitdial.lazy import loading_torch
from bitdial.recipes import RECIPES, find_choices, find_recipe

_USER_FAULTS = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""What the file system refuses through no fault of this program."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 2 something to put right, 130 interrupted.

    A traceback means a fault in bitdial; with ``BITDIAL_DEBUG=1`` in the environment every error shows one.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if "OMP_WAIT_POLICY" not in os.environ:
        # How long threads spin for one another before they sleep: on a machine that others use too, a thread that spins
        # keeps the one that it waits for off the processor. Read when torch is loaded, which is later.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        status = _dispatch(words)
        sys.stdout.flush()
    except SystemExit as stop:  # after a command's help
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (Exception, KeyboardInterrupt) as error:
        sentence = None if os.environ.get("BITDIAL_DEBUG", "0") not in ("", "0") else _sentence(error)
        if sentence is None:
            raise
        print(f"bitdial: {sentence}", file=sys.stderr)
        return 130 if isinstance(error, RunInterrupted | KeyboardInterrupt) else 2
    return status


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    command, *rest = words
    if command in ("-V", "--version"):
        import bitdial

        print(f"bitdial {bitdial.__version__}")
        return 0
    if command == "train":
        return _train(rest)
    if command in COMMANDS:
        return int(resolve_name(COMMANDS[command][0])(rest))
    if command in RECIPES:
        raise BitdialError(f"expected a command, got the recipe '{command}'; write `bitdial train {command}`")
    kind = "flag" if command.startswith("-") else "command"
    hint = suggest(command, ["train", *COMMANDS, "--help", "--version"]) or "; `bitdial --help` lists the commands"
    raise BitdialError(f"unknown {kind} '{command}'{hint}")


def _train(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_train_help())
        return 0 if words else 2
    recipe, *rest = words
    if recipe.startswith("-"):
        raise BitdialError(f"expected a recipe before the flags, got '{recipe}'; e.g. `bitdial train cyclic {recipe}`")
    choices = find_choices(recipe)
    if "--list" in rest:
        print(choices.listed(f"bitdial train {recipe}"))
        return 0
    choices.check(recipe, rest)
    loading_torch()
    return int(resolve_name("bitdial.recipes.start:command")(find_recipe(recipe), rest))


def _help() -> str:
    summaries = {"train": "train with a recipe, e.g. `bitdial train cyclic`"}
    summaries |= {name: summary for name, (_, summary) in COMMANDS.items()}
    return f"""usage: bitdial COMMAND ...

Train neural networks whose numeric precision follows a schedule.

commands:
{_listed(summaries)}

{_recipes("recipes for train")}

  --help     this text; `bitdial COMMAND --help` tells about a command
  --version  the version"""


def _train_help() -> str:
    return f"""usage: bitdial train RECIPE [PRESET] [--config FILE.yaml] [--flag value ...]

{_recipes("recipes")}

`bitdial train RECIPE --help` lists the recipe's flags, --list its presets."""


def _recipes(title: str) -> str:
    return f"{title}:\n{_listed({name: summary for name, (_, summary) in RECIPES.items()})}"


def _listed(summaries: Mapping[str, str]) -> str:
    return "\n".join(f"  {name:<10} {summary}" for name, summary in summaries.items())


def _sentence(error: BaseException) -> str | None:
    """Return the sentence for an error that the user can put right, ``None`` for a fault of ours."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place or error.title}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r:.80}"
    if isinstance(error, BitdialError) or (isinstance(error, ValueError) and _raised_here(error.__traceback__)):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _USER_FAULTS:
        place = f" '{error.filename}'" if error.filename else ""
        return f"the system refused{place}: {error.strerror}; check the path, its rights and the free space"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return None


def _raised_here(trace: TracebackType | None) -> bool:
    """Whether an error was raised in this package; schedules raise plain `ValueError`, needing nothing of bitdial."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("bitdial.")
