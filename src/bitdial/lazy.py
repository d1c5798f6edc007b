"""Packages whose names are imported when they are first used; saying that torch is being loaded, which takes seconds.

What a command needs before it computes (options, help, errors) must not bring torch. The names of such a package stand
in its ``__init__.pyi``, as ``from HOME import NAME as NAME``, where type checkers read them too.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

_IMPORT = re.compile(r"^from (\S+) import (\w+) as (\w+)", re.MULTILINE)


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package, by its stub."""
    module = sys.modules[package]
    stub = Path(str(module.__file__)).with_suffix(".pyi").read_text(encoding="utf-8")
    homes = {alias: (importlib.util.resolve_name(home, package), name) for home, name, alias in _IMPORT.findall(stub)}

    def resolve(name: str) -> Any:
        if name not in homes:
            from bitdial.errors import suggest

            raise AttributeError(f"module '{package}' has no attribute '{name}'{suggest(name, homes)}")
        home, there = homes[name]
        if home == package:  # a module of its own
            return importlib.import_module(f"{home}.{there}")
        return getattr(importlib.import_module(home), there)

    return resolve, lambda: sorted({*vars(module), *homes}), sorted(homes)


def defer(package: str, *, but_for_modules: bool = False, **known: Any) -> None:
    """Have a package run when one of its names is first used.

    Args:
        package: where it is loaded already, or missing, nothing happens.
        but_for_modules: its modules are imported without it. They must not need what it does at its import: where one
            of them takes a name of the package, that imports the module a second time, which has not come to its end.
        known: names that can be used before.
    """
    spec = None if package in sys.modules else importlib.util.find_spec(package)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    path = vars(module).get("__path__") if but_for_modules else vars(module).pop("__path__", None)

    def run(name: str) -> Any:
        if f"{package}.{name}" in sys.modules:  # which is being imported
            return sys.modules[f"{package}.{name}"]
        is_asked_for_modules = name == "__path__" and path is not None  # what an import of one of them looks at
        if (name.startswith("__") and not is_asked_for_modules) or "__getattr__" not in vars(module):
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        del module.__getattr__
        if path is not None:
            module.__path__ = path
        loader.exec_module(module)
        return getattr(module, name)

    vars(module).update(known, __getattr__=run)
    sys.modules[package] = module


def later(place: str) -> Callable[..., Any]:
    """Return the function ``module:name``, whose module is imported when it is first called."""
    return lambda *arguments, **named: resolve_name(place)(*arguments, **named)


def loading_torch() -> None:
    """Tell that torch is being loaded, unless it is: whoever waits for a command should know what for."""
    if "torch" not in sys.modules and os.environ.get("LOCAL_RANK", "0") == "0":  # one of several processes says it
        print("loading torch ...", file=sys.stderr, flush=True)
