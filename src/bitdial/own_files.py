"""Functions in a user's own files, named as ``path/to/file.py:function``."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitdial.errors import BitdialError, suggest

_PLACE = re.compile(r"(?P<file>.+\.py):(?P<function>[^:/\\]*)")


def is_place(name: object) -> bool:
    """Whether a name is that of a function in a file."""
    return isinstance(name, str) and _PLACE.fullmatch(name) is not None


def absolute(name: str) -> str:
    """A place with the whole path of its file, so that it is found from any folder; any other name as it is."""
    match = _PLACE.fullmatch(name)
    return name if match is None else f"{Path(match['file']).expanduser().absolute()}:{match['function']}"


def digest(place: str) -> str:
    """SHA-256 of the file of a place; empty where there is none."""
    file = _file_of(place)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def own_file(place: str) -> Path:
    """The file of a place.

    Raises:
        BitdialError: it is not there.
    """
    file = _file_of(place)
    if not file.is_file():
        raise BitdialError(f"expected a Python file at {file}, got nothing; check the path in {place}")
    return file


def own_function(place: str) -> Callable[..., Any]:
    """The function of a place; its file is run, and may import what lies beside it.

    Raises:
        BitdialError: no such file or function, or the file cannot be run.
    """
    file, name = own_file(place), place.rpartition(":")[2]
    module = _module(file)
    found = getattr(module, name, None)
    if not callable(found):
        here = [n for n, each in vars(module).items() if getattr(each, "__module__", None) == module.__name__]
        hint = suggest(name, here) or (f"; it has: {', '.join(here)}" if here else "")
        raise BitdialError(f"expected a function of {file} after the colon, as in file.py:function, got '{name}'{hint}")
    return found  # type: ignore[no-any-return]


def call(place: str, **known: Any) -> Any:
    """What the function of a place gives, called with those of the known values that it has parameters for.

    Raises:
        BitdialError: as `own_function`; it asks for something else, or raises.
    """
    function = own_function(place)
    parameters = inspect.signature(function).parameters.values()
    every = any(each.kind is each.VAR_KEYWORD for each in parameters)
    given = {name: value for name, value in known.items() if every or name in {each.name for each in parameters}}
    needed = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    lacking = [each.name for each in needed if each.default is each.empty and each.name not in given]
    if lacking:
        raise BitdialError(
            f"{place} must be callable with {', '.join(known) or 'no arguments'}, got a function that needs "
            f"{lacking[0]!r} too; give it a default"
        )
    try:
        return function(**given)
    except BitdialError:
        raise
    except Exception as error:
        raise BitdialError(f"{place} {_why(error, _file_of(place))}") from error


def _module(file: Path) -> Any:
    # a file that has changed, or lies elsewhere, is another module
    mark = hashlib.sha256(os.fsencode(file) + file.read_bytes()).hexdigest()
    name = f"bitdial_own_{file.stem}_{mark[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BitdialError(f"{file} cannot be run: it {_why(error, file)}") from error
    return module


def _why(error: Exception, file: Path) -> str:
    """What was raised, and at which line of the file."""
    lines = [error.lineno] if isinstance(error, SyntaxError) else []
    trace = error.__traceback__
    while trace is not None:
        lines += [trace.tb_lineno] if trace.tb_frame.f_code.co_filename == str(file) else []
        trace = trace.tb_next
    at = f" at line {lines[-1]}" if lines else ""
    return f"raises {type(error).__name__}{at}: {' '.join(str(error).split())[:200]}; put that right"


def _file_of(place: str) -> Path:
    return Path(place.rpartition(":")[0]).expanduser().absolute()
