"""Loading a trained network to predict with it: a packed file, a run, a file of a run, or ONNX."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from bitdial.errors import BitdialError
from bitdial.export.calibration import calibrated, weight_codes
from bitdial.export.packed import described_network, load_packed
from bitdial.layers import QuantizedLayer
from bitdial.numerics import UNQUANTIZED
from bitdial.own_files import is_place
from bitdial.recipes.saved_model import SavedModel, load_saved
from bitdial.runtime.gpu.trial import device_for
from bitdial.runtime.network import WAYS, Chosen, Network, Way, as_tensor, ways_of


def load(
    source: str | os.PathLike[str],
    *,
    threads: int | None = None,
    way: Way | None = None,
    device: str | None = None,
    activations: float | None = 8,
    model: nn.Module | None = None,
    calibration: Iterable[Any] | None = None,
) -> Network | OnnxNetwork:
    """A trained network as a function of a batch, computed by the best that the machine has.

    Args:
        source: a packed ``.safetensors``, the folder of a run (what it would ship), a file of its ``models/``, or an
            ``.onnx``, which ONNX Runtime runs with the session options that stand in it.
        threads: None: as many as PyTorch has.
        way: "kernels" (packed weights in whole numbers), "onednn" (int8 through PyTorch), "triton" (packed weights on a
            GPU) or "fake" (fake quantization); None: the first of them that the device has.
        device: "cpu", or "cuda" for a GPU; None: the CPU, but for the way "triton" a GPU.
        activations: bits, up to 8, for layers with quantized weights whose inputs were trained in floating point: the
            kernels multiply whole numbers alone. The grids reach as far as training saw. None leaves them as they are.
        model: the unquantized network, where a script brought it; quantized in place.
        calibration: batches of inputs, for layers that have not seen any in training.

    Returns:
        A network that is called with a batch ``(batch, ...)`` of numpy or torch, float32 and normalised as in training,
        and gives its outputs alike. Its attribute `chosen` says what computes it, `described` what is known of it.

    Raises:
        BitdialError: there is nothing, it is damaged, of another kind, or cannot be run here.

    Example:
        >>> import bitdial as bd
        >>> import numpy as np
        >>> from bitdial.runtime import load
        >>> results = bd.run("joint", model="tiny_cnn", steps=2, bitwidth_options=[2, 8], run_dir="runs/to_predict")
        >>> network = load("runs/to_predict", threads=1)
        >>> network(np.zeros((2, 1, 8, 8), np.float32)).shape
        (2, 10)
    """
    path = _path(source)
    count = torch.get_num_threads() if threads is None else threads
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 1024:
        raise BitdialError(f"threads must be a whole number from 1 to 1024, got {threads!r}")
    if way is not None and way not in WAYS:
        raise BitdialError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    if path.suffix == ".onnx":
        if any(each is not None for each in (way, device, model, calibration)):
            raise BitdialError(f"{path} is run by ONNX Runtime as it is; leave way, device, model and calibration out")
        return OnnxNetwork(path, count)
    if activations is not None and not (isinstance(activations, int | float) and 1 <= activations <= 8):
        raise BitdialError(f"activations must be from 1 to 8 bits, or None, got {activations!r}")
    ways_of(device_for(way, device), way)  # before anything is read
    described, trained, network = networks_of(path, model, calibration, activations)
    return Network(network, count, way, device=device, described=described, notes=changes(trained, network))


def networks_of(
    source: str | os.PathLike[str],
    model: nn.Module | None = None,
    calibration: Iterable[Any] | None = None,
    activations: float | None = 8,
) -> tuple[SavedModel, nn.Module, nn.Module]:
    """The description of a packed file or of a run, its network, and the same on static grids.

    Arguments and errors are those of `load`.
    """
    path = _path(source)
    described, network = _packed(path, model) if path.suffix == ".safetensors" else load_saved(path, model)
    if described.codec is not None:
        raise BitdialError(
            f"expected a network that predicts, got a codec of pictures in {path}; use `bitdial compress`"
        )
    static = copy.deepcopy(network)
    if activations is not None:
        for layer in _of_floats(static):
            layer.turn({"activation_bits": activations})
    return described, network, calibrated(static, calibration)


def _of_floats(network: nn.Module) -> list[QuantizedLayer]:
    """Layers whose weights are on a grid that whole numbers stand for, and whose inputs are not quantized."""
    layers = [each for each in network.modules() if isinstance(each, QuantizedLayer)]
    return [
        layer
        for layer in layers
        if layer.width("activation_bits") >= UNQUANTIZED
        and layer.activation_quantizer is None
        and not isinstance(weight_codes(layer), str)
    ]


def changes(trained: nn.Module, network: nn.Module) -> tuple[str, ...]:
    """What is not as it was trained."""
    before, after = _of_floats(trained), _of_floats(network)
    if len(before) == len(after):
        return ()
    width = next(
        layer.width("activation_bits")
        for layer in network.modules()
        if isinstance(layer, QuantizedLayer) and layer.width("activation_bits") < UNQUANTIZED
    )
    return (f"activations at {width:g} bits, which were trained in floating point",)


def _path(source: object) -> Path:
    if not isinstance(source, str | os.PathLike):
        raise BitdialError(f"source must be the path of a file or of a run, got {type(source).__name__}")
    path = Path(source)
    if not path.exists():
        raise BitdialError(f"expected a packed file, a run or an ONNX file at {path}, got nothing; check the path")
    return path


def _packed(path: Path, model: nn.Module | None) -> tuple[SavedModel, nn.Module]:
    """Description and network of a packed file, of which nothing is believed before it was checked."""
    told, stored = described_network(path)
    if told is None:
        raise BitdialError(
            f"{path} does not say which network it is of; build and quantize that, call "
            "bitdial.export.load_packed(path, model), and pass the result to bitdial.runtime.Network"
        )
    try:
        described = SavedModel.model_validate(told)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise BitdialError(f"what {path} says of its network makes no sense ({reason}); export it again") from error
    if model is None and is_place(described.model):
        raise BitdialError(
            f"the network of {path} is a function of a Python file, {described.model}, which a file to ship must not "
            "have run; load the run's folder instead, or pass the network: load(path, model=...)"
        )
    if model is None:
        _check_size(path, described, stored)
    return described, load_packed(path, _built(path, described, model)).eval()


def _built(path: Path, described: SavedModel, model: nn.Module | None = None) -> nn.Module:
    try:
        return described.build(model)
    except BitdialError:
        raise
    except Exception as error:  # whatever a builder makes of strange numbers
        reason = " ".join(str(error).split())[:200]
        raise BitdialError(f"the network that {path} describes cannot be built ({reason}); export it again") from error


def _check_size(path: Path, described: SavedModel, stored: int) -> None:
    """Refuse a description of another network than the file holds, before memory is taken for it."""
    with torch.device("meta"):
        bare = _built(path, described.model_copy(update={"quantize": None}))
    needed = sum(each.numel() for each in bare.state_dict().values())
    if needed > 2 * stored + 1024:
        raise BitdialError(
            f"{path} describes a network of {needed} numbers and holds {stored}; it is damaged or was changed, fetch "
            "it again"
        )


class OnnxNetwork:
    """A file of ONNX in ONNX Runtime, with the session options that it asks for.

    Attributes:
        chosen: what computes it.
        described: what the file says of its network; None where it says nothing.

    Raises:
        BitdialError: onnx or onnxruntime is missing, or they cannot take the file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        from bitdial.export.onnx.file import read_told
        from bitdial.export.onnx.graph import needed
        from bitdial.export.onnx.sessions import opened

        runtime = needed("onnxruntime")
        told = read_told(path) or {}
        if told.get("style") == "qonnx":
            raise BitdialError(
                f"{path} is of style qonnx, whose nodes ONNX Runtime does not know; export it again with --style qdq"
            )
        options = told.get("session_options") or {}
        if not isinstance(options, Mapping):
            raise BitdialError(
                f"the session options in {path} must be names and values, got {options!r}; export it again"
            )
        try:
            entries = {str(key): str(value) for key, value in options.items()}
            self.session = opened(os.fspath(path), entries, intra_op_num_threads=threads, inter_op_num_threads=1)
        except Exception as error:  # its errors have no class of their own
            reason = " ".join(str(error).split())[:300]
            raise BitdialError(f"ONNX Runtime {runtime.__version__} cannot run {path}: {reason}") from error
        set_here = ", ".join(f"{key}={value}" for key, value in options.items())
        self.chosen = Chosen("onnxruntime", (f"with {set_here}",) if set_here else ())
        self.described = _described(told, self.session)
        self.threads = threads

    def __call__(self, *inputs: Any) -> Any:
        """The output for a batch; arrays of numpy for arrays of numpy, else tensors.

        Raises:
            BitdialError: an input is no array of numbers, or of another shape than the network takes.
        """
        wanted = self.session.get_inputs()
        names = [each.name for each in wanted]
        if len(inputs) != len(names):
            raise BitdialError(f"the network takes {len(names)} inputs ({', '.join(names)}), got {len(inputs)}")
        given = {name: as_tensor(each).numpy() for name, each in zip(names, inputs, strict=True)}
        for value, array in zip(wanted, given.values(), strict=True):
            _check_fits(value, array)
        try:
            found = self.session.run(None, given)
        except Exception as error:  # as above
            shapes = ", ".join(str(each.shape) for each in given.values())
            reason = " ".join(str(error).split())[:200]
            raise BitdialError(f"the network cannot take inputs of the shape {shapes}: {reason}") from error
        y = found[0] if len(found) == 1 else tuple(found)
        return y if isinstance(inputs[0], np.ndarray) or not isinstance(y, np.ndarray) else torch.from_numpy(y)


