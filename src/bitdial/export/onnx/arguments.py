"""What the export is asked for: checked before anything is written, each mistake in a sentence."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError, suggest
from bitdial.trees import map_tensors, tensors


@torch.no_grad()
def run_once(reference: nn.Module, example: Any) -> None:
    """Run the network once: it then knows which layers are read, and the example is known to fit."""
    try:
        found = reference(example)
    except BitdialError:
        raise
    except Exception as error:
        raise BitdialError(
            f"the network must take the example, got {type(error).__name__}: {' '.join(str(error).split())[:200]}; "
            "give one batch of inputs as it is called with"
        ) from error
    outputs = list(tensors(found))
    if not outputs:
        raise BitdialError(f"the network must give tensors, got {type(found).__name__}; wrap it in one that does")
    if any(each.is_floating_point() and not bool(each.isfinite().all()) for each in outputs):
        raise BitdialError("the network gives NaN or infinity for the example; check the network and the example")


def checked_path(path: Any) -> Path:
    """The path of a file of ONNX."""
    if not isinstance(path, str | os.PathLike):
        raise BitdialError(f"path must be the path of a file, got {type(path).__name__}")
    target = Path(path)
    if target.is_dir():
        raise BitdialError(f"path must be a file, got the folder {target}; e.g. {target / 'model.onnx'}")
    if target.suffix != ".onnx":
        raise BitdialError(f"path must end with .onnx, got {target.name!r}; programs know these files by that")
    return target


def check_choice(option: str, value: Any, known: Sequence[str]) -> None:
    """Refuse what is none of the known values, with the nearest of them."""
    if value not in known:
        raise BitdialError(f"{option} must be one of {', '.join(known)}, got {value!r}{suggest(str(value), known)}")


def check_example(example: Any) -> None:
    """Refuse what is no batch of tensors."""
    given = list(tensors(example))
    if not given or any(not each.dim() or not len(each) for each in given):
        raise BitdialError(
            f"example must be a batch of inputs, a tensor or a tree of tensors with at least one example, got "
            f"{_shape(example)}"
        )


def _shape(example: Any) -> str:
    return f"a tensor of shape {tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__


def inputs_of(batches: Any, what: str) -> list[Any]:
    """The inputs of batches, in memory."""
    if isinstance(batches, Tensor | str | bytes) or not isinstance(batches, Iterable):
        raise BitdialError(
            f"{what} batches must be an iterable of batches, got {type(batches).__name__}; pass a loader or a list"
        )
    found = [batch[0] if isinstance(batch, (tuple, list)) else batch for batch in islice(batches, 100_000)]
    if not found:
        raise BitdialError(f"{what} batches must be at least one, got none")
    return [map_tensors(lambda x: x.cpu().float() if x.is_floating_point() else x.cpu(), each) for each in found]
