"""The file of a trained network: what it is built from, and its state; one form for every recipe."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from bitdial.compression.models import CodecOptions, build_codec_model
from bitdial.errors import BitdialError
from bitdial.evaluation.sweep import RECALIBRATION_LIMIT
from bitdial.files import write_atomically
from bitdial.layers import (
    BitDial,
    QuantizedLayer,
    batch_norm_per_width,
    quantize,
    reestimate_batch_norm,
    skipped_layers,
)
from bitdial.layers.names import named_as, unwrapped
from bitdial.models import build_model, build_signal_model, own_network
from bitdial.numerics import TERNARY_BITS, UNQUANTIZED
from bitdial.options import Config
from bitdial.own_files import digest, is_place
from bitdial.training import RunFolder

if TYPE_CHECKING:
    from bitdial.compression.codec import Codec

SCHEMA_VERSION: Final = 2


class SavedSignals(Config):
    """What a network of recordings takes."""

    shapes: dict[str, tuple[int, int, int]]
    """Modality -> channels, intervals and samples of a segment, transformed."""
    transform: Literal["fft", "rfft", "none"]
    """How it is made of the samples; then `mean` is subtracted and divided by `std`, channel by channel."""


class SavedTables(Config):
    """Tables of counts that symbols are coded by; see `bitdial.compression.coding.tables.Tables`."""

    counts: list[int]
    """Of one table after the other."""
    sizes: list[int]
    """How many counts each table has."""
    lowest: list[int]
    """The number that the first count of each table belongs to."""


class SavedCodec(Config):
    """What a codec of pictures is, besides its network."""

    options: CodecOptions = CodecOptions()
    """What the network is built with."""
    model_id: str = ""
    """What compressed files name it by."""
    tables: list[SavedTables] = []
    """By scale and by channel, as they were made when the codec was saved."""

    @classmethod
    def of(cls, codec: Codec, options: CodecOptions) -> SavedCodec:
        """Of a codec whose network was built with such options."""
        arrays = [{name: getattr(each, name).tolist() for name in SavedTables.model_fields} for each in codec.tables]
        return cls(options=options, model_id=codec.model_id, tables=[SavedTables(**each) for each in arrays])

    def of_network(self, model: nn.Module) -> Codec:
        """The codec of a network with the tables that it was saved with.

        Raises:
            BitdialError: the file holds no tables, or other weights than those that it was saved with.
        """
        from bitdial.compression.codec import Codec  # needs constriction, as nothing else here does
        from bitdial.compression.coding.tables import Tables

        if len(self.tables) != 2:
            raise BitdialError("expected a trained codec, got a network whose training has not ended; resume its run")
        by_scale, by_channel = (Tables(*(np.array(v) for v in each.model_dump().values())) for each in self.tables)
        made = Codec(model, (by_scale, by_channel))  # type: ignore[arg-type]
        if made.model_id != self.model_id:
            raise BitdialError(
                f"expected the codec {self.model_id}, got {made.model_id}: its file was changed or damaged; fetch "
                "it again"
            )
        return made


class SavedModel(Config):
    """What a trained network is built from, and what is needed to use it."""

    schema_version: Literal[2] = SCHEMA_VERSION
    """Version of the format."""
    recipe: str
    """The recipe that trained it."""
    arm: str
    """The arm that it comes from."""
    seed: int
    """Its seed."""
    model: str | None = None
    """Network, by name; none: a network of a script, which must be given to load it."""
    source: str = ""
    """SHA-256 of the file of a network of one's own, ``file.py:function``, as it was when this was saved."""
    quantize: dict[str, Any] | None = None
    """What `bitdial.quantize` was called with (``batch_norm_widths``: what `batch_norm_per_width` was called with after
    it, where it was); none: never."""
    num_classes: int | None = None
    """Classes it tells apart."""
    in_channels: int | None = None
    """Channels of an image."""
    image_size: int | None = None
    """Side of an image in pixels."""
    signals: SavedSignals | None = None
    """What it takes of recordings; none: it takes images."""
    codec: SavedCodec | None = None
    """What a codec of pictures is; none: it is no codec."""
    dataset: str = ""
    """What it was trained on."""
    examples: dict[str, dict[str, int | str | None]] = {}
    """Number and digest of the examples that it was trained (train), chosen (validation) and tested on (test)."""
    mean: list[float] = []
    """Mean of the images per channel, as a share of 255 where they are 8-bit; of recordings the minimum."""
    std: list[float] = []
    """Their standard deviation, in the same unit; of recordings the span."""
    class_names: list[str] = []
    """Names of the classes, in the order of the outputs."""
    bits: dict[str, float] = {}
    """Width of the weights of each quantized layer."""
    skipped_layers: dict[str, str] = {}
    """Layers that were left unquantized, each with the reason."""

    @property
    def key(self) -> str:
        """Arm and seed in one."""
        return f"{self.arm}-seed{self.seed}"

    @property
    def is_quantized(self) -> bool:
        """Whether anything in it is."""
        return bool(self.bits)

    def build(self, model: nn.Module | None = None) -> nn.Module:
        """The network with new weights; draws no random numbers from torch's global generators.

        Args:
            model: the unquantized network, where the file cannot name it; quantized in place.

        Raises:
            BitdialError: the file names no network, and none is given.
        """
        if model is None and self.model is None:
            raise BitdialError(
                "this network was brought by a script and cannot be built by name; give it too: "
                "bitdial.load(path, model=...)"
            )
        names = ("num_classes", "in_channels", "image_size")
        shape: dict[str, Any] = {name: getattr(self, name) for name in names}
        with torch.random.fork_rng(devices=[]):
            if model is None and self.codec is not None:
                model = build_codec_model(self.model or "", self.codec.options)
            elif model is None and self.signals is not None:
                shapes = self.signals.shapes
                model = build_signal_model(self.model or "", num_classes=self.num_classes or 0, shapes=shapes)
            elif model is None and is_place(self.model):
                model = own_network(self.model or "", **shape)
            elif model is None:
                model = build_model(self.model or "", **shape)
            return quantized(model, self.quantize)

    def notes(self) -> list[str]:
        """What whoever builds it should know: that the file which makes it is another one now."""
        place = self.model or ""
        if self.source in ("", digest(place)):
            return []
        return [f"{place.rpartition(':')[0]} has changed since this network was saved: it may compute something else"]

    def noise(self, count: int) -> Any:
        """Inputs of the network's shape, always the same."""
        generator = torch.Generator().manual_seed(0)
        if self.signals is not None:
            return {n: torch.rand(count, *s, generator=generator) for n, s in self.signals.shapes.items()}
        if self.codec is not None:
            return torch.rand(count, 3, 64, 64, generator=generator)
        size = self.image_size or 32
        return torch.randn(count, self.in_channels or 3, size, size, generator=generator)

    def described(self, model: nn.Module) -> SavedModel:
        """The same with what is to be said of the layers of a network."""
        layers = dict(bits_of(model))
        return self.model_copy(update={"bits": layers, "skipped_layers": skipped_layers(model) if layers else {}})

    def packed(self) -> dict[str, Any]:
        """As plain values, without what a packed file says anyhow."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude={"bits", "skipped_layers", "examples"})

    def save(self, model: nn.Module, path: Path) -> Path:
        """Write the file of a network, its dial and its batch-norm statistics, atomically."""
        described = self.described(model)
        state = {key: value.detach().cpu() for key, value in unwrapped(model).state_dict().items()}
        buffer = io.BytesIO()
        torch.save({**described.model_dump(mode="json"), "model_state_dict": state}, buffer)
        return write_atomically(path, buffer.getvalue())


def dialled(model: nn.Module, bits: float | Sequence[float], batches: Iterable[Any]) -> nn.Module:
    """A network at the widths that it ships at, its batch-norm statistics re-estimated there.

    What is saved then scores what was measured, without anything being re-estimated again.
    """
    BitDial(model).set(bits)
    reestimate_batch_norm(model, batches, limit=RECALIBRATION_LIMIT)
    return model


def quantized(model: nn.Module, how: dict[str, Any] | None) -> nn.Module:
    """A model quantized as is said, unless it is quantized already or is not to be."""
    if how is None or any(isinstance(module, QuantizedLayer) for module in model.modules()):
        return model
    options = dict(how)
    widths = options.pop("batch_norm_widths", None)
    quantize(model, **options)
    has_norms = any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) for module in model.modules())
    return batch_norm_per_width(model, widths) if widths is not None and has_norms else model


def bits_of(model: nn.Module) -> list[tuple[str, float]]:
    """Name and weight width of every quantized layer."""
    if not any(isinstance(module, QuantizedLayer) for module in model.modules()):
        return []
    dial = BitDial(model)
    return list(zip(dial.names, dial.weights, strict=True))


def read_saved(path: Path) -> tuple[SavedModel, dict[str, Any]]:
    """The description and the state of a file that `SavedModel.save` wrote, now or in an earlier version.

    Raises:
        BitdialError: there is no such file, it is damaged, or of another format.
    """
    if not path.is_file():
        raise BitdialError(f"expected a trained network at {path}, got nothing; a run writes it at its end")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = content.pop("model_state_dict")
        version = content.get("schema_version")
        content = _from_version_1(content) if version == 1 else content
        return SavedModel.model_validate(content), state
    except ValidationError as error:
        raise BitdialError(
            f"{path} must be a trained network of schema_version {SCHEMA_VERSION}, got another format "
            f"({error.errors()[0]['msg']}); use the version of bitdial that wrote it"
        ) from error
    except Exception as error:  # torch raises whatever a strange file makes it stumble over
        raise BitdialError(f"{path} is not a trained network, or it is damaged; run the recipe again") from error


def load_saved(path: str | os.PathLike[str], model: nn.Module | None = None) -> tuple[SavedModel, nn.Module]:
    """The description and the network of a file, in evaluation mode, its dial where it ships.

    Args:
        path: the file, or the folder of a run, for the network that it would ship.
        model: the network to load into, where the file cannot name it.

    Raises:
        BitdialError: as `read_saved`; the run keeps none; the state does not fit the network.
    """
    path = Path(path)
    if path.is_dir():
        path = first_network(RunFolder.open(path))[2]
    described, state = read_saved(path)
    network = described.build(model)
    load_weights(network, named_as(network, state), f"{path} does", "give the one it was made with")
    return described, network.eval()


def saved_networks(run: RunFolder) -> dict[str, Path]:
    """The files of trained networks that a run keeps, by name, those that it recommends first."""
    best = sorted(run.path.glob("*_best_model.pt"))
    return {file.stem: file for file in [*best, *sorted(run.models.glob("*.pt"))]}


def first_network(run: RunFolder) -> tuple[str, SavedModel, Path]:
    """Name, description and file of the network that a run would ship: the first with quantized weights.

    Raises:
        BitdialError: the run keeps none.
    """
    found = [(name, read_saved(file)[0], file) for name, file in saved_networks(run).items()]
    if not found:
        raise BitdialError(f"{run.path} has no trained network; finish its run first, with --resume {run.path}")
    return next((each for each in found if each[1].is_quantized), found[0])


def load_weights(model: nn.Module, weights: Mapping[str, Any], these: str, advice: str) -> None:
    """Load weights whose names are the network's own.

    Args:
        model: the network.
        weights: all of it.
        these: what they are, with a verb: "FILE does".
        advice: what to do where they do not fit.

    Raises:
        BitdialError: they do not fit.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise BitdialError(f"{these} not fit the network: {reason[:300]}; {advice}") from error


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """What the cyclic and the ternary recipe wrote when each had a form of its own."""
    shared = ("seed", "dataset", "mean", "std", "class_names")
    new: dict[str, Any] = {name: content[name] for name in shared if name in content}
    if "network" in content:  # ternary
        network = dict(content["network"])
        ternary = network["quantizer"] != "none"
        how = {
            "weights": TERNARY_BITS if ternary else UNQUANTIZED,
            "activations": network["activation_bits"],
            "quantizer": network["quantizer"] if ternary else "uniform",
            "granularity": network["granularity"],
            "skip": network["skip_layers"],
        }
        is_quantized = ternary or network["activation_bits"] < UNQUANTIZED
        new |= {name: network[name] for name in ("model", "num_classes", "in_channels", "image_size")}
        bits = {"(all)": float(how["weights"])} if is_quantized else {}
        return {
            **new,
            "recipe": "ternary",
            "arm": content["experiment"],
            "quantize": how if bits else None,
            "bits": bits,
        }
    options = content["model"]
    gradients = None if content["gradient_bits"] == UNQUANTIZED else content["gradient_bits"]
    how = {
        "weights": options["default_bit_width"],
        "activations": options["default_bit_width"],
        "gradients": gradients,
        "quantizer": options["quantizer"],
        "granularity": options["granularity"],
        "skip": options["skip_layers"],
    }
    new |= {name: content[name] for name in ("num_classes", "in_channels", "image_size", "bits", "skipped_layers")}
    return {**new, "recipe": "cyclic", "arm": content["arm"], "model": options["name"], "quantize": how}
