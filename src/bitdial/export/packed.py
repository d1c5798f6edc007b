"""Packed files: a quantized model in one safetensors file, its weights in their real bits, and back, bit for bit.

The layout is described in ``docs/packed_format.md``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from bitdial.errors import BitdialError, suggest
from bitdial.export.container import DamagedPackedFile, check_path, read_file, to_bytes, write_file
from bitdial.export.contents import (
    LayerRecord,
    StoredWeight,
    bare,
    describe,
    encode_layer,
    packs,
    plain_tensors,
    quantized_layers,
    store,
)
from bitdial.export.encoding import Encoded, Trits, decode
from bitdial.layers import QuantizedLayer

ENCODINGS = get_args(Trits)
CODES, SCALES = "weight.packed", "weight.scales"
_RECORDS = TypeAdapter(dict[str, LayerRecord])


def save_packed(
    model: nn.Module,
    path: str | os.PathLike[str],
    encoding: Trits = "base3",
    *,
    description: Mapping[str, Any] | None = None,
) -> Path:
    """Write a quantized model to one file, its weights in the bits that the dial gives them now.

    Ternary weights take 1.6 bits each (``"base3"``, five trits a byte) or 2; weights on a grid of up to 8 bits take
    theirs; layers at 32 bits, biases, norms, buffers and whatever is not quantized are stored as they are. The file
    appears whole or not at all.

    Args:
        model: one that went through `bitdial.quantize`; bare, compiled or wrapped.
        path: the file, by custom ``NAME.safetensors``; its folder is made where it is missing.
        encoding: of ternary weights.
        description: what the file is to say of its network, as plain values; `network_of` reads it.

    Returns:
        The path.

    Raises:
        BitdialError: no quantized layer, a width between 8 and 32 bits, weights that are not finite, a state that is
            not made of whole tensors, a path that cannot be written.

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> from bitdial.export import load_packed, save_packed
        >>> def network():
        ...     return bd.quantize(torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)]), weights=4)
        >>> net = network().eval()
        >>> file = save_packed(net, "network.safetensors")
        >>> x = torch.randn(2, 8)
        >>> torch.equal(load_packed(file, network()).eval()(x), net(x))
        True
    """
    check_path(path)
    return write_file(path, packed_bytes(model, encoding, description))


def packed_bytes(model: nn.Module, encoding: Trits = "base3", description: Mapping[str, Any] | None = None) -> bytes:
    """The content of the file that `save_packed` writes."""
    inner = bare(model)
    if encoding not in ENCODINGS:
        known = " or ".join(ENCODINGS)
        raise BitdialError(f"encoding must be {known}, got {encoding!r}{suggest(str(encoding), ENCODINGS)}")
    layers = quantized_layers(inner)
    tensors = plain_tensors(inner, [name for name, layer in layers.items() if packs(layer)])
    records: dict[str, Any] = {}
    for name, layer in layers.items():
        encoded = encode_layer(name, layer, encoding) if packs(layer) else None
        records[name] = describe(layer, encoded).model_dump(exclude_defaults=True)
        if encoded is not None:
            tensors[key_of(name, CODES)] = encoded.codes
            tensors[key_of(name, SCALES)] = encoded.scales
    told = {} if description is None else {"network": dict(description)}
    return to_bytes(tensors, {"encoding": encoding, "layers": records, **told})


def network_of(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a packed file says of its network, or None where it says nothing.

    Raises:
        DamagedPackedFile: any byte of the file differs from what was written, or bytes are missing.
        BitdialError: another kind of file, or one that cannot be read.
    """
    described = read_file(path)[1].get("network")
    return described if isinstance(described, dict) else None


def described_network(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, int]:
    """What a packed file says of its network, and how many numbers it holds, so that the two can be compared.

    Raises:
        DamagedPackedFile: any byte of the file differs from what was written, or its layers make no sense.
        BitdialError: another kind of file, or one that cannot be read.
    """
    tensors, description = read_file(path)
    records = _records(path, description)
    packed = {key_of(name, part) for name, record in records.items() if record.form for part in (CODES, SCALES)}
    count = sum(math.prod(record.shape) for record in records.values() if record.form)
    count += sum(tensor.numel() for key, tensor in tensors.items() if key not in packed)
    described = description.get("network")
    return described if isinstance(described, dict) else None, count


