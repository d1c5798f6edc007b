"""SHIP: packed files and files of ONNX. The package can be called: ``bitdial.export(model, "model.onnx", x)``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError
from bitdial.export.calibration import ActivationGrid as ActivationGrid
from bitdial.export.calibration import WeightCodes as WeightCodes
from bitdial.export.calibration import activation_grid as activation_grid
from bitdial.export.calibration import calibrated as calibrated
from bitdial.export.calibration import weight_codes as weight_codes
from bitdial.export.container import DamagedPackedFile as DamagedPackedFile
from bitdial.export.contents import StoredWeight as StoredWeight
from bitdial.export.onnx.writing import OnnxFile as OnnxFile
from bitdial.export.onnx.writing import export_onnx as export_onnx
from bitdial.export.packed import load_packed as load_packed
from bitdial.export.packed import save_packed as save_packed
from bitdial.export.sizes import PackedSizes as PackedSizes
from bitdial.export.sizes import packed_sizes as packed_sizes

if TYPE_CHECKING:
    from torch import nn


class _Export(ModuleType):
    """This package, which writes a network when it is called."""

    def __call__(
        self, model: nn.Module, path: str | os.PathLike[str], example: Any = None, **options: Any
    ) -> OnnxFile | Path:
        """Write a network as a file to ship, of the kind that the path's ending names.

        Args:
            model: bare or wrapped; it stays as it is.
            path: ``.onnx``: a file of ONNX, see `export_onnx`; ``.safetensors``: a packed file, see `save_packed`.
            example: one batch of inputs, for ONNX.
            **options: those of `export_onnx` or `save_packed`.

        Returns:
            What was written: an `OnnxFile`, or the path of a packed file.

        Raises:
            BitdialError: another ending, or what `export_onnx` and `save_packed` refuse.
        """
        ending = Path(path).suffix if isinstance(path, str | os.PathLike) else None
        if ending == ".safetensors":
            return save_packed(model, path, **options)
        if ending != ".onnx":
            got = repr(os.fspath(path)) if ending is not None else type(path).__name__
            raise BitdialError(f"path must end with .onnx or .safetensors, got {got}; the ending says what is written")
        return export_onnx(model, path, example, **options)


sys.modules[__name__].__class__ = _Export
export: _Export = sys.modules[__name__]  # type: ignore[assignment]  # it has just become one