def _check_fits(wanted: Any, array: np.ndarray) -> None:
    """Refuse an array of another type or shape than an input of a session."""
    kind = str(wanted.type).removeprefix("tensor(").removesuffix(")")
    kind = {"float": "float32", "double": "float64"}.get(kind, kind)
    fixed = [side if isinstance(side, int) else None for side in wanted.shape]
    alike = len(fixed) == array.ndim and all(side in (None, own) for side, own in zip(fixed, array.shape, strict=True))
    if alike and kind == str(array.dtype):
        return
    shape = ", ".join("any" if side is None else str(side) for side in fixed)
    raise BitdialError(
        f"input {wanted.name} of the network must be {kind} of the shape ({shape}), got {array.dtype} of the shape "
        f"({', '.join(map(str, array.shape))}); convert or resize it"
    )


def _described(told: Mapping[str, Any], session: Any) -> SavedModel | None:
    """What a file says of images that it takes; None where it says nothing, or takes something else."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape, classes = inputs[0].shape, outputs[0].shape
    sides: tuple[Any, ...] = tuple(shape[1:]) if len(inputs) == 1 and len(shape) == 4 else ()
    first = told.get("input")
    if (
        not isinstance(first, dict)
        or not first.get("mean")
        or not all(isinstance(side, int) for side in sides)
        or len(sides) != 3
    ):
        return None
    if len(outputs) != 1 or len(classes) != 2 or not isinstance(classes[1], int) or sides[1] != sides[2]:
        return None
    known = {"mean": first["mean"], "std": first.get("std", []), "class_names": told.get("classes") or []}
    try:
        return SavedModel(
            recipe="", arm="", seed=0, num_classes=classes[1], in_channels=sides[0], image_size=sides[1], **known
        )
    except ValidationError:
        return None