def load_packed(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Load a packed file into a model, in place: the whole file, or nothing of it.

    The model must be built and quantized as the saved one was (`bitdial.quantize` with the same quantizer, granularity
    and skipped layers; its widths do not matter). Its quantized weights, and so its outputs in evaluation, then equal
    the saved model's bit for bit. They lie on their grid for good: turning the dial changes activations only, and they
    get no gradient. The weights are held as ordinary floating-point values.

    Args:
        path: what `save_packed` wrote.
        model: bare, compiled or wrapped.

    Returns:
        The model.

    Weights on nested grids (``quantize(..., nested=True)``) are the exception: a dial turns them to any width up to the
    one that they were stored at, each the topmost bits of what the file holds.

    Raises:
        DamagedPackedFile: any byte of the file differs from what was written, or bytes are missing.
        BitdialError: another kind of file, an unknown version, a file that cannot be read, another model.
    """
    inner = bare(model)
    tensors, description = read_file(path)
    records = _records(path, description)
    layers = quantized_layers(inner)
    _check_layers(path, records, layers)
    weights = {name: _decoded(path, name, record, tensors) for name, record in records.items() if record.form}
    targets = plain_tensors(inner, weights)
    _check_tensors(path, tensors, targets)
    _copy(tensors, targets)
    for name, weight in weights.items():
        store(layers[name], weight)
    return model


def _records(path: str | os.PathLike[str], description: Mapping[str, Any]) -> dict[str, LayerRecord]:
    try:
        return _RECORDS.validate_python(description.get("layers"))
    except ValidationError as error:
        raise DamagedPackedFile(path, f"its description of the layers makes no sense ({_first(error)})") from error


def _copy(tensors: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    """Copy every tensor to its target, and undo all if one cannot be written."""
    before: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        try:
            for key, target in targets.items():
                before.append((target, target.clone()))
                target.copy_(tensors[key])
        except RuntimeError as error:
            for target, value in before:
                with suppress(RuntimeError):  # the one that could not be written still has its value
                    target.copy_(value)
            raise BitdialError(f"model must be writable, got {error}; build it outside inference mode") from error


def key_of(name: str, part: str) -> str:
    """The name of a part of a layer in the file."""
    return f"{name}.{part}" if name else part


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'layers'}: {first['msg']}"


def _check_layers(
    path: str | os.PathLike[str], records: dict[str, LayerRecord], layers: dict[str, QuantizedLayer]
) -> None:
    for name in {**records, **layers}:
        if name not in layers or name not in records:
            where = _only_in(name not in layers)
            raise _misfit(path, f'layer "{name}" is quantized {where}; build and quantize the model as it was saved')
        record, own = records[name], describe(layers[name], None)
        if record.form is None and isinstance(layers[name].weight_quantizer, StoredWeight):
            raise BitdialError(
                f'layer "{name}" of the model holds weights from a packed file and cannot take the unquantized ones of '
                f"{os.fspath(path)}; build and quantize the model anew"
            )
        for part in ("kind", "options", "quantizer", "activations", "granularity", "shape", "dtype"):
            if getattr(record, part) != getattr(own, part):
                raise _misfit(
                    path,
                    f'layer "{name}" has {part} {getattr(record, part)} in the file and {getattr(own, part)} in the '
                    "model; build and quantize the model as it was saved",
                )


def _decoded(path: str | os.PathLike[str], name: str, record: LayerRecord, tensors: dict[str, Tensor]) -> Encoded:
    """The weight of a layer in its packed form, which is taken out of `tensors` and makes sense."""
    codes, scales = (tensors.pop(key_of(name, part), None) for part in (CODES, SCALES))
    if codes is None or scales is None:
        raise DamagedPackedFile(path, f'the weights of layer "{name}" are missing')
    assert record.form is not None
    shape, dtype = tuple(record.shape), getattr(torch, record.dtype)
    try:
        encoded = Encoded(record.form, record.levels, record.groups, shape, dtype, codes, scales)
        decode(encoded)
        return encoded
    except BitdialError as error:
        raise DamagedPackedFile(path, f'the weights of layer "{name}" make no sense: {error}') from error


def _check_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], targets: dict[str, Tensor]) -> None:
    for key in {**tensors, **targets}:
        mine, given = targets.get(key), tensors.get(key)
        if mine is None or given is None:
            raise _misfit(path, f"{key} is {_only_in(mine is None)}; build and quantize the model as it was saved")
        if mine.shape != given.shape or mine.dtype != given.dtype:
            raise _misfit(
                path,
                f"{key} is {given.dtype} {tuple(given.shape)} in the file and {mine.dtype} {tuple(mine.shape)} in the "
                "model; build the model as it was saved",
            )


def _only_in(file: bool) -> str:
    return "in the file and not in the model" if file else "in the model and not in the file"


def _misfit(path: str | os.PathLike[str], what: str) -> BitdialError:
    return BitdialError(f"packed file {os.fspath(path)} must fit the model: {what}")
