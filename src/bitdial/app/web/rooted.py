"""What options that come from a browser may name on this machine: what lies below the runs, or below a ``--root``.

Which options name files is read off their types, and looked for in the values as the command line reads them, at any
depth: quotes, groups and options inside of options hide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, get_args

from bitdial.configuration.settings import Settings
from bitdial.data.options import HUB
from bitdial.own_files import is_place

_HUB_NAME = re.compile(r"(?:\w[\w.-]*/)?\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Roots:
    """Folders in which options may name files.

    Attributes:
        runs: the folder of the runs: networks and checkpoints may come out of it, never code.
        opened: those given with ``--root``: data, networks, and files with functions that are run.
    """

    runs: Path
    opened: tuple[Path, ...] = ()

    def refusal(self, value: str, *, code: bool) -> str | None:
        """Why something may not be named; None where it may. Links are followed before it is judged.

        Args:
            value: a path, or a place of `code`, ``file.py:function``.
            code: whether it would be run.
        """
        try:
            real = Path(value.rpartition(":")[0] if code else value).expanduser().resolve()
            runs, opened = self.runs.resolve(), [each.resolve() for each in self.opened]
        except (OSError, RuntimeError, ValueError):  # a link to itself, no such user, a NUL
            return f"expected a path, got {value!r:.80}; check it"
        inside = any(real.is_relative_to(root) for root in opened)
        if code and inside and real.is_relative_to(runs):
            return f"expected a Python file outside of the runs, got {value!r:.80}; what lies among them is not run"
        if inside or (not code and real.is_relative_to(runs)):
            return None
        allowed = [*self.opened] if code else [self.runs, *self.opened]
        told = ", ".join(str(root) for root in allowed)
        what = "a Python file" if code else "a path"
        where = f"{what} below {told}" if allowed else "no Python file, as no --root is open to this page"
        return f"expected {where}, got {value!r:.80}; start the app with --root FOLDER to open one"


def refusals(values: Mapping[str, Any], known: Settings, roots: Roots) -> Iterator[tuple[str, str]]:
    """What options may not name, as the name of each option, and a sentence.

    Args:
        values: dotted name -> value, as flags or YAML are read.
        known: the options of the recipe.
        roots: where files may lie.
    """
    for name, value in values.items():
        for text, is_path in _texts(value, known, names_paths(_annotation(known, name))):
            if (fault := _refusal(text, roots, is_path)) is not None:
                yield name, fault
                break


def names_paths(annotation: Any) -> bool:
    """Whether a type holds paths: itself, as one of several, or as what a list or a mapping has."""
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return True
    return any(map(names_paths, get_args(annotation)))


def _annotation(known: Settings, name: str) -> Any:
    name = known.canonical(name)
    return known[name].annotation if name in known else None


def _texts(value: Any, known: Settings, is_path: bool) -> Iterator[tuple[str, bool]]:
    """All texts in a value, each with whether it is a path; an option inside of a value is one as outside of it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), False
            yield from _texts(inner, known, is_path or names_paths(_annotation(known, str(key))))
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _texts(inner, known, is_path)
    elif isinstance(value, str | PurePath):
        yield str(value), is_path or isinstance(value, PurePath)


def _refusal(text: str, roots: Roots, is_path: bool) -> str | None:
    if is_place(text):
        return roots.refusal(text, code=True)
    if text.startswith(HUB) and not is_path:
        name = text.removeprefix(HUB)  # of a folder, the package would load that instead
        if not _HUB_NAME.fullmatch(name) or Path(name).exists():
            return f"expected {HUB}OWNER/NAME as on the Hugging Face Hub, got {text!r:.80}; it names a folder"
        return None
    if not is_path or text.strip().lower() in ("", "none", "null"):
        return None
    return roots.refusal(text, code=False)
