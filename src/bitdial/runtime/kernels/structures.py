"""The structures of the C sources, field by field, and the compiled library."""

from __future__ import annotations

import ctypes
import functools
import os
from importlib.resources import files
from typing import Any

from bitdial.numerics.native.build import UnavailableError, flags_of_processor, library
from bitdial.runtime.kernels.micro import sum_chunk, sum_pairs, sum_wide

SOURCES = (
    "tensor.c", "finish.c", "dot.c", "convolution.c", "winograd.c", "depthwise.c", "floating.c", "shaping.c",
    "program.c",
)  # fmt: skip
_AFTER = "dot.c"  # what micro.py writes comes behind it

_LONG, _INT, _FLOAT, _POINTER = ctypes.c_int64, ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


def _fields(**groups: Any) -> list[tuple[str, Any]]:
    """Fields in order: names with an underscore for a space -> type."""
    return [(name, kind) for names, kind in groups.values() for name in names.split()]


class Tensor(ctypes.Structure):
    """See tensor.c."""

    _fields_ = _fields(
        a=("offset image row", _LONG), b=("pixel top left height width rows channels external", _INT)
    )  # fmt: skip


class Finish(ctypes.Structure):
    """See finish.c."""

    _fields_ = _fields(
        a=("act has_residual to_float to_codes", _INT),
        b=("low high left_slope left_offset right_slope right_offset inverse", _FLOAT),
        c=("zero last cells", _INT),
        d=("table scale bias shift", _POINTER),
        e=("residual values codes", Tensor),
    )


class Segment(ctypes.Structure):
    """See convolution.c."""

    _fields_ = _fields(a=("offset steps", _LONG))


class Convolution(ctypes.Structure):
    """See convolution.c."""

    _fields_ = _fields(
        a=("finish", Finish),
        b=("input", Tensor),
        c=("base down right", _LONG),
        d=("height width groups outputs", _INT),
        e=("group", _LONG),
        f=("wide tiled bits stride least segments", _INT),
        g=("steps", _LONG),
        h=("segment weights", _POINTER),
    )


ALWAYS = 2
"""`Convolution.tiled`: in tiles, also where all products cost less."""


class Depthwise(ctypes.Structure):
    """See depthwise.c."""

    _fields_ = _fields(
        a=("finish", Finish),
        b=("input", Tensor),
        c=("base down right", _LONG),
        d=("height width channels pairs", _INT),
        e=("taps weights", _POINTER),
    )


class Floating(ctypes.Structure):
    """See floating.c."""

    _fields_ = _fields(
        a=("finish", Finish),
        b=("input", Tensor),
        c=("height width down right groups outputs inputs taps", _INT),
        d=("tap weights zeros", _POINTER),
    )


class Each(ctypes.Structure):
    """See floating.c."""

    _fields_ = _fields(a=("finish", Finish), b=("input", Tensor), c=("scaled", _INT))


class Pool(ctypes.Structure):
    """See shaping.c."""

    _fields_ = _fields(
        a=("finish", Finish),
        b=("input", Tensor),
        c=("height width down right above before tall wide apart_down apart_right", _INT),
        d=("largest divisor behind_down behind_right", _INT),
    )


class Join(ctypes.Structure):
    """See shaping.c."""

    _fields_ = _fields(a=("input output", Tensor), b=("channel", _INT))


class Order(ctypes.Structure):
    """See shaping.c."""

    _fields_ = _fields(a=("inner outer", Tensor), b=("inwards", _INT))


class Step(ctypes.Structure):
    """See program.c."""

    _fields_ = _fields(a=("kind", _LONG), b=("operation", _POINTER))


class Program(ctypes.Structure):
    """See program.c."""

    _fields_ = _fields(a=("steps", _POINTER), b=("count image scratch taps", _LONG))


KINDS: tuple[type[ctypes.Structure], ...] = (Convolution, Depthwise, Floating, Each, Pool, Join, Order)
"""In the order of the numbers in program.c."""


def source() -> bytes:
    """All of the C source, in one."""
    folder = files("bitdial.runtime.kernels")
    parts = []
    for name in SOURCES:
        parts.append(folder.joinpath(name).read_text(encoding="utf-8"))
        if name == _AFTER:
            parts += ["#ifndef DOT", sum_chunk(), sum_wide(), sum_pairs(), "#endif"]
    return "\n".join(parts).encode()


UNITS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni")
"""What the speed of products of small numbers depends on, as the flags of a processor are called."""


def vector_units() -> list[str]:
    """Those of `UNITS` that this processor has."""
    flags = set(flags_of_processor().split())
    return [unit for unit in UNITS if unit in flags]


class Library:
    """The compiled functions; they let go of the interpreter's lock, so several threads can run at once."""

    def __init__(self, path: str) -> None:
        # GNU's OpenMP or another's: the one that torch has loaded.
        import torch  # noqa: F401

        loaded = ctypes.CDLL(path)
        self.run, self.workspace = loaded.bitdial_run, loaded.bitdial_workspace
        self.run.argtypes = [_POINTER, _POINTER, _LONG, _LONG, _LONG, _POINTER]
        self.run.restype = None
        self.workspace.argtypes, self.workspace.restype = [_POINTER, _LONG, _LONG, _LONG], _LONG
        self.dot, self.in_tiles = loaded.bitdial_dot, loaded.bitdial_in_tiles
        self.dot.argtypes, self.dot.restype = [], _LONG
        self.in_tiles.argtypes, self.in_tiles.restype = [_POINTER, _LONG], _LONG


@functools.cache
def compiled() -> Library:
    """The library, compiled at its first use.

    Raises:
        UnavailableError: there is none on this machine, and why.
    """
    if os.environ.get("BITDIAL_NATIVE") == "0":
        raise UnavailableError("BITDIAL_NATIVE=0 keeps them out")
    try:
        return Library(str(library(source())))
    except OSError as error:
        raise UnavailableError(str(error)) from error
